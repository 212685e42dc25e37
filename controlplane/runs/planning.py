"""The `Planner` port: a request becomes a plan, with its runbook pinned, its parameters resolved, its difference read.

Called by the remediator for policies and people, and by runs for follow-ups. It reads targets through the
actions' `plan` and never writes. What it returns is a value whose hash people approve: everything that decides
what would happen is in it. Concurrency: async; stateless, one planner serves the process.
"""

import dataclasses
from collections.abc import Mapping

from actions import api
from actions.node import directory
from controlplane import strictyaml
from controlplane.domain import errors, ids, plans, ports, services
from controlplane.runs import asking, resolving
from controlplane.runs.language import library, links, models


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
        other = self._included(book)
        verify = _verify(book.spec, service)
        steps = asking.ask_first(request, resolving.steps(book, other, request, service))
        scope = api.Scope(request.service, request.node)
        blast, changes = await self._ask(steps, scope)
        now = self._clock.now()
        return plans.Plan(
            id=ids.new_id(ids.IdKind.PLAN, now),
            created_at=now,
            request=request,
            runbook_digest=book.digest,
            runbook_source=_source(book, other),
            steps=steps,
            changes=changes,
            blast=blast,
            verify=verify,
            on_failure=resolving.edges(book.spec.on_failure),
            hash=_hash(book, other, request, steps),
            lane=book.spec.lane,
        )

    def _included(self, book: library.Runbook) -> library.Runbook | None:
        """Return the runbook whose steps the last step stands for."""
        step = links.included_by(book.spec)
        return self._runbooks.get(step.include) if step is not None and step.include is not None else None

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
        inputs = resolving.inputs(book, request)
        node = request.node or resolving.node_of(book, inputs)
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
        """Ask each action for its blast radius and its difference; together they are the plan's.

        A step whose condition is open counts as if it held, one whose condition is known to be false does not.
        """
        blasts: list[plans.BlastRadius] = []
        changes: list[plans.Change] = []
        for step in steps:
            if step.kind is not plans.StepKind.ACTION or step.decided is False:
                continue
            action = self._actions[step.action]
            try:
                blasts.append(await action.blast(step.params, scope))
                changes += await action.plan(step.params, scope)
            except errors.InvalidInputError as error:
                raise errors.InvalidInputError(str(error), place=f"step {step.name}") from error
        return _union(blasts), tuple(changes)


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


def _union(blasts: list[plans.BlastRadius]) -> plans.BlastRadius:
    return plans.BlastRadius(
        touched=tuple(sorted({node for blast in blasts for node in blast.touched})),
        unavailable=tuple(sorted({node for blast in blasts for node in blast.unavailable})),
        is_destructive=any(blast.is_destructive for blast in blasts),
    )


def _source(book: library.Runbook, other: library.Runbook | None) -> str:
    """Return the text the plan is pinned to: of an included runbook too, as a second document."""
    if other is None:
        return book.source
    start = "" if other.source.startswith("---") else "---\n"
    return f"{book.source.rstrip()}\n{start}{other.source}"


def _hash(
    book: library.Runbook,
    other: library.Runbook | None,
    request: plans.PlanRequest,
    steps: tuple[plans.PlannedStep, ...],
) -> str:
    """Return the hash of what would happen: equal for two drafts that do the same to the same target."""
    return library.digest(
        {
            "runbook": book.digest,
            "included": other.digest if other is not None else None,
            "service": request.service,
            "node": request.node,
            "inputs": dict(request.inputs),
            "steps": [
                {**dataclasses.asdict(step), "kind": step.kind.value, "params": dict(step.params)} for step in steps
            ],
        }
    )
