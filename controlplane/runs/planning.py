"""The `Planner` port: a request becomes a plan, with its runbook pinned, its parameters resolved, its difference read.

Called by the remediator for policies and people, and by runs for follow-ups. It reads targets through the
actions' `plan` and never writes. What it returns is a value whose hash people approve: everything that decides
what would happen is in it. Concurrency: async; stateless, one planner serves the process.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from actions import api
from actions.node import directory
from controlplane import expressions, strictyaml
from controlplane.domain import errors, ids, outcomes, plans, ports, services
from controlplane.runs.language import library, models


class RunbookPlanner:
    """Drafts plans from a library that was checked when it was loaded."""

    def __init__(
        self,
        *,
        runbooks: library.Library,
        actions: Mapping[str, api.Action],
        managed: Mapping[str, services.Service],
        where: directory.NodeDirectory,
        clock: ports.Clock,
    ) -> None:
        self._runbooks = runbooks
        self._actions = actions
        self._managed = managed
        self._where = where
        self._clock = clock

    async def draft(self, request: plans.PlanRequest) -> plans.Plan:
        """Return the plan; raises InvalidInputError, NotFoundError, or RetryLaterError (target unreachable)."""
        book = self._runbooks.get(request.runbook)
        service = self._service(request.service)
        request = self._complete(request, book)
        verify = _verify(book.spec, service)
        steps = tuple(_plan_step(step, request, service) for step in book.spec.steps)
        scope = api.Scope(request.service, request.node)
        blast, changes = await self._ask(steps, scope)
        now = self._clock.now()
        return plans.Plan(
            id=ids.new_id(ids.IdKind.PLAN, now),
            created_at=now,
            request=request,
            runbook_digest=book.digest,
            runbook_source=book.source,
            steps=steps,
            changes=changes,
            blast=blast,
            verify=verify,
            on_failure=tuple(_edge(edge) for edge in book.spec.on_failure),
            hash=_hash(book.digest, request, steps),
            lane=book.spec.lane,
        )

    def _service(self, name: str) -> services.Service:
        found = self._managed.get(name)
        if found is None:
            raise errors.NotFoundError(f"no service is named {name!r}{strictyaml.suggest(name, list(self._managed))}")
        return found

    def _complete(self, request: plans.PlanRequest, book: library.Runbook) -> plans.PlanRequest:
        """Return the request with every input resolved, and the node as the target where an input names it."""
        for name in request.inputs:
            if name not in book.spec.inputs:
                near = strictyaml.suggest(name, list(book.spec.inputs))
                raise errors.InvalidInputError(f"runbook {book.name} has no input {name!r}{near}", place="inputs")
        inputs = {name: _input(name, one, request) for name, one in book.spec.inputs.items()}
        named = [str(inputs[name]) for name, one in book.spec.inputs.items() if one.type == "node"]
        node = request.node or next(iter(named), "")
        if node:
            self._check_node(request.service, node)
        return dataclasses.replace(
            request, node=node, inputs={name: value for name, value in inputs.items() if value is not None}
        )

    def _check_node(self, service: str, node: str) -> None:
        known = self._where.nodes(service)
        if node not in known:
            near = strictyaml.suggest(node, list(known))
            raise errors.NotFoundError(f"service {service} has no node {node!r}{near}")

    async def _ask(
        self, steps: tuple[plans.PlannedStep, ...], scope: api.Scope
    ) -> tuple[plans.BlastRadius, tuple[plans.Change, ...]]:
        """Ask each action for its blast radius and its difference; together they are the plan's."""
        blasts: list[plans.BlastRadius] = []
        changes: list[plans.Change] = []
        for step in steps:
            if step.kind is not plans.StepKind.ACTION:
                continue
            action = self._actions[step.action]
            try:
                blasts.append(await action.blast(step.params, scope))
                changes += await action.plan(step.params, scope)
            except errors.InvalidInputError as error:
                raise errors.InvalidInputError(str(error), place=f"step {step.name}") from error
        return _union(blasts), tuple(changes)


