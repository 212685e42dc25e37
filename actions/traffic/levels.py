"""Action `set_rung`: put a service on a rung of the degradation ladder, at its gateway and at its nodes. Leases.

The gateway is told first: it sheds whole levels, and its state says on which rung the service stands. Then the nodes
are told their caps. A node that does not answer fails nothing, since overload is when nodes do not answer: whoever
keeps the rung tells it again with every renewal. Concurrency: async, stateless.
"""

import uuid
from collections.abc import Mapping
from typing import Annotated

import pydantic

from actions import api, clients, fanout, params, scopes
from actions.node import holds, keys
from controlplane.domain import errors, outcomes, plans, rungs

NODE_PATH = "/admin/v1/degradation"
DEFAULT_TTL_SECONDS = 120.0
# Long enough for a gateway that is busy to the last core, short enough for the tick that waits for it.
RENEW_SECONDS = 3.0
_NO_CAP = 10**9


class Params(params.Params):
    """The rung, for how long it holds unless renewed, and what "capped" means on it."""

    rung: Annotated[int, pydantic.Field(ge=0, le=rungs.TOP)]
    ttl_seconds: params.TtlSeconds = DEFAULT_TTL_SECONDS
    max_tokens: Annotated[int, pydantic.Field(ge=1, le=_NO_CAP, description="Completion tokens of a capped level.")] = (
        64
    )
    max_prompt_tokens: Annotated[
        int, pydantic.Field(ge=1, le=_NO_CAP, description="Prompt tokens of a capped level; longer prompts get 429.")
    ] = 1024

    def for_gateway(self) -> Mapping[str, outcomes.Json]:
        """Return the gateway's request: every level but premium, named with what holds for it."""
        shed = rungs.RUNGS[self.rung].shed
        levels: dict[str, outcomes.Json] = {level: {"is_shed": level in shed} for level in ("standard", "batch")}
        return {**levels, "rung": self.rung, "ttl_seconds": self.ttl_seconds}

    def for_node(self) -> Mapping[str, outcomes.Json]:
        """Return a node's request."""
        rung = rungs.RUNGS[self.rung]
        caps: dict[str, outcomes.Json] = {
            level: {
                "max_tokens": self.max_tokens,
                "max_prompt_tokens": self.max_prompt_tokens,
                "is_cached_only": level in rung.cached_only,
            }
            for level in rung.capped
        }
        return {"level": self.rung, "levels": caps, "ttl_seconds": self.ttl_seconds}


class SetRung:
    """Absolute: a rung replaces the one before it, and rung 0 ends every lease of the ladder at once."""

    def __init__(self, targets: clients.Clients) -> None:
        self._targets = targets

    @property
    def spec(self) -> api.ActionSpec:
        """What the action declares."""
        return api.ActionSpec(
            name="set_rung",
            summary="Put a service on a rung of the degradation ladder for a while",
            reentry=plans.Reentry.IDEMPOTENT,
            is_reversible=True,
            is_destructive=False,
            parameters=params.schema(Params),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return every node; all stay in service."""
        _parse(params)
        return scopes.still_serving(self._targets.where, _whole(scope))

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Read on which rung the service stands."""
        what, service = _parse(params), _whole(scope).service
        now = await self._targets.gateways.levels(service)
        after = rungs.RUNGS[what.rung]
        shed_before: list[outcomes.Json] = [*now.shed()]
        shed_after: list[outcomes.Json] = [*after.shed]
        return (
            plans.Change(service, "rung", now.rung or 0, what.rung),
            plans.Change(service, "levels shed", shed_before, shed_after),
            plans.Change(service, "levels capped", rungs.RUNGS[now.rung or 0].name, after.name),
        )

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Set it; raises ConflictError while somebody else sheds levels at the gateway."""
        what, service = _parse(params), _whole(context.scope).service
        before = await self._targets.gateways.levels(service)
        if before.is_foreign:
            raise errors.ConflictError(
                f"somebody sheds levels at the gateway of {service} by hand; end that first, or wait for its lease"
            )
        missed = await self._put(service, what, context.idempotency_key, context.timeout_seconds)
        said = f"{service} is on {rungs.describe(what.rung)} for {what.ttl_seconds:g} s"
        return api.ActionResult(f"{said}; {missed}" if missed else said, {"before": before.rung or 0})

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Ask the gateway for the key."""
        _parse(params)
        service = context.scope.service
        known = await self._targets.gateways.operation(service, context.idempotency_key)
        return holds.remembered(known, f"the gateway of {service}")

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Go back to the rung before, unless the lease has ended or another rung was set since."""
        what, service = _parse(params), context.scope.service
        now = await self._targets.gateways.levels(service)
        if now.is_foreign or (now.rung or 0) != what.rung:
            return api.ActionResult(f"{service} is not on rung {what.rung} any more; nothing to undo")
        before = result.data.get("before")
        rung = before if isinstance(before, int) else 0
        key = keys.derive(context.idempotency_key, "undo")
        missed = await self._put(service, what.model_copy(update={"rung": rung}), key, context.timeout_seconds)
        said = f"{service} is back on {rungs.describe(rung)}"
        return api.ActionResult(f"{said}; {missed}" if missed else said)

    async def standing(self, service: str) -> rungs.Standing:
        """Return where a service stands now: the part of the port `RungControl` that reads."""
        now = await self._targets.gateways.levels(service)
        return rungs.Standing(now.rung or 0, now.expires_in_seconds, now.is_foreign)

    async def renew(self, service: str, params: api.Params) -> str:
        """Extend the leases of a rung: the same absolute call under a key of its own."""
        return await self._put(service, _parse(params), f"renew:{uuid.uuid4().hex}", RENEW_SECONDS)

    async def _put(self, service: str, what: Params, key: str, timeout_seconds: float) -> str:
        """Tell the gateway, then every node; return which nodes were not reached, and why."""
        if what.rung == 0:
            await self._targets.gateways.end_levels(service, key=key, timeout_seconds=timeout_seconds)
        else:
            body = what.for_gateway()
            await self._targets.gateways.set_levels(service, body=body, key=key, timeout_seconds=timeout_seconds)

        async def tell(node: str) -> None:
            body = None if what.rung == 0 else what.for_node()
            await self._targets.nodes.change(
                service,
                node,
                "DELETE" if body is None else "PUT",
                NODE_PATH,
                body=body,
                key=keys.derive(key, node),
                timeout_seconds=timeout_seconds,
            )

        _, missed = await fanout.outcomes(scopes.nodes(self._targets.where, api.Scope(service)), tell)
        return "; ".join(f"not on {node}: {error}" for node, error in missed.items())


def _whole(scope: api.Scope) -> api.Scope:
    if scope.node:
        raise errors.InvalidInputError("set_rung works on a whole service; leave the node out", place="node")
    return scope


def _parse(given: api.Params) -> Params:
    return params.parse(Params, given)
