"""The harness must notice: each protection of the engine is taken away in turn, and the oracle has to see it.

What nobody misses is either no protection, or the harness is blind.
"""

import asyncio
import dataclasses
import random
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks import run_oracle
from controlplane.domain import plans
from controlplane.runs import ledger, moves, replica, transitions
from controlplane.store import tables
from tests.support import run_world

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SEEDS = range(12)
STEPS = 30
Patch = pytest.MonkeyPatch


async def _walk(seed: int, before: Callable[[sa.Connection], object] | None = None) -> run_oracle.Verdict:
    with tempfile.TemporaryDirectory() as folder:
        async with run_world.opened(Path(folder)) as world:
            if before is not None:
                await world.database.write(before)
            await world.rehearse(seed)
            await world.walk(random.Random(seed), STEPS)  # noqa: S311 - to be repeatable
            return await world.finish()


def _find_red(before: Callable[[sa.Connection], object] | None = None) -> run_oracle.Verdict:
    """Return the first verdict that blames somebody, or the last of all."""
    verdict = run_oracle.Verdict()
    for seed in SEEDS:
        verdict = asyncio.run(_walk(seed, before))
        if not verdict.is_clean:
            return verdict
    return verdict


def test_engine_as_it_is_keeps_every_promise() -> None:
    """The same walks that find each mutation find nothing in the engine itself."""
    assert _find_red().sentences == []


@pytest.mark.parametrize(
    "missing", [("owner", "token"), ("token",), ("revision",), ("owner", "token", "revision", "state")], ids=str
)
def test_a_commit_without_part_of_its_fence_is_noticed(monkeypatch: Patch, missing: tuple[str, ...]) -> None:
    """Whoever was replaced, by another or by itself, writes over its successor; whoever repeats a commit writes twice."""
    left = [condition for name, condition in ledger.FENCE.items() if name not in missing]
    monkeypatch.setattr(ledger, "COMMIT", ledger.make_commit(left))
    assert not _find_red().is_clean


def test_an_effect_without_its_announcement_is_noticed(monkeypatch: Patch) -> None:
    """What is sent and not written down before is a repeat that nobody knows of."""

    def announce_nothing(
        run_id: str, plan: plans.Plan, cursor: moves.Cursor, now: datetime
    ) -> tuple[moves.Cursor, tuple[moves.Entry, ...]]:
        return announce(run_id, plan, cursor, now)[0], ()

    announce = transitions.announce
    monkeypatch.setattr(transitions, "announce", announce_nothing)
    assert _find_red().unannounced_repeats


def test_a_claim_without_a_higher_token_is_noticed(monkeypatch: Patch) -> None:
    """Two owners with one token cannot be told apart, by nobody."""

    def claim(connection: sa.Connection, owner: str, now: datetime, limit: int) -> list[moves.Claim]:
        claims = claimed(connection, owner, now, limit)
        for one in claims:
            same = max(one.token - 1, 1)
            connection.execute(tables.RUN.update().where(tables.RUN.c.id == one.run_id).values(token=same))
        return [dataclasses.replace(one, token=max(one.token - 1, 1)) for one in claims]

    claimed = ledger.claim
    monkeypatch.setattr(ledger, "claim", claim)
    assert not _find_red().is_clean


def test_a_target_without_its_slot_is_noticed() -> None:
    """Without the index two runs hold one target."""
    verdict = _find_red(lambda connection: connection.execute(sa.text("DROP INDEX uq_run_target_slot")))
    assert verdict.over_slot


def test_a_replica_that_trusts_its_old_lease_is_noticed(monkeypatch: Patch) -> None:
    """Without its fence whoever overslept its lease sends what others have sent meanwhile."""

    async def may_act(self: replica.Replica, claim: moves.Claim) -> bool:
        return True

    monkeypatch.setattr(replica.Replica, "may_act", may_act)
    assert _find_red().stale_sends


def test_a_replica_that_only_looks_at_its_lease_is_noticed(monkeypatch: Patch) -> None:
    """The lease came back, or a successor took over a moment ago: the claims of before are another's by then."""

    async def may_act(self: replica.Replica, claim: moves.Claim) -> bool:
        return self.is_held()

    monkeypatch.setattr(replica.Replica, "may_act", may_act)
    assert _find_red().stale_sends


def test_a_doubt_that_is_forgotten_is_noticed(monkeypatch: Patch) -> None:
    """A step that was in flight when its owner died, taken for one that was never sent, happens twice."""
    monkeypatch.setattr(transitions, "is_in_doubt", lambda plan, cursor: False)
    verdict = _find_red()
    assert verdict.double_effects or verdict.unannounced_repeats, verdict.sentences
