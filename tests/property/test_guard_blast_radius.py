"""The guard never lets more nodes be out at once than the blast radius, for any sequence of events."""

from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.domain import alerting, outcomes, plans, policies, runs, windows
from controlplane.domain import signals as sig
from controlplane.engine import guard
from tests.support import builders as b
from tests.support.clock import START

NAMES = [f"node-{letter}" for letter in "abcdefgh"]
# What Prometheus says of a node, and what its gateway does with it: any of these but "up" is unavailable.
STATES = st.sampled_from(["up", "down", "unknown", "ejected", "hidden"])
KNOWN_OUT = {"down", "ejected"}


def seen(name: str, state: str) -> windows.NodeView:
    """A node as the view shows it; `hidden` is up behind a gateway that is no longer scraped."""
    is_up: bool | sig.Unknown = {"down": False, "unknown": b.unknown()}.get(state, True)
    in_service: float | sig.Unknown = {"ejected": 0.0, "hidden": b.unknown()}.get(state, 1.0)
    return b.node(name, up=is_up, in_service=in_service)


class Fleet(RuleBasedStateMachine):
    """Nodes die, are ejected by whomever, vanish from sight and return; runs are asked for, act, and end, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, str] = {}
        self.queued: dict[str, plans.Plan] = {}
        self.acting: dict[str, plans.Plan] = {}
        self.taken: set[str] = set()
        self.asked = 0
        self.broken = ""

    @initialize(size=st.integers(1, len(NAMES)), percent=st.integers(1, 100), nodes=st.integers(0, 4), data=st.data())
    def begin(self, size: int, percent: int, nodes: int, data: st.DataObject) -> None:
        self.state = dict.fromkeys(NAMES[:size], "up")
        self.limit = policies.MaxUnavailable(float(percent), nodes)
        self.min_ready = data.draw(st.integers(0, size))

    @rule(data=st.data(), state=STATES)
    def node_changes(self, data: st.DataObject, state: str) -> None:
        """A death, a return, or a lost scrape, with or without our doing."""
        self.state[data.draw(st.sampled_from(sorted(self.state)))] = state

    @rule(data=st.data())
    def request(self, data: st.DataObject) -> None:
        """Somebody asks for a run that takes some nodes out; the guard is asked as at planning."""
        names = data.draw(st.lists(st.sampled_from(sorted(self.state)), min_size=1, max_size=3, unique=True))
        limits = policies.GuardLimits(cooldown_seconds=0, max_per_hour=10**6, max_unavailable=self.limit)
        made = b.manual(node=names[0], limits=limits, runbook=f"restart-{self.asked}")
        plan = b.plan(made, blast=plans.BlastRadius(tuple(names), tuple(names), is_destructive=True))
        self.asked += 1
        if self.is_allowed(plan, run_id=None):
            self.queued[f"run_{self.asked:06d}"] = plan

    @precondition(lambda self: self.queued)
    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        """A queued run comes to its effect; the guard is asked again."""
        run_id = data.draw(st.sampled_from(sorted(self.queued)))
        plan = self.queued.pop(run_id)
        if not self.is_allowed(plan, run_id=run_id, also_queued=True):
            return
        self.acting[run_id] = plan
        newly = {name for name in plan.blast.unavailable if self.state[name] not in KNOWN_OUT}
        for name in plan.blast.unavailable:
            self.state[name] = "ejected"
        self.check_effect(newly)

    @precondition(lambda self: self.acting)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """A run ends and its nodes come back, or do not."""
        plan = self.acting.pop(data.draw(st.sampled_from(sorted(self.acting))))
        for name in plan.blast.unavailable:
            self.state[name] = data.draw(STATES)

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

    def is_allowed(self, plan: plans.Plan, *, run_id: str | None, also_queued: bool = False) -> bool:
        others = {**self.queued, **self.acting} if run_id is None or also_queued else self.acting
        unfinished = tuple(
            runs.Run(other, other_plan, outcomes.RunState.RUNNING, 0, START)
            for other, other_plan in others.items()
            if other != run_id
        )
        view = b.view(*(seen(name, state) for name, state in self.state.items()))
        context = guard.Context(
            now=START,
            service=b.service(minimum=self.min_ready),
            view=view,
            silences=alerting.Silences(START - timedelta(seconds=1)),
            unfinished=unfinished,
        )
        return isinstance(guard.check(plan, context), outcomes.Allowed)


Fleet.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestBlastRadius = Fleet.TestCase
