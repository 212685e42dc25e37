"""Action `canary_test`: small requests straight to one node, before its gateway sends it anything again.

The node must answer all of them in time and say what a peer says: a deterministic request has one right answer. Peers
are nodes that its gateway has in service, with the same model. Works badly where nobody else serves that model (then
only status, time and text are checked, and the result says so), and where nodes compute differently on purpose.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import pydantic

from actions import api, clients, params, scopes
from actions.node import admin, data
from controlplane.domain import errors, plans

_IN_SERVICE = "in_service"
# A second opinion, for the case that the peer is the one that is wrong.
_MAX_PEERS = 2
# Peers that are asked whether they will do; a fleet of thousands must not be searched through.
_MAX_ASKED = 10
_MAX_NAMED = 3

Answers = Sequence[data.Answer]


class Params(params.Params):
    """How many requests, how long each may take, and how many tokens it asks for."""

    num_requests: Annotated[int, pydantic.Field(ge=1, le=20)] = 5
    request_seconds: Annotated[float, pydantic.Field(gt=0, le=300)] = 10.0
    max_tokens: Annotated[int, pydantic.Field(ge=1, le=64)] = 8


@dataclass(frozen=True, slots=True)
class _Peer:
    """An untouched node and what it answered."""

    name: str
    answers: Answers


class CanaryTest:
    """Changes nothing, so it may be repeated at will."""

    def __init__(self, targets: clients.Clients) -> None:
        self._targets = targets

    @property
    def spec(self) -> api.ActionSpec:
        """What the action declares."""
        return api.ActionSpec(
            name="canary_test",
            summary="Send a node a few deterministic requests and compare its answers with a peer's",
            reentry=plans.Reentry.IDEMPOTENT,
            is_reversible=False,
            is_destructive=False,
            parameters=params.schema(Params),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return the node as touched and serving."""
        _parse(params)
        return plans.BlastRadius(touched=(scopes.one(self._targets.where, scope, "canary_test"),))

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Return no difference: nothing is changed."""
        _parse(params)
        scopes.one(self._targets.where, scope, "canary_test")
        return ()

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Test the node; raises GiveUpError that says which requests failed, and how."""
        what, scope = _parse(params), context.scope
        node = scopes.one(self._targets.where, scope, "canary_test")
        answers = await self._ask(scope.service, node, what)
        failed = {number: answer.reason for number, answer in enumerate(answers) if isinstance(answer, data.Failed)}
        if failed:
            raise errors.GiveUpError(f"{scope.service}/{node} failed {_count(failed, what)}: {_say(failed)}")
        peers = await self._peers(scope.service, node, what)
        wrong = _differing(answers, peers)
        if wrong:
            names = " and ".join(peer.name for peer in peers)
            raise errors.GiveUpError(
                f"{scope.service}/{node} failed {_count(wrong, what)}: other text than {names} for {_say(wrong)}"
            )
        compared = f"the same as {peers[0].name}" if peers else "compared with nobody, for no peer serves this model"
        return api.ActionResult(
            f"{node} answered {what.num_requests} of {what.num_requests}, {compared}",
            {"peers": [peer.name for peer in peers]},
        )

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Say that it may be sent again: there is no effect to look for."""
        _parse(params)
        return api.NotApplied(f"testing {context.scope.node} leaves nothing behind; it can be done again")

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Refuse: there is nothing to restore."""
        del params, result
        raise errors.GiveUpError(f"canary_test of {context.scope.node} changed nothing, so nothing can be undone")

    async def _ask(self, service: str, node: str, what: Params) -> Answers:
        url = self._targets.where.node_url(service, node)
        calls = [
            self._targets.data.complete(
                url, _prompt(number), max_tokens=what.max_tokens, within_seconds=what.request_seconds
            )
            for number in range(what.num_requests)
        ]
        return await asyncio.gather(*calls)

    async def _peers(self, service: str, node: str, what: Params) -> list[_Peer]:
        """Return up to two peers that answered everything."""
        model = (await self._targets.nodes.state(service, node)).model
        found: list[_Peer] = []
        for name in (await self._serving(service, node))[:_MAX_ASKED]:
            if len(found) == _MAX_PEERS:
                break
            if await self._has_model(service, name, model):
                answers = await self._ask(service, name, what)
                if not any(isinstance(answer, data.Failed) for answer in answers):
                    found.append(_Peer(name, answers))
        return found

    async def _serving(self, service: str, node: str) -> list[str]:
        """Return the other nodes that the gateway has in service; where there is none, all others."""
        others = [name for name in self._targets.where.nodes(service) if name != node]
        try:
            states = {one.name: one.state for one in await self._targets.gateways.nodes(service)}
        except errors.DsctlError:
            return others
        return [name for name in others if states.get(name) == _IN_SERVICE]

    async def _has_model(self, service: str, name: str, model: admin.Model) -> bool:
        try:
            return (await self._targets.nodes.state(service, name)).model == model
        except errors.DsctlError:
            return False  # a peer that cannot be asked is none


def _parse(given: api.Params) -> Params:
    return params.parse(Params, given)


def _prompt(number: int) -> str:
    return f"Canary {number}: count on from {number * 7}"


def _differing(answers: Answers, peers: Sequence[_Peer]) -> dict[int, str]:
    """Return the requests whose answer no peer confirms; none where there is no peer."""
    if not peers:
        return {}
    return {
        number: "the same prompt"
        for number, answer in enumerate(answers)
        if all(peer.answers[number] != answer for peer in peers)
    }


def _count(failed: Mapping[int, str], what: Params) -> str:
    return f"{len(failed)} of {what.num_requests} canary requests"


def _say(failed: Mapping[int, str]) -> str:
    """Return the reasons with how often each occurred and the numbers of the first requests."""
    parts: list[str] = []
    for reason, count in Counter(failed.values()).most_common():
        numbers = [str(number) for number, one in failed.items() if one == reason]
        shown = ", ".join(numbers[:_MAX_NAMED]) + (", ..." if count > _MAX_NAMED else "")
        parts.append(f"{reason} (request {shown})")
    return "; ".join(parts)
