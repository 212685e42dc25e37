"""Stories played on a scripted fleet with a fake clock: what the runner does and how it judges."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain import errors, findings, outcomes, policies
from controlplane.scenarios import judging, reports, runner, stories
from controlplane.scenarios import samples as smp
from tests.support import story
from tests.support.clock import FakeClock

AUTO, OBSERVE = policies.Mode.AUTO, policies.Mode.OBSERVE
LIMITS = {"error_ratio": 0.01, "latency_p99_seconds": 1.5}

S4 = story.told(
    story.at(0).inject("poison_cache", on="node-1"),
    story.by(15).expect_incident("cache", on="node-1"),
    story.by(20).expect_runbook("flush-cache", on="node-1"),
    story.by(60).expect_verdict("recovered", on="node-1"),
    before_seconds=12,
)


def fleet_that(clock: FakeClock, *, acts_at: float | None, notices_at: float = 6.0, heals_after: float | None = None):
    """A fleet whose control plane opens an incident and, unless `acts_at` is None, flushes and verifies."""
    when = story.seconds_after(clock.now())
    # The runner injects 12 s after the clients' first answer, which the scripted fleet gives at once.
    incident = judging.SeenIncident(
        "inc_1", findings.FaultClass.CACHE, "node-1", when(12 + notices_at), "alert:CacheWrong", "flushes node-1"
    )
    script: list[tuple[float, judging.SeenIncident | judging.SeenRun]] = [(notices_at, incident)]
    if acts_at is not None:
        started = when(12 + acts_at)
        run = judging.SeenRun("run_1", "flush-cache", "node-1", "waiting", started, started)
        done = judging.SeenRun(
            "run_1", "flush-cache", "node-1", "succeeded", started, started, outcomes.Verdict.RECOVERED
        )
        script += [(acts_at, run), (acts_at + 10, done)]
    return _Fleet(clock, heals_after=heals_after, script=script)


class _Fleet(story.ScriptedFleet):
    async def seen(self, since):
        """Only the newest state of a run, as an API shows it."""
        shown = await super().seen(since)
        return judging.Seen(shown.incidents, tuple({run.id: run for run in shown.runs}.values()))


async def test_a_fleet_that_is_healed_in_time_ends_recovered(clock: FakeClock):
    """Detected at 6 s, acted at 8 s, healed at 8 s: recovered, with every time counted from the injection."""
    fleet = fleet_that(clock, acts_at=8.0, heals_after=8.0)
    result = await story.play(S4, fleet)
    story.assert_as_expected(result)
    assert (result.opened_by, result.detected_seconds, result.acted_seconds) == ("alert:CacheWrong", 6.0, 8.0)
    assert result.clients.recovered_seconds == pytest.approx(8.0, abs=0.2)
    assert (result.clients.before.total.error_ratio, result.clients.after.total.error_ratio) == (0.0, 0.0)
    # All but the one answer that was on its way when the trouble began.
    assert result.clients.during.total.error_ratio == pytest.approx(80 / 81, abs=1e-3)
    assert result.runs == ("run_1",)


async def test_the_story_ends_early_once_all_is_met_and_clients_were_well(clock: FakeClock):
    """Nobody waits for the whole window of a story that ended well."""
    fleet = fleet_that(clock, acts_at=8.0, heals_after=8.0)
    await story.play(S4, fleet)
    assert fleet.injected_at is not None
    assert (clock.now() - fleet.injected_at).total_seconds() < 25


async def test_in_observe_mode_the_trouble_stays_and_that_is_as_expected(clock: FakeClock):
    """The same story without an act ends not recovered, after its whole window, without a complaint."""
    fleet = fleet_that(clock, acts_at=None)
    result = await story.play(S4, fleet, OBSERVE)
    story.assert_as_expected(result)
    assert result.clients.verdict is outcomes.Verdict.NOT_RECOVERED
    assert result.clients.recovered_seconds is None
    assert fleet.injected_at is not None
    assert (clock.now() - fleet.injected_at).total_seconds() >= S4.spec.window_seconds


async def test_acting_in_observe_mode_is_complained_about(clock: FakeClock):
    """Observe means observe, even when the trouble stays."""
    result = await story.play(S4, fleet_that(clock, acts_at=8.0), OBSERVE)
    assert any("acted on node-1 in observe mode (run_1)" in text for text in result.complaints)


async def test_a_control_plane_that_only_claims_recovery_is_not_believed(clock: FakeClock):
    """The verdict is the clients': a run that says recovered while answers stay wrong ends not recovered."""
    result = await story.play(S4, fleet_that(clock, acts_at=8.0, heals_after=None))
    assert result.clients.verdict is outcomes.Verdict.NOT_RECOVERED
    assert "clients saw not_recovered, expected recovered" in result.complaints


