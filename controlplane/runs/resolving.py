"""A runbook's text and a request become inputs with values and steps that are ready to run.

Called by `planning`. The last step may stand for another runbook's: its steps are put in its place, under names of
their own, with inputs of their own; what that runbook verifies and does after a failure is not taken. Pure.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from controlplane import expressions
from controlplane.domain import errors, outcomes, plans, services
from controlplane.runs.language import checks, library, links, models

_Inputs = Mapping[str, outcomes.Json]


def inputs(book: library.Runbook, request: plans.PlanRequest) -> dict[str, outcomes.Json]:
    """Return the checked value of every input: as given, from the request's target, or the default."""
    return {name: _input(name, one, request) for name, one in book.spec.inputs.items()}


def node_of(book: library.Runbook, values: _Inputs) -> str:
    """Return the node that an input of type node names, or the empty name."""
    return next((str(values[name]) for name, one in book.spec.inputs.items() if one.type == "node"), "")


def _input(name: str, declared: models.Input, request: plans.PlanRequest) -> outcomes.Json:
    place = f"inputs.{name}"
    value = request.inputs.get(name)
    target = {"service": request.service, "node": request.node}.get(declared.type)
    if target is not None and value == "":  # a policy's `${finding.node}` is empty for a whole service
        value = None
    if value is not None and target and value != target:
        raise errors.InvalidInputError(f"names {value!r}, but the request is for {target!r}", place=place)
    value = next((one for one in (value, target or None, declared.default) if one is not None), None)
    if value is None:
        return _missing(name, declared, request)
    try:
        return declared.value(value)
    except ValueError as error:
        raise errors.InvalidInputError(str(error), place=place) from error


def _missing(name: str, declared: models.Input, request: plans.PlanRequest) -> outcomes.Json:
    """Return the empty name for a target that may be left out; refuse everything else."""
    if declared.is_required:
        hint = "name it with --node" if declared.type == "node" else f"give it as input {name}"
        raise errors.InvalidInputError(f"runbook {request.runbook} needs it; {hint}", place=f"inputs.{name}")
    return ""


def steps(
    book: library.Runbook, other: library.Runbook | None, request: plans.PlanRequest, service: services.Service
) -> tuple[plans.PlannedStep, ...]:
    """Return the steps of `book` in order, with those of `other` where its last one includes them.

    The request's inputs are resolved already. Raises InvalidInputError that names the step.
    """
    resolver = _Resolver(request, service)
    including = links.included_by(book.spec)
    planned = [resolver.step(one, request.inputs) for one in book.spec.steps if one is not including]
    if including is not None and other is not None:
        planned += resolver.included(including, other)
    return tuple(planned)


