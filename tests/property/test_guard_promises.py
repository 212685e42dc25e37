"""What the guard promises in any world, each with a proof that it is its gate which keeps it: without the gate it breaks."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from controlplane.domain import alerting, breakers, incidents, maintenance, outcomes, owners, plans, policies, runs
from controlplane.engine import guard
from controlplane.engine.guarding import automation, others, pace, reason
from tests.support import builders as b
from tests.support.clock import START

WIDE = policies.GuardLimits(
    cooldown_seconds=0, max_per_hour=10**6, max_attempts=3, max_unavailable=policies.MaxUnavailable(100, 10**3)
)
RUNBOOKS = st.sampled_from(["flush-cache", "eject-and-restart", "return-node", "quarantine-node"])
FEW = settings(max_examples=25, deadline=None, database=None, phases=[Phase.generate], report_multiple_bugs=False)
Gates = tuple[guard.Gate, ...]


def without(gate: guard.Gate) -> Gates:
    return tuple(one for one in guard.GATES if one is not gate)


@st.composite
def plans_of_policies(draw: st.DrawFn, **fixed: Any) -> plans.Plan:
    """Whatever a policy may ask for on node-a."""
    made = b.request(runbook=draw(RUNBOOKS), limits=WIDE, is_follow_up=draw(st.booleans()), **fixed)
    out = ("node-a",) if draw(st.booleans()) else ()
    blast = plans.BlastRadius(("node-a",), out, is_destructive=bool(out) or draw(st.booleans()))
    return b.plan(made, blast=blast, verify=None)


@st.composite
def worlds(draw: st.DrawFn, **fixed: Any) -> guard.Context:
    """Any world that is known and at peace but for what a test fixes."""
    at_node, in_service = draw(st.sampled_from([(True, 1.0), (False, 1.0), (True, 0.0)]))
    fields: dict[str, Any] = {
        "now": START,
        "service": b.service(),
        "view": b.view(b.node(up=at_node, in_service=in_service), b.node("node-b"), b.node("node-c")),
        "incident": b.incident(attempts=0),
        "silences": alerting.Silences(START),
        "is_acting": draw(st.booleans()),
    }
    return guard.Context(**fields | fixed)


def is_allowed(plan: plans.Plan, context: guard.Context, gates: Gates) -> bool:
    return isinstance(guard.check(plan, context, gates), outcomes.Allowed)


# Resolved: nothing is done about trouble that is over.


def check_resolved(gates: Gates, config: settings) -> None:
    ends = st.sampled_from([{"is_reported": False}, {"incident": b.incident(state=incidents.IncidentState.CLOSED)}])

    @config
    @given(plan=plans_of_policies(), data=st.data(), over=ends)
    def hold(plan: plans.Plan, data: st.DataObject, over: dict[str, Any]) -> None:
        context = data.draw(worlds(**over))
        is_end = plan.request.is_follow_up and "incident" not in over
        assert is_end or not is_allowed(plan, context, gates)

    hold()


# Others' holds: what a person took out, no policy gives back or takes over.


def check_holds(gates: Gates, config: settings) -> None:
    held = st.builds(
        owners.Claim,
        st.just(owners.Kind.PERSON),
        st.sampled_from(["bob", "somebody"]),
        st.just("chat/node-a"),
        st.sampled_from(["ejected", "drained", "ejected by run run_7"]),
    )

    @config
    @given(plan=plans_of_policies(), data=st.data(), claim=held)
    def hold(plan: plans.Plan, data: st.DataObject, claim: owners.Claim) -> None:
        assert not is_allowed(plan, data.draw(worlds(claims=(claim,))), gates)

    hold()


# Maintenance: automation stands still for the whole of a window.


def check_maintenance(gates: Gates, config: settings) -> None:
    @config
    @given(plan=plans_of_policies(), data=st.data(), since=st.integers(0, 3600), left=st.integers(1, 3600))
    def hold(plan: plans.Plan, data: st.DataObject, since: int, left: int) -> None:
        window = maintenance.Once("move", START - timedelta(seconds=since), START + timedelta(seconds=left))
        assert not is_allowed(plan, data.draw(worlds(service=b.service(maintenance=(window,)))), gates)

    hold()


# Attempts: whatever is forgotten in between, a policy tries as often as it may and no more.


def check_attempts(gates: Gates, config: settings) -> None:
    @config
    @given(data=st.data(), losses=st.lists(st.sampled_from(["", "restart", "count lost"]), min_size=8, max_size=8))
    def hold(data: st.DataObject, losses: list[str]) -> None:
        stored: tuple[runs.Run, ...] = ()
        incident, plan = b.incident(attempts=0), b.plan(b.request(limits=WIDE))
        for number, loss in enumerate(losses):
            # A restart forgets all but what is stored; a restored backup may have forgotten the incident's count.
            incident = dataclasses.replace(incident, attempts=0) if loss == "count lost" else incident
            context = data.draw(worlds(incident=incident, tried=stored))
            context = dataclasses.replace(context, is_acting=False)
            if is_allowed(plan, context, gates):
                stored = (*stored, b.ended_run(f"run_{number}", at=START - timedelta(hours=2), plan=plan))
                incident = dataclasses.replace(incident, attempts=incident.attempts + 1)
        assert len(stored) <= WIDE.max_attempts

    hold()


# Breaker: never more different nodes than allowed without a person in between.


def check_breaker(gates: Gates, config: settings) -> None:
    limits = breakers.Limits(nodes=2, percent=0, window_seconds=600)
    names = [f"node-{letter}" for letter in "abcdef"]

    @config
    @given(asked=st.lists(st.sampled_from(names), min_size=6, max_size=10))
    def hold(asked: list[str]) -> None:
        ran: tuple[runs.Run, ...] = ()
        for number, name in enumerate(asked):
            blast = plans.BlastRadius((name,), (name,), is_destructive=True)
            plan = b.plan(b.request(node=name, limits=WIDE), blast=blast, verify=None)
            view = b.view(*(b.node(one) for one in names))
            context = guard.Context(
                START,
                b.service(),
                view,
                incident=b.incident(),
                silences=alerting.Silences(START),
                recent=ran,
                breaker_limits=limits,
            )
            if is_allowed(plan, context, gates):
                ran = (*ran, b.ended_run(f"run_{number}", at=START - timedelta(seconds=1), plan=plan))
        assert len({name for run in ran for name in run.plan.blast.unavailable}) <= limits.nodes

    hold()


PROMISES: list[tuple[Callable[[Gates, settings], None], guard.Gate]] = [
    (check_resolved, reason.resolved),
    (check_holds, others.ownership),
    (check_maintenance, automation.in_maintenance),
    (check_attempts, pace.attempts),
    (check_breaker, others.breaker),
]


@pytest.mark.parametrize(("check", "gate"), PROMISES, ids=[gate.__name__ for _, gate in PROMISES])
def test_the_promise_is_kept_and_by_its_gate_alone(check: Callable[[Gates, settings], None], gate: guard.Gate) -> None:
    """It holds with all gates, and the same property fails once its gate is taken out of the list."""
    check(guard.GATES, settings(max_examples=settings().max_examples // 5, deadline=None))
    with pytest.raises(AssertionError):
        check(without(gate), FEW)


def _eager(plan: plans.Plan, context: guard.Context) -> outcomes.GateAnswer:
    """A breaker as others had it: it stops everything while it is open, what gives back included."""
    is_open = context.breaker is not None and context.breaker.is_open and plan.request.policy is not None
    return outcomes.GateAnswer(outcomes.Gate.BREAKER, not is_open, "open" if is_open else "closed")


def check_recovery(gates: Gates, config: settings) -> None:
    tripped = breakers.Breaker("chat", True, START, "too many")

    @config
    @given(data=st.data(), is_restoring=st.booleans(), runbook=RUNBOOKS, touched=st.booleans())
    def hold(data: st.DataObject, is_restoring: bool, runbook: str, touched: bool) -> None:
        made = b.request(runbook=runbook, limits=WIDE, is_restoring=is_restoring)
        plan = b.plan(made, blast=plans.BlastRadius(("node-a",) if touched else ()), verify=None)
        assert is_allowed(plan, data.draw(worlds(breaker=tripped)), gates)

    hold()


def test_what_gives_back_passes_an_open_breaker() -> None:
    """Whatever takes nothing out passes; a breaker that stops everything is noticed."""
    check_recovery(guard.GATES, settings(max_examples=settings().max_examples // 5, deadline=None))
    with pytest.raises(AssertionError):
        check_recovery(tuple(_eager if gate is others.breaker else gate for gate in guard.GATES), FEW)