async def test_a_late_act_is_complained_about_with_the_time_it_was_seen(clock: FakeClock):
    """A deadline of a story counts even when everything ends well."""
    result = await story.play(S4, fleet_that(clock, acts_at=25.0, heals_after=25.0))
    assert result.clients.verdict is outcomes.Verdict.RECOVERED
    assert any("flush-cache acts on node-1; seen only at 25.0 s (run_1)" in text for text in result.complaints)


async def test_what_was_missed_says_what_was_seen_instead(clock: FakeClock):
    """Expected against seen: the reader of a failure needs both."""
    result = await story.play(S4, fleet_that(clock, acts_at=None))
    assert any("flush-cache acts on node-1; seen: incident cache on node-1" in text for text in result.complaints)


async def test_trouble_nobody_felt_proves_nothing(clock: FakeClock):
    """A story whose injection has no effect does not count as recovered."""
    fleet = fleet_that(clock, acts_at=8.0)
    fleet.is_felt = False
    result = await story.play(S4, fleet)
    assert "the injected trouble did not reach the clients, so nothing was shown" in result.complaints


async def test_a_control_plane_that_is_away_for_a_while_is_asked_again(clock: FakeClock):
    """An outage of the API is told once and does not end the story."""
    fleet = fleet_that(clock, acts_at=8.0, heals_after=8.0)
    fleet.outage = (1.0, 10.0)
    story.assert_as_expected(await story.play(S4, fleet))
    assert sum("does not answer" in line.text for line in fleet.told) == 1


async def test_the_injection_outlives_the_window_and_is_withdrawn_at_its_end(clock: FakeClock):
    """A fault that ended by itself would look like a recovery."""
    fleet = fleet_that(clock, acts_at=None)
    await story.play(S4, fleet, OBSERVE)
    ((node, fault, ttl),) = fleet.injected
    assert (node, fault) == ("node-1", "poison_cache")
    assert ttl > S4.spec.window_seconds
    assert fleet.withdrawn == [("node-1", "poison_cache")]


async def test_a_cancelled_story_withdraws_what_it_injected(clock: FakeClock):
    """Ctrl-C leaves no fault behind."""
    fleet = fleet_that(clock, acts_at=None)
    player = runner.Runner(fleet=fleet, control=fleet, load=fleet, clock=clock, tell=fleet.told.append)
    playing = asyncio.ensure_future(player.play(S4, AUTO))
    while not fleet.injected:
        await clock.sleep(0)
        clock.move(0.25)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert fleet.withdrawn == [("node-1", "poison_cache")]


async def test_clients_that_get_no_answer_end_the_story_before_it_begins(clock: FakeClock):
    """Without load nothing can be shown, and saying so beats a verdict."""

    class Silent(story.ScriptedFleet):
        def samples(self):
            return []

    fleet = Silent(clock)
    with pytest.raises(errors.GiveUpError, match="no client was answered within 120 s"):
        await story.play(S4, fleet)
    assert fleet.injected == []


