"""Autonomy in the loop: what a bad record changes at once, what only a person gives back, and what it costs to know."""

import dataclasses
from datetime import timedelta

import pytest

from controlplane.domain import alerting, errors, outcomes, policies, runs, trust
from controlplane.engine import autonomy
from tests.support import builders as b
from tests.support.clock import START, FakeClock
from tests.support.loop import Loop
from tests.support.trusts import FakeTrustStore, deed, deeds

Mode = policies.Mode


def keeper(
    clock: FakeClock, store: trust.TrustStore, *offered: policies.Policy, ceiling: Mode = Mode.AUTO
) -> autonomy.Autonomy:
    return autonomy.Autonomy(store, offered or (b.policy(),), trust.Thresholds(), clock, ceiling=ceiling)


async def mode_of(kept: autonomy.Autonomy) -> Mode:
    """The mode in force after a review."""
    (policy,) = await kept.review()
    return policy.mode


async def test_a_bad_record_is_acted_on_at_once_and_survives_a_restart(clock: FakeClock) -> None:
    """Stored with who, when and why; told once; not repeated for the same runs, whoever looks."""
    store = FakeTrustStore(deeds("rr"))
    kept = keeper(clock, store)
    assert await mode_of(kept) is Mode.AUTO
    store.found += deeds("ww", first=5)
    clock.move(3600)
    assert await mode_of(kept) is Mode.APPROVE
    (entry,) = store.entries
    assert (entry.policy, entry.who, entry.why) == ("cache-poisoned", "dsctl", "2 runs in a row made it worse")
    assert entry.at == clock.now()
    assert list(kept.take_news()) == [entry]
    assert list(kept.take_news()) == []
    assert kept.demotions() == {"cache-poisoned": True}
    assert await mode_of(kept) is Mode.APPROVE
    assert await mode_of(keeper(clock, store)) is Mode.APPROVE
    assert len(store.entries) == 1


async def test_only_a_person_lifts_it_and_then_only_newer_runs_count(clock: FakeClock) -> None:
    """However good the runs that people ask for meanwhile."""
    store = FakeTrustStore(deeds("ww"))
    kept = keeper(clock, store)
    clock.move(3600)
    await kept.review()
    store.found += deeds("r" * 60, first=100)
    clock.move(86_400)
    assert await mode_of(kept) is Mode.APPROVE
    standing = await kept.reset("cache-poisoned", who="ada", why="the runbook is mended")
    assert standing.effective is Mode.AUTO
    assert standing.own.total.runs == 0
    assert (store.entries[-1].who, store.entries[-1].before) == ("ada", Mode.APPROVE)
    assert await mode_of(kept) is Mode.AUTO
    assert await mode_of(keeper(clock, store)) is Mode.AUTO
    after = clock.now() + timedelta(minutes=1)
    store.found += [deed(900 + number, verdict=outcomes.Verdict.WORSE, ended_at=after) for number in range(2)]
    clock.move(120)
    assert await mode_of(kept) is Mode.APPROVE


async def test_resetting_what_nobody_knows_names_those_there_are(clock: FakeClock) -> None:
    """A slip of the pen must not look like a success."""
    with pytest.raises(errors.NotFoundError, match="no policy is named 'nobody'; known are cache-poisoned"):
        await keeper(clock, FakeTrustStore()).reset("nobody", who="ada", why="test")


async def test_runs_that_people_asked_for_demote_no_policy(clock: FakeClock) -> None:
    """They stand in the runbook's ledger. Nor do runs of another policy, or of another runbook."""
    others = [
        *deeds("wwww", policy=None),
        *deeds("wwww", first=10, policy="other"),
        *deeds("wwww", first=20, runbook="return-node"),
    ]
    store = FakeTrustStore(others)
    kept = keeper(clock, store)
    assert await mode_of(kept) is Mode.AUTO
    assert store.entries == []
    book = await kept.book("flush-cache")
    assert (book.total.worse, set(book.policies)) == (8, {"", "other"})
    (standing,) = await kept.standings()
    assert (standing.own.total.runs, standing.record.worse) == (0, 8)
    assert {name: one.worse for name, one in kept.ledgers().items()} == {"flush-cache": 8, "return-node": 4}