class _Resolver:
    """Resolves the steps of one plan; `plan` in conditions is that plan, also in included steps."""

    def __init__(self, request: plans.PlanRequest, service: services.Service) -> None:
        self._request = request
        target = f"{request.service}/{request.node}" if request.node else request.service
        self._known = {
            "service": expressions.service_variables(service),
            "plan": {
                "runbook": request.runbook,
                "service": request.service,
                "node": request.node,
                "target": target,
            },
        }

    def step(self, step: models.Step, values: _Inputs) -> plans.PlannedStep:
        """Return a step with everything resolved that is known before it runs."""
        try:
            return dataclasses.replace(
                self._step(step, values),
                on_failure=None if step.on_failure is None else edges(step.on_failure),
                continue_on_failure=step.continue_on_failure,
                when=step.when or "",
                decided=self._decided(step.when, values),
            )
        except errors.InvalidInputError as error:
            raise errors.InvalidInputError(str(error), place=f"step {step.name}") from error

    def _step(self, step: models.Step, values: _Inputs) -> plans.PlannedStep:
        if step.wait is not None:
            return _wait(step.name, step.wait)
        if step.approval is not None:
            return self._approval(step.name, step.approval, values)
        return plans.PlannedStep(
            name=step.name,
            kind=plans.StepKind.ACTION,
            timeout_seconds=step.timeout or models.DEFAULT_ACTION_TIMEOUT_SECONDS,
            action=step.action or "",
            params=self._params(step, values),
            max_attempts=step.attempts or models.DEFAULT_ATTEMPTS,
        )

    def _params(self, step: models.Step, values: _Inputs) -> dict[str, outcomes.Json]:
        variables = {**self._known, "inputs": dict(values)}
        return {name: expressions.resolve(value, variables) for name, value in step.params.items()}

    def _approval(self, name: str, asked: models.Approval, values: _Inputs) -> plans.PlannedStep:
        prompt = expressions.resolve(asked.prompt, {**self._known, "inputs": dict(values)})
        if not isinstance(prompt, str) or not prompt or len(prompt) > models.MAX_PROMPT or not prompt.isprintable():
            most = f"at most {models.MAX_PROMPT} printable characters"
            raise errors.InvalidInputError(f"the prompt must be text of {most}, got {prompt!r:.200}")
        return plans.PlannedStep(
            name=name,
            kind=plans.StepKind.APPROVAL,
            timeout_seconds=asked.expires,
            prompt=prompt,
            quorum=asked.quorum,
        )

    def _decided(self, when: str | None, values: _Inputs) -> bool | None:
        """Return the answer of a condition that the request alone decides; None for one that looks at the fleet."""
        if when is None or not expressions.is_timeless(when):
            return None
        return expressions.Conditions().is_true(when, {**self._known, "inputs": dict(values)})

    def included(self, including: models.Step, other: library.Runbook) -> list[plans.PlannedStep]:
        """Return another runbook's steps under the including step's name."""
        try:
            values = self._inputs_of(including, other)
            planned = [self.step(one, values) for one in other.spec.steps]
        except errors.InvalidInputError as error:
            raise errors.InvalidInputError(str(error), place=f"step {including.name}") from error
        return [_spliced(one, including.name, values) for one in planned]

    def _inputs_of(self, including: models.Step, other: library.Runbook) -> _Inputs:
        asked = dataclasses.replace(
            self._request, runbook=other.name, inputs=self._params(including, self._request.inputs)
        )
        values = inputs(other, asked)
        node = node_of(other, values)
        if node and node != self._request.node:
            raise errors.InvalidInputError(
                f"runbook {other.name} would work on node {node!r}, and this run is for the whole service; "
                "declare an input of type node, and name it with --node"
            )
        return values


def _wait(name: str, wait: models.Wait) -> plans.PlannedStep:
    seconds = wait.seconds if wait.timeout is None else wait.timeout
    return plans.PlannedStep(
        name=name, kind=plans.StepKind.WAIT, timeout_seconds=seconds or 0.0, until=wait.until or ""
    )


def _spliced(step: plans.PlannedStep, name: str, values: _Inputs) -> plans.PlannedStep:
    """Return an included step under its new name; where it undoes steps, those have new names as well."""

    def renamed(edge: plans.FailureEdge) -> plans.FailureEdge:
        if edge.kind is not plans.EdgeKind.UNDO or edge.argument == checks.ALL_STEPS:
            return edge
        return dataclasses.replace(edge, argument=f"{name}{links.DOT}{edge.argument}")

    ladder = None if step.on_failure is None else tuple(renamed(edge) for edge in step.on_failure)
    return dataclasses.replace(step, name=f"{name}{links.DOT}{step.name}", on_failure=ladder, inputs=dict(values))


def edges(given: Sequence[models.FailureEdge]) -> tuple[plans.FailureEdge, ...]:
    """Return a ladder of failure edges as plans hold it."""
    return tuple(_edge(edge) for edge in given)


def _edge(edge: models.FailureEdge) -> plans.FailureEdge:
    if edge.undo is not None:
        return plans.FailureEdge(plans.EdgeKind.UNDO, edge.undo)
    if edge.run is not None:
        return plans.FailureEdge(plans.EdgeKind.RUN, edge.run)
    return plans.FailureEdge(plans.EdgeKind.ESCALATE, edge.escalate or "")
