"""The tick: one sentence per incident, from the first alert to the verdict, and through every failure."""

import dataclasses
from typing import Any

import pytest

from controlplane.domain import errors, incidents, outcomes, plans, policies, runs
from controlplane.domain import findings as fnd
from controlplane.domain import signals as sig
from controlplane.engine import handle
from tests.support import builders as b
from tests.support.clock import FakeClock
from tests.support.loop import Loop

State, RunState, Verdict = incidents.IncidentState, outcomes.RunState, outcomes.Verdict


def firing(clock: FakeClock, **fields: Any) -> Loop:
    """A loop in which node-a's cache gives wrong answers."""
    loop = Loop(clock, **fields)
    loop.alerts.fire(b.alert())
    return loop


def end(loop: Loop, state: outcomes.RunState = RunState.SUCCEEDED, **fields: Any) -> None:
    """Let the newest run end, by default recovered."""
    now = loop.clock.now()
    defaults: dict[str, Any] = {"verdict": Verdict.RECOVERED, "acted_at": now, "sentence": "recovered: all is well"}
    loop.runs.put(dataclasses.replace(loop.run, state=state, step=1, ended_at=now, **defaults | fields))


async def test_from_the_alert_to_the_verdict(clock: FakeClock) -> None:
    """Opened, acted on, verified, and closed when the alert resolves; each tick says so in one sentence."""
    loop = firing(clock)
    assert loop.tick.report() is None
    assert loop.tick.seconds_since_good() is None
    assert await loop.sentence() == "acting: flush-cache on chat/node-a as run run_000001; cache_wrong_ratio is 0.4"
    assert (loop.incidents.only.state, loop.incidents.only.attempts) == (State.ACTING, 1)
    assert (await loop.sentence()).startswith("acting: run run_000001")
    loop.runs.put(dataclasses.replace(loop.run, state=RunState.WAITING, step=1, acted_at=clock.now()))
    assert (await loop.sentence()).startswith("verifying: run run_000001")
    end(loop)
    assert (await loop.sentence()).startswith("verified: run run_000001")
    loop.alerts.resolve()
    assert (await loop.sentence()).startswith("closed: run run_000001")
    assert (loop.incidents.only.state, loop.incidents.only.verdict) == (State.CLOSED, Verdict.RECOVERED)
    assert (await loop.tick.run()).lines == ()
    assert len(loop.runs.runs) == 1
    clock.move(3)
    assert loop.tick.seconds_since_good() == 3.0
    assert loop.tick.view() is not None


async def test_observing_never_acts_and_the_incident_stays_open(clock: FakeClock) -> None:
    """The same trouble in mode observe."""
    loop = firing(clock, offered=[b.policy(mode=policies.Mode.OBSERVE)])
    for _ in range(5):
        assert (await loop.sentence()).startswith("observing: policy cache-poisoned would run flush-cache")
        clock.move(15)
    assert loop.incidents.only.state is State.OPEN
    assert loop.runs.runs == {}
    assert [decision.outcome for decision in loop.decisions.decisions] == ["held"]
    assert len(loop.incidents.notes[loop.incidents.only.id]) == 2


async def test_a_resolved_alert_never_leads_to_a_request(clock: FakeClock) -> None:
    """Resolved before the policy's hold time was over: the incident ends by itself."""
    loop = firing(clock, offered=[b.policy(hold_seconds=30.0)])
    assert "has matched for 0 s and asks for 30 s" in await loop.sentence()
    clock.move(29)
    assert "asks for 30 s" in await loop.sentence()
    loop.alerts.resolve()
    clock.move(10)
    assert await loop.sentence() == "quiet: no source reports it; ends by itself in 1 min"
    clock.move(61)
    assert await loop.sentence() == "closed: ended by itself, quiet for 1 min 1 s"
    assert loop.planner.drafted == []


async def test_a_hold_time_counts_without_a_break(clock: FakeClock) -> None:
    """After silence it starts anew; when it is over the policy asks."""
    loop = firing(clock, offered=[b.policy(hold_seconds=30.0)])
    await loop.tick.run()
    clock.move(20)
    loop.alerts.resolve()
    await loop.tick.run()
    loop.alerts.fire(b.alert())
    clock.move(15)
    assert "has matched for 0 s" in await loop.sentence()
    clock.move(30)
    assert (await loop.sentence()).startswith("acting:")


