"""Breakers and repeated decisions in the database: what is latched stays, what repeats itself is counted."""

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.domain import errors, outcomes
from controlplane.store import house
from tests.support import store as support
from tests.support.clock import START, FakeClock


async def test_a_tripped_breaker_survives_a_restart_and_keeps_its_first_reason(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Only a person closes it, and who did is kept when it trips again."""
    with support.opened(tmp_path, clock) as store:
        await store.automation.trip("chat", "6 nodes within 10 min", ["node-a", "node-b"])
        clock.move(60)
        await store.automation.trip("chat", "7 nodes within 10 min", ["node-c"])
    with support.opened(tmp_path, clock) as store:
        found = (await store.automation.breakers())["chat"]
        assert (found.is_open, found.sentence, found.nodes) == (True, "6 nodes within 10 min", ("node-a", "node-b"))
        assert found.tripped_at == START
        await store.automation.reset("chat", "ada", "a broken switch")
        found = (await store.automation.breakers())["chat"]
        assert (found.is_open, found.reset_by, found.reset_at) == (False, "ada", START + timedelta(seconds=60))
        await store.automation.trip("chat", "again", [])
        found = (await store.automation.breakers())["chat"]
        assert (found.is_open, found.sentence, found.reset_reason) == (True, "again", "a broken switch")


async def test_what_is_not_open_cannot_be_reset(store: house.House) -> None:
    """Neither one that never tripped, nor one that was reset already."""
    await store.automation.trip("chat", "6 nodes", [])
    await store.automation.reset("chat", "ada", "looked")
    for service in ("chat", "search"):
        with pytest.raises(errors.NotFoundError, match="is not open"):
            await store.automation.reset(service, "bob", "me too")


def denied(number: int, **fields: object) -> outcomes.Decision:
    answer = outcomes.GateAnswer(outcomes.Gate.COOLDOWN, False, f"{number}", {"left": number}, "time")
    made = outcomes.Decision(
        id=f"dec_{number}",
        at=START + timedelta(seconds=number),
        service="chat",
        target="chat/node-a",
        runbook="flush-cache",
        outcome="denied",
        sentence=f"cooldown: {number} s left",
        incident_id="inc_1",
        policy="cache",
        answers=(answer,),
    )
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


async def test_a_refusal_that_repeats_itself_is_counted(store: house.House) -> None:
    """One row says how often, since when, and the newest numbers; another gate or a run's own refusal begins anew."""
    for number in range(4):
        await store.decisions.record(denied(number))
    await store.decisions.record(denied(9, run_id="run_1"))
    of_run, repeated = await store.decisions.find()
    assert (repeated.times, repeated.since, repeated.answers[0].numbers) == (4, START, {"left": 3})
    assert (of_run.times, of_run.since, of_run.answers[0].hint) == (1, None, "time")


async def test_decisions_are_found_by_run_service_and_target(store: house.House) -> None:
    """As `dsctl explain` asks for them."""
    await store.decisions.record(denied(1, run_id="run_1"))
    await store.decisions.record(denied(2, service="search", target="search", incident_id=None))
    by_run = await store.decisions.find(run_id="run_1")
    assert [one.id for one in by_run] == ["dec_1"]
    assert await store.decisions.find(service="chat") == by_run
    assert await store.decisions.find(target="chat/node-a") == by_run
    assert await store.decisions.find(service="search", target="chat/node-a") == ()
