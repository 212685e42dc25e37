"""Earned autonomy under any course of verdicts, resets and edits: never more than a person wrote, and never unasked."""

import asyncio
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain import policies, trust
from controlplane.engine import autonomy
from controlplane.engine import trust as engine
from tests.support import builders as b
from tests.support.clock import FakeClock
from tests.support.loop import Loop
from tests.support.trusts import FakeTrustStore, deeds

Mode = policies.Mode
MODES = st.sampled_from(list(Mode))
ORDER = list(Mode)
# Verdicts of runs, `!` for a reset by a person.
COURSES = st.lists(st.sampled_from("rnwu-!"), max_size=40)


def rank(mode: Mode) -> int:
    return ORDER.index(mode)


@given(COURSES, MODES, MODES, st.integers(1, 3))
def test_the_mode_in_force_is_never_above_ceiling_policy_or_demotion(
    course: list[str], written: Mode, ceiling: Mode, row: int
) -> None:
    """And goes up only where a person reset it, by what that person's files allow."""
    asyncio.run(_play(course, written, ceiling, row))


async def _play(course: list[str], written: Mode, ceiling: Mode, row: int) -> None:
    clock, store = FakeClock(), FakeTrustStore()
    allowed = min(written, ceiling, key=rank)
    policy = b.policy(mode=allowed, written=written)
    kept = autonomy.Autonomy(store, (policy,), trust.Thresholds(worse_in_a_row=row), clock, ceiling=ceiling)
    before = allowed
    for number, word in enumerate(course, start=1):
        clock.move(60)
        if word == "!":
            await kept.reset(policy.name, who="ada", why="test")
            before = allowed
        else:
            store.found += deeds(word, first=number)
        (taken,) = await kept.review()
        (standing,) = await kept.standings()
        held = standing.trust.demotion
        assert rank(taken.mode) <= min(rank(allowed), rank(before), rank(held.mode) if held else rank(allowed))
        assert taken.mode is standing.effective
        assert rank(taken.mode) >= min(rank(allowed), rank(Mode.SUGGEST))
        assert taken.mode is policy.mode or taken.demoted
        assert standing.proposal is None or held is None
        before = taken.mode


@given(st.text("rnwu-", min_size=1, max_size=30), st.booleans())
def test_a_policy_that_was_demoted_never_acts_without_approval(verdicts: str, is_restarted: bool) -> None:
    """Whatever its record: in mode auto only while nothing is held against it, else people are asked or it suggests."""
    asyncio.run(_act(verdicts, is_restarted=is_restarted))


async def _act(verdicts: str, *, is_restarted: bool) -> None:
    clock, store = FakeClock(), FakeTrustStore(deeds(verdicts))
    clock.move(timedelta(hours=2).total_seconds())
    loop = Loop(clock, trusts=store)
    loop.alerts.fire(b.alert())
    await loop.tick.run()
    if is_restarted:
        await loop.restarted().run()
    is_bad = engine.find_demotion(b.policy(), deeds(verdicts), trust.Trust(), trust.Thresholds(), clock.now())
    assert bool(store.entries) == (is_bad is not None)
    for run in loop.runs.runs.values():
        request = run.plan.request
        assert request.mode is (Mode.APPROVE if store.entries else Mode.AUTO)
        assert (request.approval is not None) == bool(store.entries)
