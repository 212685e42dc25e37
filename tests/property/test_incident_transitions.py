"""Incidents only ever move along their arrows, and the tick never raises, whatever happens in whatever order."""

import asyncio
import dataclasses

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controlplane.domain import errors, incidents, outcomes, policies, runs
from controlplane.domain import signals as sig
from controlplane.engine import facts
from tests.support import builders as b
from tests.support.clock import FakeClock
from tests.support.loop import Loop

State, RunState, Verdict = incidents.IncidentState, outcomes.RunState, outcomes.Verdict
# Between two looks at the store a tick may take one arrow of `correlate` and one of `handle`.
LEGAL = {
    State.OPEN: {State.OPEN, State.ACTING, State.VERIFYING, State.CLOSED, State.ESCALATED},
    State.ACTING: {State.ACTING, State.VERIFYING, State.OPEN, State.CLOSED, State.ESCALATED},
    State.VERIFYING: {State.VERIFYING, State.ACTING, State.OPEN, State.CLOSED, State.ESCALATED},
    State.ESCALATED: {State.ESCALATED, State.ACTING, State.VERIFYING, State.OPEN, State.CLOSED},
    State.CLOSED: {State.CLOSED},
}
ALERTS = [
    b.alert(),
    b.alert(labels={"node": "node-b"}),
    b.alert("Success", labels={"node": "", "dsctl_fault": "errors"}),
]
ENDS = [
    (RunState.SUCCEEDED, Verdict.RECOVERED),
    (RunState.SUCCEEDED, None),
    (RunState.FAILED, Verdict.NOT_RECOVERED),
    (RunState.FAILED, None),
    (RunState.ROLLED_BACK, Verdict.WORSE),
    (RunState.CANCELLED, None),
    (RunState.NEEDS_HUMAN, None),
]


class World(RuleBasedStateMachine):
    """Alerts fire and resolve, data goes dark, stores fail, runs end, processes restart, clocks step."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.loop = Loop(self.clock, offered=[b.policy(when="true", guard=policies.GuardLimits(60.0, 6, 2))])
        self.seen: dict[str, incidents.Incident] = {}

    @rule(alert=st.sampled_from(ALERTS))
    def fire(self, alert: object) -> None:
        self.loop.alerts.fire(alert)  # type: ignore[arg-type]  # drawn from ALERTS

    @rule()
    def resolve(self) -> None:
        self.loop.alerts.resolve()

    @rule(seconds=st.sampled_from([1, 15, 61, 301, 3700]))
    def wait(self, seconds: int) -> None:
        self.clock.move(seconds)

    @rule(seconds=st.sampled_from([-7200, -60, 60, 7200]))
    def step_the_clock(self, seconds: int) -> None:
        self.clock.step_wall(seconds)

    @rule(how=st.sampled_from(["known", "unknown", "down", "gone", "error", "bug"]))
    def data(self, how: str) -> None:
        """What Prometheus says from here on; a view that planning may still use is older than this."""
        self.clock.move(facts.VIEW_REUSED_SECONDS + 1)
        failures = {"error": errors.RetryLaterError("no answer"), "bug": ValueError("a bug of ours")}
        self.loop.reader.error = failures.get(how)
        up = {"unknown": b.unknown(), "down": False}.get(how, True)
        wrong = b.unknown() if how == "unknown" else 0.4
        others = [] if how == "gone" else [b.node(up=up, cache_wrong_ratio=wrong)]
        self.loop.reader.fleet = b.view(*others, b.node("node-b"))

    @rule(port=st.sampled_from(["alerts", "incidents", "runs", "decisions", "automation", "planner", "submitter"]))
    def break_a_port(self, port: str) -> None:
        fake = getattr(self.loop, port)
        fake.error = None if fake.error else errors.RetryLaterError(f"{port} does not answer")

    @rule()
    def brake(self) -> None:
        if self.loop.automation.brakes:
            self.loop.automation.brakes.clear()
        else:
            self.loop.automation.brakes["ada"] = "stop"

    @rule()
    def restart(self) -> None:
        self.loop.restarted()

    @precondition(lambda self: any(not run.state.is_final for run in self.loop.runs.runs.values()))
    @rule(end=st.sampled_from(ENDS), has_acted=st.booleans(), was_denied=st.booleans())
    def run_ends(
        self, end: tuple[outcomes.RunState, outcomes.Verdict | None], has_acted: bool, was_denied: bool
    ) -> None:
        run = next(run for run in self.loop.runs.runs.values() if not run.state.is_final)
        state, verdict = end
        now = self.clock.now()
        event = runs.RunEvent(1, now, runs.RunEventKind.GUARD_DENIED)
        ended = dataclasses.replace(
            run, state=state, verdict=verdict, step=1, ended_at=now, acted_at=now if has_acted else None
        )
        self.loop.runs.put(ended, *([event] if was_denied else []))

    @rule()
    def tick(self) -> None:
        """Never raises; and what it does is right for the level it saw."""
        runs_before = set(self.loop.runs.runs)
        was_healthy = self.loop.reader.error is None
        report = asyncio.run(self.loop.tick.run())
        assert report is self.loop.tick.report()
        new = [self.loop.runs.runs[key] for key in set(self.loop.runs.runs) - runs_before]
        for run in new:
            assert was_healthy, "acted while the data was unknown"
            assert not self.loop.automation.brakes, "acted under the brake"
            request = run.plan.request
            firing = [(one.labels["service"], one.labels.get("node", "")) for one in self.loop.alerts.alerts.values()]
            assert (request.service, request.node) in firing, "acted on what is resolved"
            if request.node:
                node = self.loop.reader.fleet.services["chat"].nodes[request.node]
                assert isinstance(node.is_up, sig.Value), "acted on an unknown node"

    @invariant()
    def arrows(self) -> None:
        """Closed is final, attempts only grow and stay within the budget, one run per attempt key."""
        for key, incident in self.loop.incidents.incidents.items():
            before = self.seen.get(key, incident)
            assert incident.state in LEGAL[before.state], f"{before.state} -> {incident.state}"
            assert incident.attempts >= before.attempts
            assert incident.attempts <= 2
            assert (incident.closed_at is not None) == incident.is_final
            assert incident.verdict is not Verdict.RECOVERED or incident.run_id is not None
            self.seen[key] = incident
        open_keys = [one.key for one in self.loop.incidents.incidents.values() if not one.is_final]
        assert len(open_keys) == len(set(open_keys)), "two open incidents about the same"


World.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestIncidents = World.TestCase
