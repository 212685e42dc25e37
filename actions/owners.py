"""The `Owners` port: who else has a say over what a plan would change. Pools by services.yaml, nodes by who keeps them out.

Called by the engine for each question to the guard. It looks at gateway and nodes and changes nothing. What a run of a
policy did is automation's own; what a person's run did, or a hand that left no run, is that person's to undo. Other
controllers are further implementations of the same port. Concurrency: async, stateless, bounded in time.
"""

import asyncio
from collections.abc import Mapping, Sequence

from actions import clients
from actions.node import admin as node_admin
from actions.traffic import admin
from controlplane.domain import errors, owners, plans, ports, runs, services

_EJECTED = "ejected"
_RUN = "run_"
_SCALE, _DRAIN, _RETURN = "scale", "drain_node", "return_node"
# A node that somebody drains goes on draining after these; whatever else is done to it may end that.
_LEAVES_DRAINS = frozenset({"eject_node", "return_node", "drain_node"})
# Longer than a healthy gateway needs, short enough for every question to wait for.
_GATEWAY_SECONDS = 2.0
# A node that hangs has no say, and the repair of it must not wait for its answer.
_NODE_SECONDS = 1.0


class Owners:
    """Looks for claims by what the actions leave behind: the reason of an ejection, the key of a drain."""

    def __init__(
        self, targets: clients.Clients, managed: Mapping[str, services.Service], store: ports.RunStore
    ) -> None:
        self._targets = targets
        self._managed = managed
        self._runs = store

    async def claims(self, plan: plans.Plan, run_id: str | None) -> Sequence[owners.Claim]:
        """Return the claims on what the plan changes; raises RetryLaterError when the gateway does not tell."""
        found = self._on_pools(plan)
        names = _concerned(plan)
        if not names:
            return found
        at_gateway = await self._at_gateway(plan.request.service)
        for name in names:
            found += await self._on_node(plan, run_id, name, at_gateway.get(name))
        return found

    def _on_pools(self, plan: plans.Plan) -> list[owners.Claim]:
        """Return who owns the sizes of the pools that a scaling plan changes; without knowing which, of all."""
        if not any(step.action == _SCALE for step in plan.steps):
            return []
        service = self._managed.get(plan.request.service)
        owned = [] if service is None else [pool for pool in service.pools if pool.owner]
        changed = self._pools_changed(plan) if owned else None
        return [
            owners.Claim(owners.Kind.CONTROLLER, pool.owner, f"pool {pool.name} of {plan.request.service}")
            for pool in owned
            if changed is None or pool.name in changed
        ]

    def _pools_changed(self, plan: plans.Plan) -> frozenset[str] | None:
        """Return the pools of the nodes that the plan starts or stops; None where a node's pool is not known."""
        local = self._targets.fleets.get(plan.request.service)
        if local is None:
            return None
        pools = {f"{plan.request.service}/{one.name}": one.pool for one in local.members()}
        changed = {change.target for change in plan.changes if change.what == "process"}
        return None if changed - set(pools) else frozenset(pools[name] for name in changed)

    async def _at_gateway(self, service: str) -> Mapping[str, admin.GatewayNode]:
        try:
            async with asyncio.timeout(_GATEWAY_SECONDS):
                return {one.name: one for one in await self._targets.gateways.nodes(service)}
        except errors.NotFoundError:
            return {}  # without a gateway nobody is kept out there
        except (errors.DsctlError, TimeoutError) as error:
            why = str(error) or f"no answer within {_GATEWAY_SECONDS:g} s"
            raise errors.RetryLaterError(f"who keeps nodes of {service} out cannot be told: {why}") from error

    async def _on_node(
        self, plan: plans.Plan, run_id: str | None, name: str, known: admin.GatewayNode | None
    ) -> list[owners.Claim]:
        """Return the claim behind an ejection, else the one behind a drain."""
        target, reason = f"{plan.request.service}/{name}", ""
        ejector = None
        if known is not None and known.state == _EJECTED:
            reason = known.eject_reason
            ejector = runs_name(reason)
            by = None if ejector is None else await self._run(ejector)
            claim = owners.claim_of(owners.Hold(target, _EJECTED, reason, by))
            if claim is not None and (run_id is None or ejector != run_id):
                return [claim]
        if name not in plan.blast.unavailable or all(step.action in _LEAVES_DRAINS for step in _acts(plan)):
            return []
        if not await self._is_drained_by_others(plan, run_id, name, ejector):
            return []
        return [owners.Claim(owners.Kind.PERSON, "somebody", target, "drained")]

    async def _is_drained_by_others(self, plan: plans.Plan, run_id: str | None, name: str, ejector: str | None) -> bool:
        """Say whether a node drains, and neither this run nor the one that ejected it remembers having done that."""
        service = plan.request.service
        try:
            async with asyncio.timeout(_NODE_SECONDS):
                state = await self._targets.nodes.state(service, name)
                if not state.is_draining:
                    return False
                ours = await self._ours(plan, run_id, ejector)
                return not await self._is_one_of(service, name, ours, ejector)
        except (errors.DsctlError, TimeoutError):
            return False  # of one that does not answer nothing is known, and that is no reason to leave it as it is

    async def _ours(self, plan: plans.Plan, run_id: str | None, ejector: str | None) -> dict[str, plans.Plan]:
        """Return the plans that may have drained the node on behalf of who asks: its own, and the ejector's."""
        found = {} if run_id is None else {run_id: plan}
        by = None if ejector is None or ejector in found else await self._run(ejector)
        return found if by is None else {**found, by.id: by.plan}

    async def _is_one_of(self, service: str, name: str, ours: Mapping[str, plans.Plan], ejector: str | None) -> bool:
        for run_id, plan in ours.items():
            # Scaling drains under keys of its own, and only what it has ejected before.
            if run_id == ejector and any(step.action == _SCALE for step in plan.steps):
                return True
            for step in plan.steps:
                key = f"{run_id}:{step.name}"
                if step.action == _DRAIN and await self._remembers(service, name, key):
                    return True
        return False

    async def _remembers(self, service: str, name: str, key: str) -> bool:
        known: node_admin.Operation | None = await self._targets.nodes.operation(service, name, key)
        return known is not None

    async def _run(self, run_id: str) -> runs.Run | None:
        try:
            return await self._runs.get(run_id)
        except errors.NotFoundError:
            return None


def runs_name(reason: str) -> str | None:
    """Return the run that wrote the reason of an ejection; None when no run did.

    >>> runs_name("run_01KD step eject"), runs_name("memory test")
    ('run_01KD', None)
    """
    first = reason.partition(" ")[0]
    return first if first.startswith(_RUN) else None


def _concerned(plan: plans.Plan) -> tuple[str, ...]:
    """Return the nodes that the plan takes out of service, or gives back to it."""
    gives_back = any(step.action == _RETURN for step in plan.steps)
    return tuple(sorted({*plan.blast.unavailable, *(plan.blast.touched if gives_back else ())}))


def _acts(plan: plans.Plan) -> Sequence[plans.PlannedStep]:
    return [step for step in plan.steps if step.kind is plans.StepKind.ACTION]
