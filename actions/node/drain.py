"""Action `drain_node`: a node refuses new requests and lets admitted ones end. A lease; undo opens it again."""

from actions import api, clients, params, scopes
from actions.node import holds, keys
from controlplane.domain import plans

DRAIN = "/admin/v1/drain"
UNDRAIN = "/admin/v1/undrain"
_KIND = "drain"


class Params(params.Params):
    """How long the node stays drained when nobody opens it again."""

    ttl_seconds: params.TtlSeconds = params.DEFAULT_TTL_SECONDS


class DrainNode:
    """Absolute: a node that drains already under this step's key is drained, not drained twice."""

    def __init__(self, targets: clients.Clients) -> None:
        self._targets = targets

    @property
    def spec(self) -> api.ActionSpec:
        """What the action declares."""
        return api.ActionSpec(
            name="drain_node",
            summary="Stop admission on a node and let its requests end",
            reentry=plans.Reentry.IDEMPOTENT,
            is_reversible=True,
            is_destructive=True,
            parameters=params.schema(Params),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return the node as unavailable."""
        _parse(params)
        return scopes.out_of_service(self._targets.where, scope, "drain_node")

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Read whether the node drains already."""
        _parse(params)
        state = await self._targets.nodes.state(scope.service, scopes.one(self._targets.where, scope, "drain_node"))
        return (plans.Change(f"{scope.service}/{scope.node}", "draining", state.is_draining, True),)

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Drain; raises ConflictError when somebody else drains the node."""
        ttl = _parse(params).ttl_seconds
        await holds.state_for(self._targets.nodes, context, _KIND)
        answer = await self._targets.nodes.change(
            context.scope.service,
            context.scope.node,
            "POST",
            DRAIN,
            body={"ttl_seconds": ttl},
            key=context.idempotency_key,
            timeout_seconds=context.timeout_seconds,
        )
        return api.ActionResult(f"{context.scope.node} takes no new requests for {ttl:g} s", dict(answer))

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Ask the node for the key."""
        _parse(params)
        return await holds.probe(self._targets.nodes, context)

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Open the node again, unless its lease ended or it was restarted."""
        del params, result
        scope = context.scope
        state = await self._targets.nodes.state(scope.service, scope.node)
        if not state.is_draining:
            return api.ActionResult(f"{scope.node} takes requests already; nothing to undo")
        answer = await self._targets.nodes.change(
            scope.service,
            scope.node,
            "POST",
            UNDRAIN,
            key=keys.derive(context.idempotency_key, "undo"),
            timeout_seconds=context.timeout_seconds,
        )
        return api.ActionResult(f"{scope.node} takes requests again", dict(answer))


def _parse(given: api.Params) -> Params:
    return params.parse(Params, given)