async def test_a_refusal_of_the_guard_is_the_sentence(clock: FakeClock) -> None:
    """And it is retried: the level still says so when the brake is released."""
    loop = firing(clock)
    loop.automation.brakes["ada"] = "release"
    for _ in range(3):
        assert (await loop.sentence()).startswith("held: automation is paused (ada: release)")
    assert len(loop.incidents.notes[loop.incidents.only.id]) == 2
    loop.automation.brakes.clear()
    assert (await loop.sentence()).startswith("acting:")


async def test_prometheus_gone_holds_and_the_loop_resumes(clock: FakeClock) -> None:
    """No action on unknown data, a problem in the report, and afterwards the tick is good again."""
    loop = firing(clock)
    loop.reader.error = errors.RetryLaterError("Prometheus did not answer")
    report = await loop.tick.run()
    assert not report.is_good
    assert report.lines[0].sentence == ("held: the metrics store did not answer; automation never acts on unknown data")
    loop.alerts.resolve()
    clock.move(600)
    assert "unknown data never closes an incident" in await loop.sentence()
    loop.reader.error = None
    loop.alerts.fire(b.alert())
    assert (await loop.sentence()).startswith("acting:")
    report = loop.tick.report()
    assert report is not None
    assert report.is_good


async def test_without_alerts_nothing_is_taken_for_quiet(clock: FakeClock) -> None:
    """A store that does not answer stops the tick before it decides anything."""
    loop = firing(clock)
    await loop.tick.run()
    before = dict(loop.incidents.incidents)
    loop.alerts.error = errors.RetryLaterError("the database is busy")
    clock.move(15)
    report = await loop.tick.run()
    assert report.lines == ()
    assert "nothing was decided, the next tick tries again" in report.problems[0]
    assert loop.incidents.incidents == before
    assert loop.tick.seconds_since_good() == 15.0


async def test_a_crash_between_submission_and_saving_starts_nothing_twice(clock: FakeClock) -> None:
    """The run stored for the incident is found and followed."""
    loop = firing(clock)
    await loop.tick.run()
    incident = loop.incidents.only
    loop.incidents.incidents[incident.id] = dataclasses.replace(incident, state=State.OPEN, run_id=None, attempts=0)
    loop.restarted()
    assert (await loop.sentence()).startswith("acting: run run_000001")
    assert (loop.incidents.only.run_id, loop.incidents.only.attempts) == ("run_000001", 1)
    assert len(loop.runs.runs) == 1


async def test_a_persons_run_for_the_incident_is_followed(clock: FakeClock) -> None:
    """A suggestion that somebody took up."""
    loop = firing(clock, offered=[b.policy(mode=policies.Mode.SUGGEST)])
    assert (await loop.sentence()).startswith("suggested:")
    await loop.remediator.remediate(b.manual(incident_id=loop.incidents.only.id))
    assert (await loop.sentence()).startswith("acting: run run_000001")
    end(loop, RunState.FAILED, verdict=Verdict.WORSE)
    assert (await loop.sentence()).startswith("escalated: run run_000001")
    await loop.remediator.remediate(
        b.manual(incident_id=loop.incidents.only.id, limits=policies.GuardLimits(cooldown_seconds=0))
    )
    assert (await loop.sentence()).startswith("acting: run run_000002")


async def test_a_run_on_the_target_for_something_else_holds(clock: FakeClock) -> None:
    """Somebody works on the node already."""
    loop = firing(clock)
    loop.runs.put(b.run("run_9", plan=b.plan(b.manual(node=""))))
    assert await loop.sentence() == "held: run run_9 (flush-cache on chat) is running"


async def test_a_failed_verification_is_escalated_and_told_again(clock: FakeClock) -> None:
    """To whom the runbook names, once a minute while it lasts, and no longer when it is quiet."""
    loop = firing(clock)
    await loop.tick.run()
    end(loop, RunState.FAILED, verdict=Verdict.NOT_RECOVERED, sentence="not recovered: 0.4")
    said = await loop.sentence()
    assert said == "escalated: run run_000001 (flush-cache on chat/node-a) ended failed; not recovered: 0.4"
    assert loop.notifier.told == [(loop.incidents.only.id, "chat", "node-a", "cache-team", said)]
    for _ in range(4):
        clock.move(15)
        assert await loop.sentence() == said
    assert len(loop.notifier.told) == 2
    loop.alerts.resolve()
    clock.move(60)
    await loop.tick.run()
    clock.move(60)
    assert (await loop.sentence()).startswith("closed: ended, quiet")
    assert loop.incidents.only.verdict is Verdict.NOT_RECOVERED
    assert len(loop.notifier.told) == 2


