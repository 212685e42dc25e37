"""Action `eject_node`: the gateway sends a node nothing new until the lease ends or the node is returned."""

from actions import api, clients, params, scopes
from actions.node import admin, holds, keys
from controlplane.domain import errors, plans

_EJECTED = "ejected"


class Params(params.Params):
    """How long the gateway leaves the node out when nobody returns it; whether somebody else's ejection is prolonged."""

    ttl_seconds: params.TtlSeconds = params.DEFAULT_TTL_SECONDS
    take_over: bool = False


class EjectNode:
    """Works at the gateway, so it helps where the node itself no longer answers."""

    def __init__(self, targets: clients.Clients) -> None:
        self._targets = targets

    @property
    def spec(self) -> api.ActionSpec:
        """What the action declares."""
        return api.ActionSpec(
            name="eject_node",
            summary="Take a node out of the gateway's rotation for a while",
            reentry=plans.Reentry.IDEMPOTENT,
            is_reversible=True,
            is_destructive=True,
            parameters=params.schema(Params),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return the node as unavailable."""
        _parse(params)
        return scopes.out_of_service(self._targets.where, scope, "eject_node")

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Read how the gateway treats the node now."""
        _parse(params)
        node = scopes.one(self._targets.where, scope, "eject_node")
        now = await self._targets.gateways.node(scope.service, node)
        return (plans.Change(f"{scope.service}/{node}", "state at the gateway", now.state, _EJECTED),)

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Eject it; raises ConflictError when somebody else ejected it."""
        what, scope = _parse(params), context.scope
        now = await self._targets.gateways.node(scope.service, scope.node)
        if now.state == _EJECTED and not what.take_over and await self._known(context) is None:
            raise errors.ConflictError(f"{scope.service}/{scope.node} was ejected by somebody else; return it first")
        done = await self._targets.gateways.change_node(
            scope.service,
            scope.node,
            "eject",
            body={"ttl_seconds": what.ttl_seconds, "reason": f"{context.run_id} step {context.step}"},
            key=context.idempotency_key,
            timeout_seconds=context.timeout_seconds,
        )
        said = (
            f"the gateway sends {scope.node} nothing for {what.ttl_seconds:g} s; {done.node.outstanding} requests end"
        )
        return api.ActionResult(said, {"outstanding": done.node.outstanding, "boot_id": done.boot_id})

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Ask the gateway for the key."""
        _parse(params)
        return holds.remembered(await self._known(context), f"the gateway of {context.scope.service}")

    async def _known(self, context: api.ActionContext) -> admin.Operation | None:
        return await self._targets.gateways.operation(context.scope.service, context.idempotency_key)

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Return the node to service, unless it is back already, or may have been out before."""
        del result
        scope = context.scope
        if _parse(params).take_over:
            return api.ActionResult(f"{scope.node} may have been ejected before, so it is left alone")
        now = await self._targets.gateways.node(scope.service, scope.node)
        if now.state != _EJECTED:
            return api.ActionResult(f"{scope.node} is {now.state} at the gateway already; nothing to undo")
        done = await self._targets.gateways.change_node(
            scope.service,
            scope.node,
            "return",
            body=None,
            key=keys.derive(context.idempotency_key, "undo"),
            timeout_seconds=context.timeout_seconds,
        )
        return api.ActionResult(f"{scope.node} is {done.node.state} at the gateway again")


def _parse(given: api.Params) -> Params:
    return params.parse(Params, given)
