"""The ladder inside the tick: rungs as runs through the one door, leases kept while automation may act, and the way back."""

import dataclasses
from typing import Any

from controlplane.domain import alerting, errors, incidents, lanes, outcomes, plans, policies, runs
from tests.support import builders as b
from tests.support.clock import FakeClock
from tests.support.loop import Loop

State, RunState, Verdict = incidents.IncidentState, outcomes.RunState, outcomes.Verdict
PACE = policies.Ladder(up_after_seconds=10, settle_seconds=20, down_below=0.7, down_after_seconds=30)
CALM = {
    "premium_latency_p99": 0.31,
    "premium_rejected_ratio": 0.0,
    "gateway_queue_depth": 0.0,
    "queue_depth": 0.0,
    "gateway_load_ratio": 0.1,
}
TTL = 120.0


def policy(**fields: Any) -> policies.Policy:
    defaults: dict[str, Any] = {
        "when": 'finding.kind == "overload" && finding.node == ""',
        "runbook": "degrade",
        "guard": policies.GuardLimits(cooldown_seconds=0, max_per_hour=120),
        "ladder": PACE,
    }
    return b.policy("overload", **defaults | fields)


def set_rung(request: plans.PlanRequest) -> tuple[plans.PlannedStep, ...]:
    params: dict[str, outcomes.Json] = {"ttl_seconds": TTL, **request.inputs}
    return (plans.PlannedStep("set", plans.StepKind.ACTION, 10.0, action="set_rung", params=params),)


class Surge:
    """A service under pressure, its alert, and runs that end at once with their effect."""

    def __init__(self, clock: FakeClock, **fields: Any) -> None:
        self.clock = clock
        self.loop = Loop(clock, offered=[policy(**fields)])
        self.loop.planner.steps = set_rung
        self.loop.planner.lane = lanes.Lane.DEGRADATION
        self.press(gateway_queue_depth=150.0)
        self.loop.alerts.fire(alert())

    def press(self, **signals: Any) -> None:
        """Set what the fleet tells of its load."""
        self.loop.reader.fleet = b.view(signals={**CALM, **signals})

    def relieve(self) -> None:
        """The load has fallen and the alert is over."""
        self.press()
        self.loop.alerts.resolve()

    async def tick(self, seconds: float = 0.0) -> str:
        """Move, tick, and let a run that was asked for take effect; return the sentence, empty without an incident."""
        self.clock.move(seconds)
        said = "".join(line.sentence for line in (await self.loop.tick.run()).lines)
        for run in list(self.loop.runs.runs.values()):
            if run.state is RunState.QUEUED:
                self.carry_out(run)
        return said

    def carry_out(self, run: runs.Run) -> None:
        rung = run.plan.steps[0].params["rung"]
        assert isinstance(rung, int)
        self.loop.rungs.put(rung, TTL)
        now = self.clock.now()
        done = dataclasses.replace(run, state=RunState.SUCCEEDED, step=1, acted_at=now, ended_at=now)
        self.loop.runs.put(done)

    async def climb_to(self, rung: int) -> None:
        for _ in range(100):
            if self.loop.rungs.rung == rung:
                return
            await self.tick(5)
        raise AssertionError(f"rung {rung} was never reached: {await self.tick()}")

    @property
    def asked(self) -> list[outcomes.Json]:
        """The rungs asked for, in order."""
        return [request.inputs["rung"] for request in self.loop.planner.drafted]


def alert() -> alerting.Alert:
    labels = {"node": "", alerting.FAULT_LABEL: "overload", alerting.SIGNAL_LABEL: "gateway_queue_depth"}
    return b.alert("GatewayQueueLong", labels=labels)


