"""Action `restart_node`: ends one process of the local fleet, starts it anew, and waits until it answers."""

from actions import api, clients, params, scopes
from actions.local import fleet
from actions.node import keys
from controlplane.domain import errors, plans

_POLL_SECONDS = 0.5
# Of the step's time, for waiting until the node is ready: the rest is for saying so before the step is cut off.
_WAIT_SHARE = 0.9
# A registration is one small call.
_REGISTER_SECONDS = 5.0


class Params(params.Params):
    """None: how a node is ended and started is the local fleet's."""


class RestartNode:
    """Absolute under its key: a node that was started for this step is not started a second time."""

    def __init__(self, targets: clients.Clients) -> None:
        self._targets = targets

    @property
    def spec(self) -> api.ActionSpec:
        """What the action declares."""
        return api.ActionSpec(
            name="restart_node",
            summary="End a node's process, start it anew and wait until it is ready",
            reentry=plans.Reentry.IDEMPOTENT,
            is_reversible=False,
            is_destructive=True,
            parameters=params.schema(Params),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return the node as unavailable."""
        _parse(params)
        return scopes.out_of_service(self._targets.where, scope, "restart_node")

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Look at the process; raises GiveUpError where dsctl cannot restart it."""
        _parse(params)
        node = scopes.one(self._targets.where, scope, "restart_node")
        now = self._fleet(scope).status(node)
        return (plans.Change(f"{scope.service}/{node}", "process", str(now), "a new one"),)

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Restart it, once per key; raises GiveUpError when it does not become ready, with the end of its log."""
        _parse(params)
        scope, deadline = context.scope, self._targets.clock.monotonic() + _WAIT_SHARE * context.timeout_seconds
        local = self._fleet(scope)
        status = await local.restart(scope.node, context.idempotency_key)
        await self._until_ready(local, scope.node, deadline)
        at_gateway = await self._register(local, context)
        return api.ActionResult(f"{scope.node} is ready as {status}; {at_gateway}", {"process": str(status)})

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Look whether the node was started for this step, and whether it answers."""
        _parse(params)
        local, node = self._fleet(context.scope), context.scope.node
        status = local.status(node)
        if status.record is None or context.idempotency_key not in status.record.keys:
            return api.NotApplied(f"{node} was not restarted for this step; it is {status}")
        if not await self._targets.data.is_ready(local.url(node)):
            return api.NotApplied(f"{node} was restarted for this step and is not ready; sending again only waits")
        return api.Applied(api.ActionResult(f"{node} was restarted for this step and is ready as {status}"))

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Refuse: what the old process had in memory is gone."""
        del params, result
        raise errors.GiveUpError(f"restart_node of {context.scope.node} cannot be undone; it can only be done again")

    def _fleet(self, scope: api.Scope) -> fleet.LocalFleet:
        found = self._targets.fleets.get(scope.service)
        if found is None:
            raise errors.GiveUpError(
                f"dsctl did not start {scope.service}/{scope.node or '*'} and cannot restart it; "
                f"set local_fleets.{scope.service}.folder, or restart the node where it is run"
            )
        return found

    async def _until_ready(self, local: fleet.LocalFleet, node: str, deadline: float) -> None:
        clock, url = self._targets.clock, local.url(node)
        while not await self._targets.data.is_ready(url):
            status = local.status(node)
            if not status.is_running:
                raise errors.GiveUpError(f"{node} was restarted as {status}; {local.last_words(node)}")
            if clock.monotonic() >= deadline:
                raise errors.GiveUpError(f"{node} was restarted as {status} and is not ready; {local.last_words(node)}")
            await clock.sleep(_POLL_SECONDS)

    async def _register(self, local: fleet.LocalFleet, context: api.ActionContext) -> str:
        """Tell the gateway where the node is, in case it has forgotten; an ejected one stays ejected."""
        service, node = context.scope.service, context.scope.node
        try:
            at = await self._targets.gateways.register(
                service,
                node,
                local.url(node),
                key=keys.derive(context.idempotency_key, "register"),
                timeout_seconds=_REGISTER_SECONDS,
            )
        except errors.NotFoundError:
            return f"no gateway of {service} is configured"
        return f"{at.node.state} at the gateway"


def _parse(given: api.Params) -> Params:
    return params.parse(Params, given)
