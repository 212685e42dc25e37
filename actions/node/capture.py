"""Action `capture_node`: looks at a node's process from inside before somebody restarts it, and keeps what explains it.

The run's log keeps a few KiB: numbers, the ends of the stacks and the digest of the whole. Changes nothing; a node that
does not answer fails the step, which the runbooks then pass over, since a restart must not wait for its explanation.
"""

import hashlib
import json
from typing import Annotated

import pydantic

from actions import api, clients, params, scopes
from actions.node import admin
from controlplane.domain import errors, outcomes, plans

CAPTURE = "/admin/v1/capture"
# Together some four KiB; the innermost calls tell what a thread waits for, and the rest is the same for most threads.
_MAX_THREADS = 8
_MAX_FRAMES = 4
_MAX_TOP = 5
_MEGABYTE = 1e6


class Params(params.Params):
    """None: what is looked at is the node's to say."""


Text = Annotated[str, pydantic.StringConstraints(max_length=120)]
Entry = Annotated[dict[Text, Text | int], pydantic.Field(max_length=3)]


class _Part(pydantic.BaseModel):
    """A part of the answer; what is longer than the contract allows is no answer, for it would end up in the log."""

    model_config = pydantic.ConfigDict(extra="ignore", strict=True, frozen=True)


class _Stack(_Part):
    thread: Text
    frames: list[Text]


class _Top(_Part):
    top: list[Entry]


class Captured(_Part):
    """The parts of a node's answer that are kept."""

    resident_bytes: int | None
    memory_limit_bytes: int | None
    engine: Annotated[dict[Text, int | bool], pydantic.Field(max_length=8)]
    gc_counts: Annotated[list[int], pydantic.Field(max_length=8)]
    num_threads: int
    num_open_files: int | None
    cuda: Annotated[dict[Text, int], pydantic.Field(max_length=16)] | None
    allocations: _Top
    stacks: list[_Stack]
    profile: _Top
    boot_id: Text

    def shortened(self) -> dict[str, outcomes.Json]:
        """Return what goes into the run's log."""
        kept = self.model_dump(exclude={"stacks", "allocations", "profile"})
        kept["stacks"] = [
            {"thread": one.thread, "frames": one.frames[:_MAX_FRAMES]} for one in self.stacks[:_MAX_THREADS]
        ]
        kept["allocations"] = self.allocations.top[:_MAX_TOP]
        kept["profile"] = self.profile.top[:_MAX_TOP]
        return kept


class CaptureNode:
    """May be repeated at will: each look is a new one, under one key the same."""

    def __init__(self, targets: clients.Clients) -> None:
        self._targets = targets

    @property
    def spec(self) -> api.ActionSpec:
        """What the action declares."""
        return api.ActionSpec(
            name="capture_node",
            summary="Keep stacks, a profile and memory of a node's process, as before a restart",
            reentry=plans.Reentry.IDEMPOTENT,
            is_reversible=False,
            is_destructive=False,
            parameters=params.schema(Params),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return the node as touched and serving."""
        _parse(params)
        return plans.BlastRadius(touched=(scopes.one(self._targets.where, scope, "capture_node"),))

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Return no difference: nothing is changed."""
        _parse(params)
        scopes.one(self._targets.where, scope, "capture_node")
        return ()

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Look, and return the short of it."""
        _parse(params)
        service, node = context.scope.service, scopes.one(self._targets.where, context.scope, "capture_node")
        answer = await self._targets.nodes.change(
            service, node, "POST", CAPTURE, key=context.idempotency_key, timeout_seconds=context.timeout_seconds
        )
        found = admin.changed_as(Captured, answer, f"{service}/{node}")
        text = json.dumps(answer, sort_keys=True, separators=(",", ":")).encode()
        whole: dict[str, outcomes.Json] = {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}
        return api.ActionResult(_say(node, found), {**found.shortened(), "whole": whole})

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Say that it may be sent again: there is no effect to look for."""
        _parse(params)
        return api.NotApplied(f"looking at {context.scope.node} leaves nothing behind; it can be done again")

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Refuse: there is nothing to restore."""
        del params, result
        raise errors.GiveUpError(f"capture_node of {context.scope.node} changed nothing, so nothing can be undone")


def _say(node: str, found: Captured) -> str:
    limit = "" if found.memory_limit_bytes is None else f" of {_megabytes(found.memory_limit_bytes)}"
    files = "" if found.num_open_files is None else f" and {found.num_open_files} open files"
    return f"{node} holds {_megabytes(found.resident_bytes)}{limit}, with {found.num_threads} threads{files}"


def _megabytes(number: int | None) -> str:
    return "an unknown amount of memory" if number is None else f"{number / _MEGABYTE:.0f} MB"


def _parse(given: api.Params) -> Params:
    return params.parse(Params, given)