async def test_up_rung_by_rung_and_down_again_until_the_incident_closes_recovered(clock: FakeClock) -> None:
    """Each change is a run through the door; the incident stays open while degraded, and ends at full service."""
    surge = Surge(clock)
    assert (await surge.tick()).startswith(
        "held: rung 0 of 4 (full service); waiting in front 150 of 100; climbs in 10 s"
    )
    assert (await surge.tick(10)).startswith("acting: degrade on chat as run run_000001")
    said = await surge.tick(5)
    assert (
        said
        == "degrading: rung 1 of 4 (answers capped) for 0 s; waiting in front 150 of 100; climbs in 20 s if that lasts"
    )
    await surge.climb_to(2)
    surge.relieve()
    said = await surge.tick(5)
    assert said.startswith(
        "degrading: rung 2 of 4 (batch shed) for 0 s; premium P99 0.31 s of 1.5 s; comes down in 30 s"
    )
    for _ in range(20):
        await surge.tick(5)
    assert surge.asked == [1, 2, 1, 0]
    [incident] = surge.loop.incidents.incidents.values()
    assert (incident.state, incident.verdict) == (State.CLOSED, Verdict.RECOVERED)
    assert incident.sentence.startswith("closed: full service again on chat; rung 0 of 4 (full service); pressure 0.2")


async def test_every_step_is_allowed_by_the_guard_and_kept(clock: FakeClock) -> None:
    """Coming down is allowed although nobody reports trouble any more; every answer is stored with its run."""
    surge = Surge(clock)
    await surge.climb_to(1)
    surge.relieve()
    for _ in range(10):
        await surge.tick(5)
    kept = [(one.outcome, one.run_id) for one in surge.loop.decisions.decisions if one.run_id]
    assert kept == [("allowed", "run_000001"), ("allowed", "run_000002")]
    assert [request.is_restoring for request in surge.loop.planner.drafted] == [False, True]


async def test_the_top_is_the_end_and_premium_is_not_asked_about(clock: FakeClock) -> None:
    """Lasting pressure ends on the highest rung, with a sentence that says so."""
    surge = Surge(clock)
    await surge.climb_to(4)
    said = [await surge.tick(15) for _ in range(20)]
    assert surge.asked == [1, 2, 3, 4]
    assert said[-1].endswith("this is the highest rung allowed, premium is never shed")


async def test_unknown_data_holds_the_rung_and_keeps_its_lease(clock: FakeClock) -> None:
    """Whatever was pressing: while one measure is unknown nothing moves, and the lease is renewed."""
    surge = Surge(clock)
    await surge.climb_to(2)
    surge.press(gateway_queue_depth=500.0, premium_latency_p99=b.unknown())
    said = [await surge.tick(15) for _ in range(40)]
    assert surge.asked == [1, 2]
    assert surge.loop.rungs.rung == 2
    assert "stays here: premium_latency_p99 is unknown" in said[-1]


async def test_a_lease_is_renewed_with_what_the_run_set_and_not_at_every_tick(clock: FakeClock) -> None:
    """A third of the lease goes by between two renewals."""
    surge = Surge(clock)
    await surge.climb_to(1)
    surge.press(gateway_queue_depth=90.0)
    for _ in range(24):
        await surge.tick(5)
    assert surge.loop.rungs.renewed == [{"ttl_seconds": TTL, "rung": 1}] * 3


async def test_after_a_restart_the_rung_is_read_and_kept(clock: FakeClock) -> None:
    """A new process has no memory: it finds the rung at the gateway and its parameters with the run."""
    surge = Surge(clock)
    await surge.climb_to(2)
    surge.loop.restarted()
    surge.press(gateway_queue_depth=90.0)
    said = [await surge.tick(15) for _ in range(20)]
    assert surge.loop.rungs.rung == 2
    assert surge.asked == [1, 2]
    assert "rung 2 of 4" in said[-1]


async def test_leases_that_ended_are_seen_as_full_service(clock: FakeClock) -> None:
    """Nothing was renewed while nobody ticked; the ladder starts from what is true and not from what it set."""
    surge = Surge(clock)
    await surge.climb_to(2)
    clock.move(TTL)
    assert (await surge.tick()).startswith("held: rung 0 of 4")
    await surge.climb_to(1)
    assert surge.asked == [1, 2, 1]