async def test_runs_on_services_that_a_policy_does_not_answer_for_are_no_record_of_its(clock: FakeClock) -> None:
    """A runbook that fails elsewhere says nothing about here."""
    kept = keeper(clock, FakeTrustStore(deeds("rr", policy=None, service="search")))
    (standing,) = await kept.standings()
    assert standing.record.runs == 0
    assert (await kept.book("flush-cache")).total.runs == 2
    assert (await kept.book("no-such")).total == trust.Ledger()


async def test_the_ceiling_is_shown_beside_what_the_file_says(clock: FakeClock) -> None:
    """A policy is loaded with the ceiling already upon it."""
    kept = keeper(clock, FakeTrustStore(), b.policy(mode=Mode.SUGGEST, written=Mode.AUTO), ceiling=Mode.SUGGEST)
    (standing,) = await kept.standings()
    assert (standing.written, standing.ceiling, standing.effective) == (Mode.AUTO, Mode.SUGGEST, Mode.SUGGEST)


async def test_a_look_reads_only_what_has_ended_since_and_everything_once_an_hour(clock: FakeClock) -> None:
    """With a minute of overlap, because ends are stamped before they are committed; nothing is counted twice."""
    store = FakeTrustStore()
    kept = keeper(clock, store)
    await kept.review()
    await kept.review()
    store.found += deeds("rrr")
    await kept.review()
    await kept.review()
    newest = START + timedelta(minutes=2)
    assert store.asked == [None, None, None, newest - timedelta(minutes=1)]
    late = deed(50, ended_at=newest - timedelta(seconds=30))
    store.found.append(late)
    assert kept.ledgers()["flush-cache"].runs == 3
    await kept.review()
    assert kept.ledgers()["flush-cache"].runs == 4
    store.found = deeds("r")  # the others were old, and are deleted
    clock.move(3599)
    await kept.review()
    assert kept.ledgers()["flush-cache"].runs == 4
    clock.move(1)
    await kept.review()
    assert store.asked[-1] is None
    assert kept.ledgers()["flush-cache"].runs == 1


async def test_the_incident_says_why_it_waits_for_a_person_now(clock: FakeClock) -> None:
    """Auto before, and after two runs that made it worse a request that people have to agree to."""
    store = FakeTrustStore(deeds("ww"))
    clock.move(600)
    loop = Loop(clock, trusts=store)
    loop.alerts.fire(b.alert())
    await loop.tick.run()
    assert [request.mode for request in loop.planner.drafted] == [Mode.APPROVE]
    assert loop.planner.drafted[0].reason == (
        "cache_wrong_ratio is 0.4; policy cache-poisoned was taken from auto to approve: 2 runs in a row made it worse"
    )


async def test_one_that_was_taken_back_to_suggest_says_the_command_and_why(clock: FakeClock) -> None:
    """Nothing is stored that could act."""
    store = FakeTrustStore()
    at = clock.now()
    store.entries.append(
        trust.Entry("cache-poisoned", trust.Kind.DEMOTED, at, "dsctl", "bad", Mode.APPROVE, Mode.SUGGEST)
    )
    loop = Loop(clock, trusts=store)
    loop.alerts.fire(b.alert())
    said = await loop.sentence()
    assert said.startswith("suggested: policy cache-poisoned would run flush-cache on chat/node-a")
    assert said.endswith("; policy cache-poisoned was taken from approve to suggest: bad")
    assert loop.incidents.only.sentence == said
    assert loop.planner.drafted == []


