"""Action `degrade_node`: cut the answers of a node so that it serves more of them. A lease; undo returns."""

from collections.abc import Mapping
from typing import Annotated, cast

import pydantic

from actions import api, clients, params, scopes
from actions.node import admin, keys
from controlplane.domain import outcomes, plans

PATH = "/admin/v1/degradation"
_KIND = "degradation"
_SHORTEST_LEASE_SECONDS = 1.0


class Params(params.Params):
    """Level 0 is full service; `max_tokens` caps every answer."""

    level: Annotated[int, pydantic.Field(ge=0, le=10)]
    max_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    ttl_seconds: params.TtlSeconds = params.DEFAULT_TTL_SECONDS

    def body(self) -> Mapping[str, outcomes.Json]:
        """Return the request of the contract."""
        return self.model_dump(exclude_none=True)


class DegradeNode:
    """A ladder: a level replaces the one before it, and undo goes back one rung with the time it had left."""

    def __init__(self, targets: clients.Clients) -> None:
        self._targets = targets

    @property
    def spec(self) -> api.ActionSpec:
        """What the action declares."""
        return api.ActionSpec(
            name="degrade_node",
            summary="Cap the answers of a node for a while",
            reentry=plans.Reentry.IDEMPOTENT,
            is_reversible=True,
            is_destructive=False,
            parameters=params.schema(Params),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return the node; it stays in service."""
        _parse(params)
        return plans.BlastRadius(touched=(scopes.one(self._targets.where, scope, "degrade_node"),))

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Read the level in force."""
        what = _parse(params)
        state = await self._targets.nodes.state(scope.service, scopes.one(self._targets.where, scope, "degrade_node"))
        target = f"{scope.service}/{scope.node}"
        return (
            plans.Change(target, "degradation level", state.degradation.level, what.level),
            plans.Change(target, "max_tokens", state.degradation.max_tokens, what.max_tokens),
        )

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Set the level, and remember the rung it came from."""
        what, scope = _parse(params), context.scope
        # A step that is sent again finds its own level in force, which is not the rung it came from.
        is_repeat = await self._targets.nodes.operation(scope.service, scope.node, context.idempotency_key) is not None
        before = None if is_repeat else _rung(await self._targets.nodes.state(scope.service, scope.node))
        await self._put(context, what.body(), context.idempotency_key)
        said = f"{scope.node} is at degradation level {what.level} for {what.ttl_seconds:g} s"
        return api.ActionResult(said, {"before": before})

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Ask the node for the key."""
        _parse(params)
        known = await self._targets.nodes.operation(context.scope.service, context.scope.node, context.idempotency_key)
        if known is None:
            return api.NotApplied(f"{context.scope.node} does not know this call; it can be sent again")
        return api.Applied(api.ActionResult(f"{context.scope.node} remembers this degradation", {"before": None}))

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Go back to the rung before, or to full service; leaves alone what somebody else has set since."""
        what, scope = _parse(params), context.scope
        state = await self._targets.nodes.state(scope.service, scope.node)
        if state.lease(_KIND) is None:
            return api.ActionResult(f"{scope.node}: the lease has ended; nothing to undo")
        if (state.degradation.level, state.degradation.max_tokens) != (what.level, what.max_tokens):
            return api.ActionResult(f"{scope.node}: degradation was changed by somebody else since; left alone")
        before = result.data.get("before")
        key = keys.derive(context.idempotency_key, "undo")
        if isinstance(before, dict):
            await self._put(context, before, key)
            return api.ActionResult(f"{scope.node} is back at degradation level {before.get('level')}")
        await self._call(context, "DELETE", None, key)
        return api.ActionResult(f"{scope.node} is back at full service")

    async def _put(self, context: api.ActionContext, body: Mapping[str, outcomes.Json], key: str) -> None:
        await self._call(context, "PUT", body, key)

    async def _call(
        self, context: api.ActionContext, method: str, body: Mapping[str, outcomes.Json] | None, key: str
    ) -> None:
        await self._targets.nodes.change(
            context.scope.service,
            context.scope.node,
            method,
            PATH,
            body=body,
            key=key,
            timeout_seconds=context.timeout_seconds,
        )


def _rung(state: admin.NodeState) -> dict[str, outcomes.Json] | None:
    """Return the degradation in force with the time it has left, None for full service."""
    lease = state.lease(_KIND)
    if lease is None:
        return None
    left = max(lease.expires_in_seconds, _SHORTEST_LEASE_SECONDS)
    rung = {**state.degradation.model_dump(exclude_none=True), "ttl_seconds": left}
    return cast("dict[str, outcomes.Json]", rung)


def _parse(given: api.Params) -> Params:
    return params.parse(Params, given)