async def test_the_brake_stops_climbing_and_renewing(clock: FakeClock) -> None:
    """While automation is paused nothing of it lasts: the refusal is kept, and the lease ends by itself."""
    surge = Surge(clock)
    await surge.climb_to(1)
    await surge.loop.automation.pause("ada", "deploying")
    said = [await surge.tick(15) for _ in range(10)]
    assert any("automation is paused (ada: deploying)" in one for one in said)
    assert surge.loop.rungs.renewed == []
    assert surge.loop.rungs.rung == 0
    assert all(run.plan.request.inputs["rung"] == 1 for run in surge.loop.runs.runs.values())


async def test_observing_says_what_it_would_do_and_does_nothing(clock: FakeClock) -> None:
    """The rung is named, and nobody is asked."""
    surge = Surge(clock, mode=policies.Mode.OBSERVE)
    said = [await surge.tick(10) for _ in range(4)]
    assert said[-1].startswith("observing: policy overload would put chat on rung 1 of 4 (answers capped)")
    assert surge.loop.planner.drafted == []
    kept = [decision.sentence.partition(":")[0] for decision in surge.loop.decisions.decisions]
    assert kept == ["held", "observing"]


async def test_suggesting_names_the_command(clock: FakeClock) -> None:
    """A person can do the step by hand."""
    surge = Surge(clock, mode=policies.Mode.SUGGEST)
    said = [await surge.tick(10) for _ in range(4)]
    assert said[-1].endswith("run `dsctl remediate degrade --service chat --input rung=1`")


async def test_a_gateway_that_cannot_be_read_holds_and_is_a_problem_of_the_tick(clock: FakeClock) -> None:
    """No rung is guessed, nothing is asked for, and the tick is not a good one."""
    surge = Surge(clock)
    surge.loop.rungs.error = errors.RetryLaterError("the gateway of chat cannot be reached")
    said = await surge.tick(30)
    assert said == "held: on which rung chat stands is unknown: the gateway of chat cannot be reached"
    report = surge.loop.tick.report()
    assert report is not None
    assert report.problems == (f"ladder: {said}",)
    assert surge.asked == []


async def test_a_renewal_that_missed_a_node_is_a_problem_of_the_tick_and_no_run(clock: FakeClock) -> None:
    """The rung is held all the same."""
    surge = Surge(clock)
    await surge.climb_to(1)
    surge.press(gateway_queue_depth=90.0)
    surge.loop.rungs.missed = "not on node-b: gone"
    await surge.tick(60)
    report = surge.loop.tick.report()
    assert report is not None
    assert report.problems == ("ladder: rung 1 of chat was renewed, but not on node-b: gone",)
    assert len(surge.loop.runs.runs) == 1


async def test_levels_that_somebody_shed_by_hand_are_left_alone(clock: FakeClock) -> None:
    """The ladder neither climbs over them nor renews them."""
    surge = Surge(clock)
    surge.loop.rungs.is_foreign = True
    assert (await surge.tick(30)).startswith("held: somebody sheds levels of chat by hand")
    assert (await surge.tick(30)).startswith("held: somebody sheds levels of chat by hand")
    assert surge.asked == []


async def test_a_rung_that_a_person_set_is_not_renewed(clock: FakeClock) -> None:
    """The incident's own run set rung 1; the gateway is on 3 because somebody wanted it so, for as long as they said."""
    surge = Surge(clock)
    await surge.climb_to(1)
    surge.press(gateway_queue_depth=90.0)
    surge.loop.rungs.put(3, 30)
    await surge.tick(15)
    await surge.tick(10)
    assert surge.loop.rungs.renewed == []


async def test_a_run_that_fails_without_effect_gives_the_incident_back(clock: FakeClock) -> None:
    """The step is tried again as a new run."""
    surge = Surge(clock)
    await surge.tick()
    clock.move(10)
    await surge.loop.sentence()
    run = surge.loop.run
    surge.loop.runs.put(dataclasses.replace(run, state=RunState.FAILED, ended_at=clock.now(), sentence="unreachable"))
    assert (await surge.tick(5)).startswith("open again: run run_000001")
    await surge.climb_to(1)
    assert surge.asked == [1, 1]