async def test_a_ladder_that_was_taken_back_says_why_it_stays(clock: FakeClock) -> None:
    """Its runs count as others do; under full pressure it then waits for a person, and says since when and why."""
    ladder = policies.Ladder(up_after_seconds=1.0, settle_seconds=1.0)
    overload = b.policy("overload", when="finding.node == ''", runbook="degrade", ladder=ladder)
    loop = Loop(clock, offered=[overload], trusts=FakeTrustStore(deeds("ww", policy="overload", runbook="degrade")))
    loop.reader.fleet = b.view(signals={"gateway_queue_depth": 150.0, "gateway_load_ratio": 1.0})
    loop.alerts.fire(b.alert("Overload", labels={"node": "", alerting.FAULT_LABEL: "overload"}))
    clock.move(600)
    await loop.tick.run()
    clock.move(10)
    said = await loop.sentence()
    assert said.startswith("waits for a person: policy overload would put chat on rung 1")
    assert said.endswith("; policy overload was taken from auto to approve: 2 runs in a row made it worse")
    assert loop.planner.drafted == []


async def test_records_that_cannot_be_read_keep_everybody_from_acting(clock: FakeClock) -> None:
    """Not knowing whether a policy was taken back is no reason to let it."""
    store = FakeTrustStore()
    store.error = errors.RetryLaterError("the database did not answer")
    loop = Loop(clock, trusts=store)
    loop.alerts.fire(b.alert())
    report = await loop.tick.run()
    assert not report.is_good
    assert loop.planner.drafted == []


@pytest.fixture
async def stored(clock: FakeClock) -> tuple[Loop, FakeTrustStore, runs.Run]:
    """A run that was asked for in mode auto and has not begun, and whose policy is then taken back."""
    store = FakeTrustStore()
    loop = Loop(clock, trusts=store)
    loop.alerts.fire(b.alert())
    await loop.tick.run()
    at = clock.now()
    store.entries.append(trust.Entry("cache-poisoned", trust.Kind.DEMOTED, at, "dsctl", "bad", Mode.AUTO, Mode.APPROVE))
    return loop, store, loop.run


async def test_a_run_that_has_not_begun_does_not_begin(stored: tuple[Loop, FakeTrustStore, runs.Run]) -> None:
    """Taken back between the request and the first effect: refused at the moment of acting, with the reason."""
    loop, store, run = stored
    answer = await loop.guard.recheck(run.plan, run.id)
    assert isinstance(answer, outcomes.Denied)
    assert answer.gate is outcomes.Gate.MODE
    assert answer.sentence == (
        "the run was asked for in mode auto, and policy cache-poisoned was taken from auto to approve: bad"
    )
    store.error = errors.RetryLaterError("the database did not answer")
    unknown = await loop.guard.recheck(run.plan, run.id)
    assert isinstance(unknown, outcomes.Denied)
    assert unknown.gate is outcomes.Gate.FRESHNESS


async def test_a_run_that_has_acted_finishes_what_it_began(stored: tuple[Loop, FakeTrustStore, runs.Run]) -> None:
    """A node that was taken out must come back."""
    loop, _, run = stored
    loop.runs.put(dataclasses.replace(run, acted_at=loop.clock.now()))
    assert isinstance(await loop.guard.recheck(run.plan, run.id), outcomes.Allowed)


@pytest.mark.parametrize(
    "fields", [{"is_follow_up": True}, {"is_restoring": True}, {"policy": None, "requested_by": "ada"}]
)
async def test_what_ends_what_was_begun_and_what_people_ask_is_let_through(
    stored: tuple[Loop, FakeTrustStore, runs.Run], fields: dict[str, object]
) -> None:
    """It is no new attempt of the policy's."""
    loop, _, run = stored
    plan = dataclasses.replace(run.plan, request=dataclasses.replace(run.plan.request, **fields))
    assert isinstance(await loop.guard.recheck(plan, run.id), outcomes.Allowed)