async def test_people_are_told_on_while_it_is_unknown_whether_the_trouble_lasts(clock: FakeClock) -> None:
    """A node that went down reports nothing: its page must not end as if somebody had cured it."""
    loop = firing(clock)
    await loop.tick.run()
    end(loop, RunState.FAILED, verdict=Verdict.NOT_RECOVERED, sentence="not recovered: 0.4")
    said = await loop.sentence()
    loop.alerts.resolve()
    loop.reader.fleet = b.view(b.node(up=False), b.node("node-b"))
    clock.move(60)
    assert (await loop.sentence()).startswith("held: no source reports it, but node-a is down")
    assert [told[-1] for told in loop.notifier.told] == [said, said]


async def test_people_who_cannot_be_told_are_told_later(clock: FakeClock) -> None:
    """Alertmanager down: reported as a problem, retried every tick, never lost."""
    loop = firing(clock)
    await loop.tick.run()
    end(loop, RunState.NEEDS_HUMAN, verdict=None)
    loop.notifier.error = errors.RetryLaterError("Alertmanager did not answer")
    for _ in range(2):
        report = await loop.tick.run()
        assert "nobody could be told" in report.lines[0].sentence
        assert "Alertmanager did not answer" in report.problems[0]
    loop.notifier.error = None
    assert (await loop.tick.run()).is_good
    assert len(loop.notifier.told) == 1


async def test_trouble_that_stays_is_tried_again_until_the_attempts_are_spent(clock: FakeClock) -> None:
    """Verified, yet reported on and on: the loop ends at a person."""
    limits = policies.GuardLimits(cooldown_seconds=0.0, max_attempts=2)
    loop = firing(clock, offered=[b.policy(guard=limits)], pace=handle.Pace(grace_seconds=30.0))
    for attempt in (1, 2):
        assert f"as run run_00000{attempt}" in await loop.sentence()
        end(loop)
        assert (await loop.sentence()).startswith("verified:")
        clock.move(30)
        assert (await loop.sentence()).startswith("open again: alert:CacheWrongAnswers still reports it")
    said = await loop.sentence()
    assert said == (
        "escalated: flush-cache was tried 2 times on chat/node-a and the trouble is still reported; "
        "policy cache-poisoned allows 2"
    )
    assert loop.notifier.told[0][3] == "cache-team"
    assert await loop.sentence() == said
    assert len(loop.runs.runs) == 2


async def test_a_run_the_guard_stopped_gives_the_incident_back(clock: FakeClock) -> None:
    """The next tick asks again; a run that a person cancelled is not repeated."""
    loop = firing(clock)
    await loop.tick.run()
    end(loop, RunState.CANCELLED, acted_at=None, verdict=None, sentence="nothing was done: silence")
    loop.runs.put(loop.run, runs.RunEvent(1, clock.now(), runs.RunEventKind.GUARD_DENIED))
    assert (await loop.sentence()).startswith("open again: run run_000001")
    assert (await loop.sentence()).startswith("acting: flush-cache on chat/node-a as run run_000002")
    end(loop, RunState.CANCELLED, acted_at=None, verdict=None, sentence="cancelled on request")
    assert (await loop.sentence()).startswith("escalated: run run_000002")


async def test_a_symptom_names_its_cause_and_is_not_acted_on(clock: FakeClock) -> None:
    """One flush, not one per alert; when the cause is handed over, the symptom is on its own."""
    everything = b.policy("everything", when="true")
    loop = firing(clock, offered=[everything])
    symptom = {"node": "", "dsctl_fault": "errors", "dsctl_signal": "success_ratio"}
    loop.alerts.fire(b.alert("SuccessRatioLow", labels=symptom))
    report = await loop.tick.run()
    said = {line.key: line.sentence for line in report.lines}
    (cause,) = [one for one in loop.incidents.incidents.values() if one.key.node]
    assert said["chat:errors"] == (
        f"held: probable cause is cache on chat/node-a ({cause.id}, open); acted on there, not twice"
    )
    assert said["chat/node-a:cache"].startswith("acting:")
    assert len(loop.runs.runs) == 1
    end(loop, RunState.FAILED, verdict=Verdict.NOT_RECOVERED)
    await loop.tick.run()
    report = await loop.tick.run()
    assert {line.key: line.sentence for line in report.lines}["chat:errors"].startswith(
        "acting: flush-cache on chat as"
    )


