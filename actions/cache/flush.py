"""Action `flush_cache`: remove answers from the response cache of a node, or of every node of a service.

Nodes stay in service; what was good in the cache is computed again, so latency rises until it is warm.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import pydantic

from actions import api, clients, fanout, params, scopes
from actions.node import admin, keys
from controlplane.domain import errors, outcomes, plans

PATH = "/admin/v1/cache/flush"


class Params(params.Params):
    """What to remove; empty `prefix` and `model` mean everything."""

    tier: Literal["l1", "all"] = "l1"
    prefix: Annotated[str, pydantic.Field(max_length=4096, description="Only prompts that begin so.")] = ""
    model: Annotated[str, pydantic.Field(max_length=256, description="Only answers of this model.")] = ""

    def body(self) -> Mapping[str, outcomes.Json]:
        """Return the request of the contract."""
        return {name: value for name, value in self.model_dump().items() if value}

    def __str__(self) -> str:
        parts = [f"of prompts beginning with {self.prefix!r}" if self.prefix else ""]
        parts.append(f"of model {self.model!r}" if self.model else "")
        return " ".join(("l1 entries", *filter(None, parts)))


class FlushCache:
    """Probed by key after a crash; flushing again would only cost entries that were good."""

    def __init__(self, targets: clients.Clients) -> None:
        self._targets = targets

    @property
    def spec(self) -> api.ActionSpec:
        """What the action declares."""
        return api.ActionSpec(
            name="flush_cache",
            summary="Remove answers from the response cache; the nodes stay in service",
            reentry=plans.Reentry.PROBE,
            is_reversible=False,
            is_destructive=False,
            parameters=params.schema(Params),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return the nodes; none becomes unavailable."""
        _parse(params)
        return scopes.still_serving(self._targets.where, scope)

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Read how many entries each node holds now."""
        what = _parse(params)
        states = await fanout.read(self._nodes(scope), lambda node: self._targets.nodes.state(scope.service, node))
        return tuple(
            plans.Change(f"{scope.service}/{node}", str(what), _before(what, state.cache.l1.entries), 0)
            for node, state in states.items()
        )

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Flush every node of the scope, each under its own key."""
        what, scope = _parse(params), context.scope

        async def flush(node: str) -> admin.Flushed:
            answer = await self._targets.nodes.change(
                scope.service,
                node,
                "POST",
                PATH,
                body=what.body(),
                key=_key(context, node),
                timeout_seconds=context.timeout_seconds,
            )
            return admin.changed_as(admin.Flushed, answer, f"{scope.service}/{node}")

        done = await fanout.change(self._nodes(scope), flush)
        removed = sum(one.flushed for one in done.values())
        return api.ActionResult(
            f"flushed {removed} {what} on {', '.join(done)}",
            {"flushed": removed, "nodes": {node: one.model_dump() for node, one in done.items()}},
        )

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Ask each node for the key; an empty cache counts as flushed, whoever or whatever restart emptied it."""
        _parse(params)
        found = await fanout.read(self._nodes(context.scope), lambda node: self._look(node, context))
        missing = [sentence for is_done, sentence in found.values() if not is_done]
        if missing:
            return api.NotApplied("; ".join(missing))
        sentence = "; ".join(sentence for _, sentence in found.values())
        return api.Applied(api.ActionResult(sentence, {"nodes": dict.fromkeys(found)}))

    async def _look(self, node: str, context: api.ActionContext) -> tuple[bool, str]:
        service = context.scope.service
        known = await self._targets.nodes.operation(service, node, _key(context, node))
        if known is not None:
            return True, f"{node} remembers this flush ({known.result.get('flushed')} entries, boot {known.boot_id})"
        # A restarted node has forgotten its keys, and its cache with them.
        state = await self._targets.nodes.state(service, node)
        entries = state.cache.l1.entries
        if entries == 0:
            return True, f"{node} does not know this flush but its cache is empty (boot {state.boot_id})"
        return False, f"{node} does not know this flush and holds {entries} entries (boot {state.boot_id})"

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Refuse: nobody keeps what was flushed."""
        del params, result
        raise errors.GiveUpError(
            f"flush_cache of {context.scope.service} cannot be undone; the cache fills again by itself"
        )

    def _nodes(self, scope: api.Scope) -> tuple[str, ...]:
        return scopes.nodes(self._targets.where, scope)


def _parse(given: api.Params) -> Params:
    return params.parse(Params, given)


def _key(context: api.ActionContext, node: str) -> str:
    """Return the step's own key for a named node, and one derived from it per node of a whole service."""
    return context.idempotency_key if context.scope.node else keys.derive(context.idempotency_key, node)


def _before(what: Params, entries: int) -> outcomes.Json:
    return f"part of {entries}" if what.prefix or what.model else entries
