"""Action `set_batch`: how many requests a node computes together and how long it waits for more. A lease."""

from collections.abc import Mapping
from typing import Annotated, Self

import pydantic

from actions import api, clients, params, scopes
from actions.node import admin, holds, keys
from controlplane.domain import outcomes, plans

PATH = "/admin/v1/batch"
_KIND = "batch"


class Params(params.Params):
    """The batch to set; what is left out stays as it is."""

    max_size: Annotated[int, pydantic.Field(ge=1, le=1024)] | None = None
    max_wait_seconds: Annotated[float, pydantic.Field(ge=0, le=10)] | None = None
    ttl_seconds: params.TtlSeconds = params.DEFAULT_TTL_SECONDS

    @pydantic.model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.max_size is None and self.max_wait_seconds is None:
            raise ValueError("give max_size or max_wait_seconds, or both")
        return self

    def wanted(self) -> Mapping[str, outcomes.Json]:
        """Return the fields that are to change."""
        return self.model_dump(exclude={"ttl_seconds"}, exclude_none=True)


class SetBatch:
    """Absolute values under a lease; undo returns what the node itself kept as previous."""

    def __init__(self, targets: clients.Clients) -> None:
        self._targets = targets

    @property
    def spec(self) -> api.ActionSpec:
        """What the action declares."""
        return api.ActionSpec(
            name="set_batch",
            summary="Set batch size and wait of a node",
            reentry=plans.Reentry.IDEMPOTENT,
            is_reversible=True,
            is_destructive=False,
            parameters=params.schema(Params),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return the node; it stays in service."""
        _parse(params)
        return plans.BlastRadius(touched=(scopes.one(self._targets.where, scope, "set_batch"),))

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Read the batch settings that would change."""
        wanted = _parse(params).wanted()
        state = await self._targets.nodes.state(scope.service, scopes.one(self._targets.where, scope, "set_batch"))
        now = state.batch.model_dump()
        target = f"{scope.service}/{scope.node}"
        return tuple(plans.Change(target, f"batch {name}", now[name], value) for name, value in wanted.items())

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Set it; raises ConflictError when somebody else holds the batch settings."""
        what = _parse(params)
        await holds.state_for(self._targets.nodes, context, _KIND)
        body = {**what.wanted(), "ttl_seconds": what.ttl_seconds}
        answer = await self._put(context, body, context.idempotency_key)
        said = ", ".join(f"{name} = {value}" for name, value in what.wanted().items())
        return api.ActionResult(f"{context.scope.node}: {said} for {what.ttl_seconds:g} s", answer)

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Ask the node for the key."""
        _parse(params)
        return await holds.probe(self._targets.nodes, context)

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Return what was in force before, unless the lease ended or somebody else has changed it since."""
        del result
        wanted, scope = _parse(params).wanted(), context.scope
        state = await self._targets.nodes.state(scope.service, scope.node)
        lease = state.lease(_KIND)
        if lease is None:
            return api.ActionResult(f"{scope.node}: the lease has ended; nothing to undo")
        if not wanted.items() <= state.batch.model_dump().items():
            return api.ActionResult(f"{scope.node}: batch was changed by somebody else since; left alone")
        previous = lease.previous if isinstance(lease.previous, dict) else {}
        before = admin.read_as(admin.Batch, previous, f"{scope.service}/{scope.node}")
        answer = await self._put(context, before.model_dump(), keys.derive(context.idempotency_key, "undo"))
        return api.ActionResult(f"{scope.node}: batch is as it was before, {before}", answer)

    async def _put(
        self, context: api.ActionContext, body: Mapping[str, outcomes.Json], key: str
    ) -> Mapping[str, outcomes.Json]:
        return await self._targets.nodes.change(
            context.scope.service,
            context.scope.node,
            "PUT",
            PATH,
            body=body,
            key=key,
            timeout_seconds=context.timeout_seconds,
        )


def _parse(given: api.Params) -> Params:
    return params.parse(Params, given)