async def test_alerts_of_nobodys_service_get_a_line(clock: FakeClock) -> None:
    """They are told, and do not make the tick a bad one."""
    loop = Loop(clock)
    loop.alerts.fire(b.alert("Elsewhere", labels={"service": "nope"}))
    report = await loop.tick.run()
    assert report.is_good
    (line,) = report.lines
    assert (line.incident_id, line.key) == ("", "alert:Elsewhere")
    assert loop.incidents.incidents == {}


async def test_a_detector_opens_an_incident_and_its_silence_ends_it(clock: FakeClock) -> None:
    """Findings and alerts are treated alike."""
    loop = Loop(clock)
    loop.detector.answers = [b.finding(source="oracle")]
    assert (await loop.sentence()).startswith("acting:")
    assert loop.incidents.only.opened_by == "oracle"


@pytest.mark.parametrize("how", ["raises", "not ready"])
async def test_a_detector_that_cannot_speak_is_not_taken_for_quiet(clock: FakeClock, how: str) -> None:
    """What it reported stays open, what others report goes on."""
    loop = Loop(clock, offered=[b.policy(mode=policies.Mode.OBSERVE)])
    loop.detector.answers = [b.finding(source="oracle")]
    await loop.tick.run()
    loop.alerts.fire(b.alert(labels={"node": "node-b"}))
    if how == "raises":
        loop.detector.error = RuntimeError("model is gone")
    else:
        loop.detector.answers = [fnd.NotReady("oracle", "chat", fnd.NotReadyReason.TOO_FEW_SAMPLES, "2 of 10")]
    clock.move(600)
    report = await loop.tick.run()
    said = {line.key: line.sentence for line in report.lines}
    assert "oracle cannot speak" in said["chat/node-a:cache"]
    assert said["chat/node-b:cache"].startswith("observing:")
    assert report.is_good is (how == "not ready")


async def test_what_fails_with_one_incident_stays_with_it(clock: FakeClock) -> None:
    """The others are handled; the report says what failed."""
    loop = firing(clock)
    loop.alerts.fire(b.alert(labels={"node": "node-b"}))
    loop.automation.brakes["ada"] = "wait"
    await loop.tick.run()
    loop.automation.brakes.clear()
    broken = min(loop.incidents.incidents)
    loop.incidents.error_for[broken] = OSError("disk full")
    report = await loop.tick.run()
    said = {line.incident_id: line.sentence for line in report.lines}
    assert said[broken] == "held: handling it failed: OSError('disk full'); the next tick tries again"
    assert [sentence.partition(":")[0] for key, sentence in said.items() if key != broken] == ["acting"]
    assert report.problems == (f"incident {broken}: OSError('disk full')",)


@pytest.mark.parametrize(
    "error",
    [errors.NotFoundError("no such node"), errors.RetryLaterError("node is busy"), errors.ConflictError("taken")],
)
async def test_a_plan_that_cannot_be_drafted_holds(clock: FakeClock, error: errors.DsctlError) -> None:
    """The reason is kept once, and the next tick tries again."""
    loop = firing(clock)
    loop.planner.error = error
    for _ in range(3):
        assert await loop.sentence() == f"held: flush-cache cannot be run on chat/node-a: {error}"
    assert [decision.outcome for decision in loop.decisions.decisions] == ["held"]
    loop.planner.error = None
    assert (await loop.sentence()).startswith("acting:")


async def test_a_replica_that_no_longer_leads_stops_at_once(clock: FakeClock) -> None:
    """Between two incidents the lease may be lost; the rest is the new leader's."""
    loop = firing(clock, is_leader=lambda: False)
    report = await loop.tick.run()
    assert report.lines == ()
    assert report.problems == ("tick: another replica leads now; the rest of this tick is left to it",)
    assert loop.incidents.incidents == {}