async def test_the_report_has_the_keys_that_other_tools_read(clock: FakeClock):
    """The format of demo-report.json."""
    result = await story.play(S4, fleet_that(clock, acts_at=8.0, heals_after=8.0))
    report: Any = reports.as_json(AUTO, [result])
    assert report["mode"] == "auto"
    (scenario,) = report["scenarios"]
    promised = {
        "id",
        "verdict",
        "opened_by",
        "detected_s",
        "acted_s",
        "recovered_s",
        "before",
        "during",
        "after",
        "runs",
    }
    assert promised <= set(scenario)
    assert scenario["verdict"] == "recovered"
    assert scenario["before"] == {
        "p99_s": 0.1,
        "error_ratio": 0.0,
        "rejected_ratio": 0.0,
        "requests": 119,
        "levels": {"standard": {"p99_s": 0.1, "error_ratio": 0.0, "rejected_ratio": 0.0, "requests": 119}},
    }


SURGE = story.told(
    story.at(0).load(premium=20, batch=90),
    story.by(20).expect_rung(2),
    story.at(30).load(standard=10),
    held=[{"level": "standard", "from_seconds": 10, "until_seconds": 30, "limits": LIMITS}],
    window_seconds=75,
)
SHED = judging.SeenFleet(rung=2)


async def test_load_changes_with_the_timeline_and_ends_as_it_began(clock: FakeClock):
    """A surge, its end, and at the end of the story the load it started with."""
    fleet = story.ScriptedFleet(clock, heals_after=5.0, limits=[(8.0, 40.0, SHED)])
    result = await story.play(SURGE, fleet)
    story.assert_as_expected(result)
    assert [traffic.rate for traffic in fleet.switched] == [110, 10, 10]
    (shed,) = result.met
    assert isinstance(shed, judging.Met)
    assert shed.at_seconds == pytest.approx(8.0, abs=0.6)


async def test_a_story_is_not_over_while_the_fleet_is_not_whole(clock: FakeClock):
    """Climbing back is part of it: well clients alone do not end the story."""
    fleet = story.ScriptedFleet(clock, heals_after=5.0, limits=[(8.0, 60.0, SHED)])
    story.assert_as_expected(await story.play(SURGE, fleet))
    assert fleet.injected_at is not None
    assert (clock.now() - fleet.injected_at).total_seconds() >= 60


async def test_a_fleet_that_is_not_whole_at_the_end_is_complained_about(clock: FakeClock):
    """A ladder that nobody climbs back is no recovery, however well the served ones are."""
    result = await story.play(SURGE, story.ScriptedFleet(clock, heals_after=5.0, limits=[(8.0, 900.0, SHED)]))
    assert "at the end the service is on rung 2 of 4 (batch shed)" in result.complaints


async def test_what_a_level_was_promised_in_the_middle_decides_the_verdict(clock: FakeClock):
    """Trouble that ends with the load is not recovered from: it went away."""
    result = await story.play(SURGE, story.ScriptedFleet(clock, heals_after=20.0, limits=[(8.0, 40.0, SHED)]))
    assert result.clients.verdict is outcomes.Verdict.NOT_RECOVERED
    (held,) = result.clients.held
    assert (held.is_kept, held.seen.error_ratio) == (False, 0.5)
    assert any("level standard from 10 to 30 s: expected P99 1.5 s" in text for text in result.complaints)
    assert any("errors 50.0%, refused 0.0%" in text for text in result.complaints)


async def test_a_broken_promise_is_what_observe_mode_has_to_show(clock: FakeClock):
    """Without acts premium suffers until the load falls, and then all are well: not recovered, as expected."""
    result = await story.play(SURGE, story.ScriptedFleet(clock, heals_after=20.0), OBSERVE)
    story.assert_as_expected(result)
    assert result.clients.after.total.error_ratio == 0.0


