"""Which nodes come and which go, for any fleet and any number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actions.local import placement
from controlplane.domain import errors

Seen = placement.Seen


def serving(*names: str) -> list[Seen]:
    return [Seen(name, is_started=True, is_running=True) for name in names]


def spares(*names: str) -> list[Seen]:
    return [Seen(name, is_started=False, is_running=False) for name in names]


def test_growing_takes_the_first_spares() -> None:
    """The others wait as replacements."""
    found = placement.difference([*serving("a", "b"), *spares("c", "d")], 3)
    assert (found.running, found.wanted, found.starting, found.leaving) == (2, 1, ("c",), ())
    assert found.candidates == ("c", "d")


def test_shrinking_goes_from_the_end() -> None:
    """Whoever would be started last leaves first; zero means everybody."""
    fleet = serving("a", "b", "c")
    assert placement.difference(fleet, 1).leaving == ("c", "b")
    assert set(placement.difference(fleet, 0).leaving) == {"a", "b", "c"}


def test_who_serves_nobody_leaves_first() -> None:
    """A node that has ended before one that is out of rotation before one that serves, wherever they stand."""
    dead = Seen("a", is_started=True, is_running=False)
    out = Seen("b", is_started=True, is_running=True, is_in_rotation=False)
    fleet = [dead, out, *serving("c", "d")]
    assert placement.difference(fleet, 3).leaving == ("a",)
    assert placement.difference(fleet, 2).leaving == ("a", "b")
    assert placement.difference(fleet, 1).leaving == ("a", "b", "d")


def test_a_node_that_has_ended_does_not_count_as_running() -> None:
    """Asked for as many as there were, it is started anew."""
    fleet = [*serving("a"), Seen("b", is_started=True, is_running=False), *spares("c")]
    assert placement.difference(fleet, 2).starting == ("b",)
    assert placement.difference(fleet, 3).starting == ("b", "c")


def test_more_than_defined_is_refused_with_both_numbers() -> None:
    """Whoever reads it knows what to write where."""
    with pytest.raises(errors.GiveUpError, match=r"^fleet\.yaml defines 4 nodes; 6 cannot be placed"):
        placement.difference(serving("a", "b", "c", "d"), 6)


@st.composite
def fleets(draw: st.DrawFn) -> list[Seen]:
    found: list[Seen] = []
    for number in range(draw(st.integers(1, 8))):
        is_started = draw(st.booleans())
        found.append(Seen(str(number), is_started, is_started and draw(st.booleans()), draw(st.booleans())))
    return found


@given(fleets(), st.data())
def test_afterwards_as_many_run_as_asked_for(fleet: list[Seen], data: st.DataObject) -> None:
    """For any fleet: nobody comes and goes at once, growing stops nobody, and a second look finds nothing to do."""
    replicas = data.draw(st.integers(0, len(fleet)))
    found = placement.difference(fleet, replicas)
    assert not set(found.starting) & set(found.leaving)
    assert len(found.starting) == found.wanted
    if replicas >= sum(one.is_started for one in fleet):
        assert found.leaving == ()
    runs = {one.name for one in fleet if one.is_running} - set(found.leaving) | set(found.starting)
    assert len(runs) == replicas
    after = [Seen(one.name, one.name in runs, one.name in runs, one.is_in_rotation) for one in fleet]
    again = placement.difference(after, replicas)
    assert (again.wanted, again.leaving) == (0, ())
