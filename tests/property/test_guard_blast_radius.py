"""The guard never lets more nodes be out at once than the blast radius, for any sequence of events and any reason."""

from datetime import datetime, timedelta
from typing import ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from controlplane.domain import alerting, outcomes, plans, policies, runs, windows
from controlplane.domain import signals as sig
from controlplane.engine import guard
from controlplane.engine.guarding import room
from tests.support import builders as b
from tests.support.clock import START

NAMES = [f"node-{letter}" for letter in "abcdefgh"]
# What Prometheus says of a node, and what its gateway does with it: any of these but "up" is unavailable.
STATES = st.sampled_from(["up", "down", "unknown", "ejected", "hidden"])
KNOWN_OUT = {"down", "ejected"}
# Runs that ended so long ago are not asked for any more.
FORGOTTEN = timedelta(seconds=600)


def seen(name: str, state: str, at: datetime = START) -> windows.NodeView:
    """A node as the view shows it; `hidden` is up behind a gateway that is no longer scraped."""
    is_up: bool | sig.Unknown = {"down": False, "unknown": b.unknown()}.get(state, True)
    in_service: float | sig.Unknown = {"ejected": 0.0, "hidden": b.unknown()}.get(state, 1.0)
    return b.node(name, up=is_up, at=at, in_service=in_service)


class Fleet(RuleBasedStateMachine):
    """Nodes die, are ejected by whomever, vanish from sight and return; runs of policies and people are asked for, act,
    and end, in any order; Prometheus sees each node now and then.
    """

    gates: ClassVar[tuple[guard.Gate, ...]] = guard.GATES

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, str] = {}
        self.shown: dict[str, windows.NodeView] = {}
        self.queued: dict[str, plans.Plan] = {}
        self.acting: dict[str, plans.Plan] = {}
        self.ended: list[runs.Run] = []
        self.now = START
        self.asked = 0
        self.broken = ""

    @initialize(size=st.integers(1, len(NAMES)), percent=st.integers(1, 100), nodes=st.integers(0, 4), data=st.data())
    def begin(self, size: int, percent: int, nodes: int, data: st.DataObject) -> None:
        self.state = dict.fromkeys(NAMES[:size], "up")
        self.limit = policies.MaxUnavailable(float(percent), nodes)
        self.min_ready = data.draw(st.integers(0, size))
        self.scrape_all()

    def scrape_all(self) -> None:
        for name in self.state:
            self.shown[name] = seen(name, self.state[name], self.now)

    @rule(data=st.data(), state=STATES)
    def node_changes(self, data: st.DataObject, state: str) -> None:
        """A crash, a return, a lost scrape, an ejection by its gateway or by a person's hand: seen at once."""
        name = data.draw(st.sampled_from(sorted(self.state)))
        self.state[name] = state
        self.scrape_all()

    @rule(seconds=st.integers(1, 20))
    def time_passes(self, seconds: int) -> None:
        """Without a scrape of any node."""
        self.now += timedelta(seconds=seconds)

    @rule()
    def scrape(self) -> None:
        """Everything that acts no more is seen as it is."""
        self.now += timedelta(seconds=1)
        self.scrape_all()

    @rule(data=st.data(), is_person=st.booleans())
    def request(self, data: st.DataObject, is_person: bool) -> None:
        """A person or a policy asks for a run that takes some nodes out; the guard is asked as at planning."""
        names = data.draw(st.lists(st.sampled_from(sorted(self.state)), min_size=1, max_size=3, unique=True))
        limits = policies.GuardLimits(0, 10**6, 10**6, max_unavailable=self.limit)
        make = b.manual if is_person else b.request
        made = make(node=names[0], limits=limits, runbook=f"restart-{self.asked}")
        plan = b.plan(made, blast=plans.BlastRadius(tuple(names), tuple(names), is_destructive=True), verify=None)
        self.asked += 1
        if self.is_allowed(plan, run_id=None):
            self.queued[f"run_{self.asked:06d}"] = plan

    @precondition(lambda self: self.queued)
    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        """A queued run comes to its effect; the guard is asked again."""
        run_id = data.draw(st.sampled_from(sorted(self.queued)))
        plan = self.queued.pop(run_id)
        if not self.is_allowed(plan, run_id=run_id):
            return
        self.acting[run_id] = plan
        newly = {name for name in plan.blast.unavailable if self.state[name] not in KNOWN_OUT}
        for name in plan.blast.unavailable:
            self.state[name] = "ejected"
        self.check_effect(newly)

    @precondition(lambda self: self.acting)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """A run ends and its nodes stay out; that they are is seen with the next scrape."""
        run_id = data.draw(st.sampled_from(sorted(self.acting)))
        self.now += timedelta(seconds=1)
        self.ended.append(b.ended_run(run_id, at=self.now, plan=self.acting.pop(run_id)))

    @invariant()
    def holds(self) -> None:
        """No effect ever broke the promise."""
        assert not self.broken, self.broken

    def check_effect(self, newly: set[str]) -> None:
        """Judge an effect by counting afresh: whatever it took out, too many must not be out now."""
        if not newly:
            return
        out = {name for name, state in self.state.items() if state != "up"}
        allowed = min(self.limit.nodes, max(1, int(self.limit.percent * len(self.state) // 100)))
        if len(out) > allowed or len(self.state) - len(out) < self.min_ready:
            self.broken = f"{sorted(out)} are out of {len(self.state)}, allowed {allowed}, ready {self.min_ready}"

    def is_allowed(self, plan: plans.Plan, *, run_id: str | None) -> bool:
        unfinished = tuple(
            runs.Run(other, other_plan, outcomes.RunState.RUNNING, 0, START)
            for other, other_plan in {**self.queued, **self.acting}.items()
            if other != run_id
        )
        context = guard.Context(
            now=self.now,
            service=b.service(minimum=self.min_ready),
            view=b.view(*self.shown.values(), at=self.now),
            incident=b.incident(finding=b.finding(signal="none")),
            silences=alerting.Silences(self.now),
            unfinished=unfinished,
            recent=tuple(run for run in self.ended if self.now - (run.ended_at or START) <= FORGOTTEN),
            is_acting=run_id is not None,
        )
        return isinstance(guard.check(plan, context, self.gates), outcomes.Allowed)


Fleet.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestBlastRadius = Fleet.TestCase


class Unguarded(Fleet):
    """The same without the gate."""

    gates = tuple(gate for gate in guard.GATES if gate is not room.blast_radius)


def test_without_the_gate_the_property_fails() -> None:
    """It is this gate that keeps the promise: the property notices when it is missing."""
    quick = settings(
        max_examples=100,
        stateful_step_count=25,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError, match="are out of"):
        run_state_machine_as_test(Unguarded, settings=quick)
