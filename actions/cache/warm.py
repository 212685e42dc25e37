"""Action `warm_cache`: compute and keep the answers of given deterministic requests, at the lowest priority."""

from collections.abc import Mapping
from typing import Annotated

import pydantic

from actions import api, clients, fanout, params, scopes
from actions.node import admin, keys
from controlplane.domain import errors, outcomes, plans

PATH = "/admin/v1/cache/warm"


class Params(params.Params):
    """Requests as the data API takes them, and the tenant whose cache they fill."""

    prompts: Annotated[list[dict[str, pydantic.JsonValue]], pydantic.Field(min_length=1, max_length=256)]
    tenant: Annotated[str, pydantic.Field(min_length=1, max_length=256)] = "default"

    def body(self) -> Mapping[str, outcomes.Json]:
        """Return the request of the contract."""
        return self.model_dump()


class WarmCache:
    """Idempotent by nature: an answer that is there already is kept."""

    def __init__(self, targets: clients.Clients) -> None:
        self._targets = targets

    @property
    def spec(self) -> api.ActionSpec:
        """What the action declares."""
        return api.ActionSpec(
            name="warm_cache",
            summary="Compute and keep the answers of given requests before they are asked for",
            reentry=plans.Reentry.IDEMPOTENT,
            is_reversible=False,
            is_destructive=False,
            parameters=params.schema(Params),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return the nodes; none becomes unavailable."""
        _parse(params)
        return scopes.still_serving(self._targets.where, scope)

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Say how many requests each node would compute; proves that every node answers."""
        count = len(_parse(params).prompts)
        nodes = scopes.nodes(self._targets.where, scope)
        await fanout.read(nodes, lambda node: self._targets.nodes.state(scope.service, node))
        return tuple(plans.Change(f"{scope.service}/{node}", "prompts warmed", 0, count) for node in nodes)

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Warm every node of the scope; refuses to call it done where nothing could be warmed."""
        what, scope = _parse(params), context.scope

        async def warm(node: str) -> admin.Warmed:
            answer = await self._targets.nodes.change(
                scope.service,
                node,
                "POST",
                PATH,
                body=what.body(),
                key=keys.derive(context.idempotency_key, node),
                timeout_seconds=context.timeout_seconds,
            )
            warmed = admin.changed_as(admin.Warmed, answer, f"{scope.service}/{node}")
            if not warmed.warmed:
                raise errors.GiveUpError(
                    f"{scope.service}/{node} could warm none of {warmed.failed} prompts; send deterministic requests"
                )
            return warmed

        done = await fanout.change(scopes.nodes(self._targets.where, scope), warm)
        said = ", ".join(f"{one.warmed} on {node} ({one.failed} failed)" for node, one in done.items())
        return api.ActionResult(f"warmed {said}", {"nodes": {node: one.model_dump() for node, one in done.items()}})

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Ask each node for the key."""
        _parse(params)
        nodes = scopes.nodes(self._targets.where, context.scope)
        looked = {node: keys.derive(context.idempotency_key, node) for node in nodes}
        found = await fanout.read(nodes, lambda node: self._look(context.scope.service, node, looked[node]))
        missing = [node for node, is_known in found.items() if not is_known]
        if missing:
            return api.NotApplied(f"not known on {', '.join(missing)}")
        return api.Applied(api.ActionResult(f"{', '.join(found)} remember this warming"))

    async def _look(self, service: str, node: str, key: str) -> bool:
        return await self._targets.nodes.operation(service, node, key) is not None

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Refuse: an answer in the cache harms nobody."""
        del params, result
        raise errors.GiveUpError(f"warm_cache of {context.scope.service} has no undo; flush_cache removes the answers")


def _parse(given: api.Params) -> Params:
    return params.parse(Params, given)
