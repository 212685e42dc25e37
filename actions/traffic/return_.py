"""Action `return_node`: the gateway sends an ejected node requests again, a few at first."""

from typing import Literal

from actions import api, clients, params, scopes
from actions.node import holds, keys
from actions.traffic import admin
from controlplane.domain import errors, plans

_EJECTED = "ejected"
_IN_SERVICE = "in_service"


class Params(params.Params):
    """Whose ejection may be ended, and how long the node is out again when this is undone."""

    whose: Literal["own", "anybody"] = "own"
    undo_ttl_seconds: params.TtlSeconds = params.DEFAULT_TTL_SECONDS


class ReturnNode:
    """Absolute: a node that is in service already stays there."""

    def __init__(self, targets: clients.Clients) -> None:
        self._targets = targets

    @property
    def spec(self) -> api.ActionSpec:
        """What the action declares."""
        return api.ActionSpec(
            name="return_node",
            summary="Put an ejected node back into the gateway's rotation, slowly at first",
            reentry=plans.Reentry.IDEMPOTENT,
            is_reversible=True,
            is_destructive=False,
            parameters=params.schema(Params),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return the node as touched: it comes into service."""
        _parse(params)
        return plans.BlastRadius(touched=(scopes.one(self._targets.where, scope, "return_node"),))

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Read how the gateway treats the node now."""
        _parse(params)
        node = scopes.one(self._targets.where, scope, "return_node")
        now = await self._targets.gateways.node(scope.service, node)
        return (plans.Change(f"{scope.service}/{node}", "state at the gateway", now.state, _IN_SERVICE),)

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Return it; raises ConflictError when somebody else keeps it out, GiveUpError when it does not come in."""
        what, scope = _parse(params), context.scope
        now = await self._targets.gateways.node(scope.service, scope.node)
        was_ejected = now.state == _EJECTED
        if was_ejected and what.whose == "own" and not _is_own(now, context):
            raise errors.ConflictError(
                f"{scope.service}/{scope.node} was ejected by somebody else ({now.eject_reason}); "
                "return it with `dsctl remediate return-node` when that is over"
            )
        done = await self._targets.gateways.change_node(
            scope.service,
            scope.node,
            "return",
            body=None,
            key=context.idempotency_key,
            timeout_seconds=context.timeout_seconds,
        )
        if done.node.state != _IN_SERVICE:
            raise errors.GiveUpError(f"{scope.service}/{scope.node} is {done.node.state} at the gateway, not returned")
        return api.ActionResult(
            f"the gateway sends {scope.node} requests again, {done.node.slow_start_ratio:.0%} of its due at first",
            {"was_ejected": was_ejected, "boot_id": done.boot_id},
        )

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Ask the gateway for the key."""
        _parse(params)
        known = await self._targets.gateways.operation(context.scope.service, context.idempotency_key)
        return holds.remembered(known, f"the gateway of {context.scope.service}")

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Eject the node again, for a while, unless it was in service before or somebody has ejected it since."""
        what, scope = _parse(params), context.scope
        if result.data.get("was_ejected") is not True:
            return api.ActionResult(f"{scope.node} was in service before; nothing to undo")
        now = await self._targets.gateways.node(scope.service, scope.node)
        if now.state == _EJECTED:
            return api.ActionResult(f"{scope.node} is ejected again already; nothing to undo")
        done = await self._targets.gateways.change_node(
            scope.service,
            scope.node,
            "eject",
            body={"ttl_seconds": what.undo_ttl_seconds, "reason": f"{context.run_id} undid {context.step}"},
            key=keys.derive(context.idempotency_key, "undo"),
            timeout_seconds=context.timeout_seconds,
        )
        return api.ActionResult(f"{scope.node} is {done.node.state} at the gateway again")


def _is_own(now: admin.GatewayNode, context: api.ActionContext) -> bool:
    """Say whether the run that asks has ejected the node: `eject_node` writes the run into the reason."""
    return now.eject_reason.startswith(f"{context.run_id} ")


def _parse(given: api.Params) -> Params:
    return params.parse(Params, given)