async def test_incidents_that_got_no_turn_are_first_in_the_next_tick(clock: FakeClock) -> None:
    """Dozens of hanging nodes take longer than a tick may; those behind them must not wait for ever."""
    loop = Loop(clock)
    names = [f"node-{number:02}" for number in range(40)]
    loop.alerts.fire(*(b.alert(labels={"node": name}) for name in names))

    def hang(request: plans.PlanRequest) -> plans.BlastRadius:
        clock.move(10)
        return plans.BlastRadius()

    loop.planner.blast = hang
    first = await loop.tick.run()
    handled = [line.key for line in first.lines]
    assert handled == [f"chat/{name}:cache" for name in names[: len(handled)]]
    following = f"chat/{names[len(handled)]}:cache"
    assert first.problems == (f"tick: no time was left for {following} and those behind it; the next begins there",)
    second = await loop.tick.run()
    assert second.lines[0].key == following


async def test_watching_learns_where_the_nodes_are_and_decides_nothing(clock: FakeClock) -> None:
    """What a replica does while another one leads; a store that fails leaves the view it had."""
    loop = firing(clock)
    await loop.tick.watch()
    assert loop.tick.view() is not None
    assert (loop.tick.seconds_since_good(), loop.tick.report()) == (0.0, None)
    assert (loop.incidents.incidents, loop.runs.runs) == ({}, {})
    seen = loop.tick.view()
    loop.reader.error = errors.RetryLaterError("Prometheus is gone")
    clock.move(15)
    await loop.tick.watch()
    assert (loop.tick.view(), loop.tick.seconds_since_good()) == (seen, 15.0)


async def test_the_escalation_of_an_incident_without_a_run_goes_to_oncall(clock: FakeClock) -> None:
    """No runbook names anybody."""
    loop = firing(clock)
    await loop.tick.run()
    incident = loop.incidents.only
    plain = dataclasses.replace(loop.run, plan=dataclasses.replace(loop.run.plan, on_failure=()))
    loop.runs.put(plain)
    end(loop, RunState.FAILED, verdict=Verdict.WORSE)
    await loop.tick.run()
    assert [told[3] for told in loop.notifier.told] == ["oncall"]
    assert loop.incidents.incidents[incident.id].state is State.ESCALATED


async def test_the_destructive_plan_of_a_policy_respects_the_blast_radius(clock: FakeClock) -> None:
    """Two nodes in trouble at once: one is acted on, the other waits with the numbers."""
    loop = firing(clock)
    loop.alerts.fire(b.alert(labels={"node": "node-b"}))
    loop.planner.blast = lambda request: plans.BlastRadius((request.node,), (request.node,), is_destructive=True)
    report = await loop.tick.run()
    said = sorted(line.sentence for line in report.lines)
    assert said[0].startswith("acting: flush-cache on chat/node-a")
    assert said[1] == "held: 2 nodes of 2 would be unavailable (node-a, node-b), at most 1 may be"


async def test_same_inputs_same_sentences(clock: FakeClock) -> None:
    """Two loops over the same world say the same."""
    one, other = firing(clock), firing(clock)
    assert await one.sentence() == await other.sentence()


async def test_an_incident_saved_with_a_run_that_is_gone_is_a_problem(clock: FakeClock) -> None:
    """Said at every tick; nothing is done about it on a guess."""
    loop = firing(clock)
    loop.incidents.incidents["inc_1"] = b.incident(state=State.ACTING, run_id="run_gone", attempts=1)
    report = await loop.tick.run()
    assert "there is no run run_gone" in report.problems[0]
    assert loop.planner.drafted == []


async def test_a_tick_that_saw_nothing_is_not_good(clock: FakeClock) -> None:
    """The reader answers a dead metrics store with unknowns; that must raise the alarm of the missing good tick."""
    loop = firing(clock)
    assert (await loop.tick.run()).is_good
    why = sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE, "connection refused")
    loop.reader.fleet = b.view(b.node("node-a", up=why), signals=dict.fromkeys(b.HEALTHY, why))
    clock.move(15)
    report = await loop.tick.run()
    assert not report.is_good
    [problem] = report.problems
    assert problem.startswith("observe: nothing could be read: metrics store did not answer (connection refused)")
    assert loop.tick.seconds_since_good() == 15.0