async def test_degrading_in_observe_mode_is_complained_about(clock: FakeClock):
    """Observe means observe."""
    fleet = story.ScriptedFleet(clock, heals_after=20.0, limits=[(8.0, 9.5, SHED)])
    result = await story.play(SURGE, fleet, OBSERVE)
    assert "the service was on rung 2 of 4 (batch shed) in observe mode" in result.complaints


async def test_a_level_that_is_refused_is_not_well_again(clock: FakeClock):
    """Refusals are no errors, and yet a story does not end with them."""

    class Refusing(story.ScriptedFleet):
        def sample(self, when: float) -> smp.Sample:
            return replace(super().sample(when), code=429)

    result = await story.play(SURGE, Refusing(clock, heals_after=0.0))
    assert result.clients.verdict is outcomes.Verdict.NOT_RECOVERED
    assert result.clients.after.levels["standard"].rejected_ratio == 1.0


async def test_the_incident_of_the_story_is_reported_and_not_an_earlier_symptom(clock: FakeClock):
    """What opened the incident that the story is about is the question; a slow service is noticed by others, too."""
    when = story.seconds_after(clock.now())
    alert = judging.SeenIncident("inc_1", findings.FaultClass.LATENCY, "", when(12), "alert:LatencyHigh")
    forest = judging.SeenIncident("inc_2", findings.FaultClass.BAD_NODE, "node-1", when(14), "isolation_forest")
    told = story.told(
        story.at(0).inject("slow_decode", on="node-1", factor=10),
        story.by(15).expect_incident("bad_node", on="node-1", opened_by="isolation_forest"),
        before_seconds=10,
    )
    fleet = story.ScriptedFleet(clock, heals_after=5.0, script=[(2.0, alert), (4.0, forest)])
    result = await story.play(told, fleet)
    story.assert_as_expected(result)
    assert (result.opened_by, result.detected_seconds) == ("isolation_forest", 4.0)


async def test_an_incident_that_another_source_opened_does_not_count(clock: FakeClock):
    """A threshold that was quicker is said, and is not what the story is to show."""
    when = story.seconds_after(clock.now())
    alert = judging.SeenIncident("inc_1", findings.FaultClass.BAD_NODE, "node-1", when(12), "alert:ServerErrorsHigh")
    told = story.told(
        story.at(0).inject("errors", on="node-1", ratio=0.5),
        story.by(15).expect_incident("bad_node", on="node-1", opened_by="isolation_forest"),
        before_seconds=10,
    )
    result = await story.play(told, story.ScriptedFleet(clock, heals_after=5.0, script=[(2.0, alert)]))
    assert result.opened_by == "alert:ServerErrorsHigh"
    assert any("opened by isolation_forest; seen: incident bad_node" in text for text in result.complaints)


async def settle(fleet: story.ScriptedFleet, told: stories.Story) -> tuple[str, ...]:
    """Let the runner wait for rest, as fast as it goes."""
    player = runner.Runner(fleet=fleet, control=fleet, load=fleet, clock=fleet.clock, tell=fleet.told.append)
    settling = asyncio.ensure_future(player.settle(told))
    while not settling.done():
        await fleet.clock.sleep(0)
        fleet.clock.move(0.5)
    return await settling


async def test_between_stories_everything_comes_to_rest(clock: FakeClock):
    """No run under way, no open incident, the fleet whole: then the next story starts clean."""
    fleet = story.ScriptedFleet(clock, unsettled_for=40.0)
    start = clock.monotonic()
    fleet.switch(SURGE.spec.load)
    assert await settle(fleet, SURGE) == ()
    assert clock.monotonic() - start == pytest.approx(40, abs=1)


async def test_what_never_comes_to_rest_is_complained_about(clock: FakeClock):
    """The wait is bounded, and what is left belongs to the story before."""
    fleet = story.ScriptedFleet(clock, unsettled_for=900.0)
    fleet.switch(SURGE.spec.load)
    assert await settle(fleet, SURGE) == ("150 s after T1: run run_1 is running",)
