"""Action `drain_node`: a node refuses new requests and lets admitted ones end. A lease; undo opens it again."""

from typing import Annotated

import pydantic

from actions import api, clients, params, scopes
from actions.node import holds, keys
from controlplane.domain import errors, outcomes, plans

DRAIN = "/admin/v1/drain"
UNDRAIN = "/admin/v1/undrain"
_KIND = "drain"
_POLL_SECONDS = 0.25
_WAIT_SHARE = 0.8


class Params(params.Params):
    """How long the node stays drained when nobody opens it again, and how long admitted requests are waited for."""

    ttl_seconds: params.TtlSeconds = params.DEFAULT_TTL_SECONDS
    wait_seconds: Annotated[float, pydantic.Field(ge=0, le=3600)] = 0.0


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
        """Read whether the node drains already; of one that does not answer that is unknown, and no reason to stop."""
        _parse(params)
        node = scopes.one(self._targets.where, scope, "drain_node")
        try:
            before: outcomes.Json = (await self._targets.nodes.state(scope.service, node)).is_draining
        except errors.RetryLaterError:
            before = "unknown"
        return (plans.Change(f"{scope.service}/{node}", "draining", before, True),)

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Drain, and wait for admitted requests to end, at most for `wait_seconds`; whatever is left then is said.

        Raises ConflictError when somebody else drains the node.
        """
        what = _parse(params)
        ttl = what.ttl_seconds
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
        said = f"{context.scope.node} takes no new requests for {ttl:g} s"
        if what.wait_seconds == 0:
            return api.ActionResult(said, dict(answer))
        left = await self._until_idle(context, what.wait_seconds)
        return api.ActionResult(f"{said}; {left}", dict(answer))

    async def _until_idle(self, context: api.ActionContext, wait_seconds: float) -> str:
        """Wait until nothing runs or waits any more; a node that stops answering meanwhile is waited for no longer."""
        clock, scope = self._targets.clock, context.scope
        # The step must not be cut off while it waits: what it did would then be in doubt.
        deadline = clock.monotonic() + min(wait_seconds, _WAIT_SHARE * context.timeout_seconds)
        while True:
            try:
                state = await self._targets.nodes.state(scope.service, scope.node)
            except errors.DsctlError as error:
                return f"what it still does cannot be seen: {error}"
            left = state.running + state.waiting
            if left == 0:
                return "everything it had has ended"
            if clock.monotonic() >= deadline:
                return f"{left} of its requests have not ended in time"
            await clock.sleep(_POLL_SECONDS)

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
