"""Slow start: a node that comes into service gets a share that grows, and never nothing or too much."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_node.gateway import fleet
from tests.support.clock import FakeClock


def filled(clock: FakeClock, *names: str, seconds: float = 30.0) -> fleet.Fleet:
    nodes = fleet.Fleet(clock, seconds)
    for name in names:
        nodes.configure(name, f"http://{name}", 1.0)
    return nodes


def served(nodes: fleet.Fleet, num: int) -> Counter[str]:
    """Send requests that end at once, and count who got them."""
    chosen: Counter[str] = Counter()
    for _ in range(num):
        member = nodes.choose()
        assert member is not None
        nodes.begin(member)
        nodes.end(member)
        chosen[member.name] += 1
    return chosen


def test_configured_nodes_have_their_full_share_at_once() -> None:
    """When a gateway starts, all its nodes are as new as it is."""
    nodes = filled(FakeClock(), "a", "b")
    assert [nodes.slow_start_ratio(each) for each in nodes.members()] == [1.0, 1.0]
    assert served(nodes, 100) == {"a": 50, "b": 50}


@pytest.mark.parametrize(("seconds", "expected"), [(0, 5), (3, 5), (15, 25), (24, 40), (30, 50), (60, 50)])
def test_the_share_of_a_returned_node_grows_with_time(seconds: float, expected: int) -> None:
    """A tenth of its due at first, half of it after half the time, all of it at the end."""
    clock = FakeClock()
    nodes = filled(clock, "a", "b")
    nodes.enter(nodes.find("b"))
    clock.move(seconds)
    assert served(nodes, 100)["b"] == pytest.approx(expected, abs=1)


def test_a_registered_node_starts_slowly_and_a_known_one_goes_on() -> None:
    """Registering again, as a restarted control plane does, is no new start."""
    clock = FakeClock()
    nodes = filled(clock, "a")
    member = nodes.register("b", "http://b")
    assert nodes.slow_start_ratio(member) == fleet.MIN_SLOW_START_RATIO
    clock.move(15)
    assert nodes.slow_start_ratio(nodes.register("b", "http://b")) == 0.5


def test_a_single_node_gets_everything() -> None:
    """There is nobody to spare it for, nor when all of them are new."""
    clock = FakeClock()
    nodes = filled(clock, "a", "b")
    for member in nodes.members():
        nodes.enter(member)
    assert sum(served(nodes, 40).values()) == 40
    chosen = nodes.choose(avoiding=["a"])
    assert chosen is not None
    assert chosen.name == "b"


def test_without_slow_start_a_returned_node_serves_fully() -> None:
    """0 switches it off."""
    nodes = filled(FakeClock(), "a", "b", seconds=0.0)
    nodes.enter(nodes.find("b"))
    assert served(nodes, 100) == {"a": 50, "b": 50}


@given(
    weights=st.lists(st.floats(0.1, 10.0), min_size=2, max_size=5),
    elapsed=st.floats(0.0, 30.0),
    held=st.lists(st.booleans(), min_size=50, max_size=200),
)
def test_a_starting_node_never_gets_more_than_its_share_of_the_choices(
    weights: list[float], elapsed: float, held: list[bool]
) -> None:
    """Whatever the weights and however long requests last, and though it is the idlest of all."""
    clock = FakeClock()
    nodes = fleet.Fleet(clock, 30.0)
    for number, weight in enumerate(weights):
        nodes.configure(f"n{number}", "http://n", weight)
    newcomer = nodes.find("n0")
    nodes.enter(newcomer)
    clock.move(elapsed)
    ratio = nodes.slow_start_ratio(newcomer)
    got = 0
    for is_held in held:
        member = nodes.choose()
        assert member is not None
        got += member is newcomer
        nodes.begin(member)
        if not is_held:
            nodes.end(member)
    if ratio < 1.0:
        assert got <= len(held) * ratio * weights[0] / sum(weights) + 1
