"""Nodes that a gateway keeps out count as out, for the guard and for everybody who counts nodes."""

import dataclasses

import pytest

from controlplane.domain import alerting, outcomes, plans, policies, windows
from controlplane.domain import signals as sig
from controlplane.engine import facts, guard
from tests.support import builders as b
from tests.support.clock import START

HALF = policies.GuardLimits(max_unavailable=policies.MaxUnavailable(percent=50.0, nodes=1))


def plan(node: str = "node-b", **request: object) -> plans.Plan:
    made = b.request(node=node, runbook="eject-and-restart", limits=HALF, incident_id=None, **request)
    blast = plans.BlastRadius((node,), (node,), is_destructive=True)
    return b.plan(made, blast=blast, verify=None)


def check(plan: plans.Plan, *nodes: windows.NodeView, **context: object) -> outcomes.Allowed | outcomes.Denied:
    fields: dict[str, object] = {"silences": alerting.Silences(START), **context}
    base = guard.Context(now=START, service=b.service(), view=b.view(*nodes))
    return guard.check(plan, dataclasses.replace(base, **fields))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "out",
    [
        b.node("node-a", in_service=0.0),
        b.node("node-a", up=False),
        b.node("node-a", in_service=b.unknown(sig.UnknownReason.STALE)),
        b.node("node-a", in_service=b.unknown(sig.UnknownReason.TARGET_DOWN)),
    ],
)
def test_of_two_bad_nodes_of_three_one_waits(out: windows.NodeView) -> None:
    """Whoever took the first one out: the second is refused with the numbers and the names."""
    answer = check(plan(), out, b.node("node-b", in_service=1.0), b.node("node-c", in_service=1.0))
    assert isinstance(answer, outcomes.Denied)
    assert answer.gate is outcomes.Gate.BLAST_RADIUS
    assert answer.sentence == "2 nodes of 3 would be unavailable (node-a, node-b), at most 1 may be"
    assert answer.answers[-1].numbers["unavailable"] == 2


def test_one_of_three_is_ejected() -> None:
    """With everybody in service there is room for one; where no gateway is watched, `up` alone counts."""
    everybody = [b.node(f"node-{letter}", in_service=1.0) for letter in "abc"]
    assert isinstance(check(plan(), *everybody), outcomes.Allowed)
    without = [b.node(f"node-{letter}", in_service=b.unknown(sig.UnknownReason.NO_SERIES)) for letter in "abc"]
    assert isinstance(check(plan(), *without), outcomes.Allowed)
    assert isinstance(check(plan(), *(b.node(f"node-{letter}") for letter in "abc")), outcomes.Allowed)


def test_repairing_a_node_that_is_out_takes_nothing_more() -> None:
    """It is out already, whatever is unknown about the traffic it does not get."""
    ejected = b.node("node-b", in_service=0.0, latency_p99=b.unknown(), server_error_ratio=b.unknown())
    verified = dataclasses.replace(plan(), verify=plans.VerifySpec(("latency_p99",), 60.0, 10.0))
    answer = check(verified, b.node("node-a", up=False), ejected, b.node("node-c"))
    assert isinstance(answer, outcomes.Allowed)
    (blast,) = [one for one in answer.answers if one.gate is outcomes.Gate.BLAST_RADIUS]
    assert blast.sentence == "the nodes it takes out are out already"


def test_a_follow_up_is_not_asked_whether_somebody_still_reports() -> None:
    """A node that failed its test gets no traffic, so nobody reports it; it must stay out all the same."""
    quiet = b.incident(quiet_since=START)
    ejected = b.node("node-b", in_service=0.0, cache_wrong_ratio=b.unknown())
    for is_follow_up, expected in ((True, outcomes.Allowed), (False, outcomes.Denied)):
        asked = plan(is_follow_up=is_follow_up)
        asked = dataclasses.replace(asked, request=dataclasses.replace(asked.request, incident_id=quiet.id))
        answer = check(asked, b.node("node-a"), ejected, incident=quiet, is_reported=False)
        assert isinstance(answer, expected)


def test_nodes_that_are_kept_out_are_not_ready() -> None:
    """A wait for ready nodes does not count what gets no requests."""
    view = b.view(b.node("node-a", in_service=0.0), b.node("node-b", in_service=1.0))
    ready = facts.readers(view, b.SERVICE, "", START)["ready_nodes"]
    assert callable(ready)
    assert ready() == 1


NAN = sig.UnknownReason.NOT_FINITE


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ({"server_error_ratio": NAN, "latency_p99": NAN}, outcomes.Allowed),
        ({"server_error_ratio": sig.UnknownReason.STALE}, outcomes.Denied),
        ({"server_error_ratio": sig.UnknownReason.NO_SERIES}, outcomes.Denied),
        ({"engine_steps_rate": NAN}, outcomes.Denied),
    ],
)
def test_a_node_that_answers_nobody_is_known_to_do_so(
    readings: dict[str, sig.UnknownReason], expected: type[object]
) -> None:
    """A hanging node ends no request, so ratios over its answers count nothing; what says that it hangs must be known."""
    hanging = b.incident(finding=b.finding(node="node-b", signal="engine_steps_rate", observed=0.0))
    asked = dataclasses.replace(plan(), verify=plans.VerifySpec(("latency_p99", "server_error_ratio"), 60.0, 10.0))
    asked = dataclasses.replace(asked, request=dataclasses.replace(asked.request, incident_id=hanging.id))
    unknown = {name: b.unknown(reason) for name, reason in readings.items()}
    signals = b.readings({"engine_steps_rate": 0.0, **unknown})
    node = dataclasses.replace(b.node("node-b"), signals={**b.node().signals, **signals})
    answer = check(asked, b.node("node-a"), node, b.node("node-c"), incident=hanging)
    assert isinstance(answer, expected)