def _input(name: str, declared: models.Input, request: plans.PlanRequest) -> outcomes.Json:
    """Return the checked value of one input: as given, from the request's target, or the default."""
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
        declared.check(value)
    except ValueError as error:
        raise errors.InvalidInputError(str(error), place=place) from error
    return value


def _missing(name: str, declared: models.Input, request: plans.PlanRequest) -> outcomes.Json:
    """Return the empty name for a target that may be left out; refuse everything else."""
    if declared.is_required:
        hint = "name it with --node" if declared.type == "node" else f"give it as input {name}"
        raise errors.InvalidInputError(f"runbook {request.runbook} needs it; {hint}", place=f"inputs.{name}")
    return ""


def _plan_step(step: models.Step, request: plans.PlanRequest, service: services.Service) -> plans.PlannedStep:
    if step.wait is not None:
        seconds = step.wait.seconds if step.wait.timeout is None else step.wait.timeout
        return plans.PlannedStep(
            name=step.name,
            kind=plans.StepKind.WAIT,
            timeout_seconds=seconds or 0.0,
            until=step.wait.until or "",
            on_failure=_edges(step.on_failure),
            continue_on_failure=step.continue_on_failure,
        )
    variables = {"inputs": dict(request.inputs), "service": expressions.service_variables(service)}
    try:
        params = {name: expressions.resolve(value, variables) for name, value in step.params.items()}
    except errors.InvalidInputError as error:
        raise errors.InvalidInputError(str(error), place=f"step {step.name}") from error
    return plans.PlannedStep(
        name=step.name,
        kind=plans.StepKind.ACTION,
        timeout_seconds=step.timeout or models.DEFAULT_ACTION_TIMEOUT_SECONDS,
        action=step.action or "",
        params=params,
        max_attempts=step.attempts or models.DEFAULT_ATTEMPTS,
        on_failure=_edges(step.on_failure),
        continue_on_failure=step.continue_on_failure,
    )


def _verify(spec: models.Spec, service: services.Service) -> plans.VerifySpec | None:
    """Return what is to be verified; raises InvalidInputError for a signal without a limit for this service."""
    if spec.verify is None:
        return None
    for signal in spec.verify.signals:
        service.limit(signal)
    return plans.VerifySpec(
        signals=spec.verify.signals,
        within_seconds=spec.verify.within,
        hold_seconds=spec.verify.hold,
        use_control=spec.verify.control == "untouched-nodes",
    )


def _edges(given: Sequence[models.FailureEdge] | None) -> tuple[plans.FailureEdge, ...] | None:
    return None if given is None else tuple(_edge(edge) for edge in given)


def _edge(edge: models.FailureEdge) -> plans.FailureEdge:
    if edge.undo is not None:
        return plans.FailureEdge(plans.EdgeKind.UNDO, edge.undo)
    if edge.run is not None:
        return plans.FailureEdge(plans.EdgeKind.RUN, edge.run)
    return plans.FailureEdge(plans.EdgeKind.ESCALATE, edge.escalate or "")


def _union(blasts: list[plans.BlastRadius]) -> plans.BlastRadius:
    return plans.BlastRadius(
        touched=tuple(sorted({node for blast in blasts for node in blast.touched})),
        unavailable=tuple(sorted({node for blast in blasts for node in blast.unavailable})),
        is_destructive=any(blast.is_destructive for blast in blasts),
    )


def _hash(digest: str, request: plans.PlanRequest, steps: tuple[plans.PlannedStep, ...]) -> str:
    """Return the hash of what would happen: equal for two drafts that do the same to the same target."""
    return library.digest(
        {
            "runbook": digest,
            "service": request.service,
            "node": request.node,
            "inputs": dict(request.inputs),
            "steps": [
                {**dataclasses.asdict(step), "kind": step.kind.value, "params": dict(step.params)} for step in steps
            ],
        }
    )
