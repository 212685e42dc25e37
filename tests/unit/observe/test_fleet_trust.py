"""Three states of data: when a number may be believed, and how nodes add up to their service."""

import math

import pytest

from controlplane import promql
from controlplane.domain import errors, services
from controlplane.domain import signals as sig
from controlplane.observe import fleet, prometheus

NOW = 1_000_000.0
CHAT = services.Service("chat", "dsctl", {"service": "chat"})
QUERIES = promql.EngineQueries("node", {}, job="nodes", other_jobs=("dcgm", "gateway"))


def target(
    node: str = "a", *, job: str = "nodes", is_up: bool = True, age: float = 1.0, at: str = "h:1"
) -> fleet.Target:
    labels = {"service": "chat", "job": job, "instance": at} | ({"node": node} if node else {})
    return fleet.Target(labels, is_up, NOW - age, age)


def reason(reading: sig.Reading) -> sig.UnknownReason | float:
    return reading.value if isinstance(reading, sig.Value) else reading.reason


@pytest.mark.parametrize(
    ("value", "behind", "expected"),
    [
        (7.0, [target()], 7.0),
        (0.0, [target()], 0.0),
        (None, [target()], sig.UnknownReason.NO_SERIES),
        (math.nan, [target()], sig.UnknownReason.NOT_FINITE),
        (math.inf, [target()], sig.UnknownReason.NOT_FINITE),
        (7.0, [target(age=30.0)], 7.0),
        (7.0, [target(age=30.1)], sig.UnknownReason.STALE),
        (7.0, [target(is_up=False)], sig.UnknownReason.TARGET_DOWN),
        (7.0, [target(is_up=False, age=31.0)], sig.UnknownReason.STALE),
        (7.0, [target(), target("b", is_up=False)], 7.0),
        (7.0, [target(), target("b", age=31.0)], sig.UnknownReason.STALE),
        (7.0, [], sig.UnknownReason.NO_SERIES),
    ],
)
def test_a_number_is_worth_what_its_targets_are(
    value: float | None, behind: list[fleet.Target], expected: float | sig.UnknownReason
) -> None:
    """Stale blocks, down is left out, no series and no finite number are unknown; zero is a value."""
    assert reason(fleet.judge(value, behind, 30.0)) == expected


def test_the_oldest_scrape_behind_a_number_is_its_time() -> None:
    """A sum is as old as its oldest part; a target that is down has no part."""
    reading = fleet.judge(1.0, [target(age=2), target("b", age=9), target("c", age=20, is_up=False)], 30.0)
    assert isinstance(reading, sig.Value)
    assert reading.at.timestamp() == NOW - 9


def test_nodes_add_up_unless_one_is_unknown() -> None:
    """A node that is down counts for nothing; one that is unknown makes the service unknown and is named."""
    one, two = fleet.judge(1.0, [target()], 30.0), fleet.judge(3.0, [target()], 30.0)
    down = fleet.judge(None, [target(is_up=False)], 30.0)
    stale = fleet.judge(None, [target(age=99)], 30.0)
    combined = {how: reason(fleet.combine(how, {"a": one, "b": two, "c": down})) for how in list(sig.Combine)[:4]}
    assert combined == {sig.Combine.SUM: 4, sig.Combine.MEAN: 2, sig.Combine.MAX: 3, sig.Combine.MIN: 1}
    unknown = fleet.combine(sig.Combine.SUM, {"a": one, "b": stale})
    assert isinstance(unknown, sig.Unknown)
    assert (unknown.reason, unknown.detail[:7]) == (sig.UnknownReason.STALE, "node b:")
    assert reason(fleet.combine(sig.Combine.SUM, {"c": down})) is sig.UnknownReason.TARGET_DOWN
    assert reason(fleet.combine(sig.Combine.SUM, {})) is sig.UnknownReason.NO_SERIES
    with pytest.raises(errors.InvariantBrokenError):
        fleet.add_up(sig.Combine.NONE, [1.0])


def test_up_itself_is_one_zero_or_unknown() -> None:
    """Down is a fact, a scrape too long ago is not."""
    found = [reason(fleet.is_up(one, 30.0)) for one in (target(), target(is_up=False), target(age=31))]
    assert found == [1.0, 0.0, sig.UnknownReason.STALE]


def test_up_and_its_time_are_joined_by_their_labels() -> None:
    """The age comes from the store's clock; a target without a time cannot be trusted and is left out."""
    up = [prometheus.Sample({"node": n}, NOW, 1.0) for n in ("a", "b")]
    [found] = fleet.targets(up, [prometheus.Sample({"node": "a"}, NOW + 0.5, NOW - 4.0)])
    assert (found.labels["node"], found.age_seconds) == ("a", 4.5)


def test_nodes_gateways_and_exporters_are_told_apart() -> None:
    """Only targets of the nodes' job with a name are nodes; what a gateway tells rests on the gateway alone."""
    gateway, exporter = target("", job="gateway"), target("a", job="dcgm")
    found = fleet.sort(
        CHAT, QUERIES, [target("a"), target("b"), gateway, exporter, target("", job="nodes"), target("x", job="other")]
    )
    assert sorted(found.nodes) == ["a", "b"]
    assert found.behind("", None) == [target("a"), target("b")]
    assert found.behind("", "b") == [target("b")]
    assert found.behind("gateway", "a") == [gateway] == found.behind("gateway", None)
    assert found.behind("dcgm", "a") == [exporter]
    assert found.behind("dcgm", "b") == []


def test_a_node_that_moved_is_the_one_scraped_last() -> None:
    """During a change of address two targets carry one name."""
    old, new = target(age=20, is_up=False, at="h:1"), target(age=1, at="h:2")
    for order in ([old, new], [new, old]):
        assert fleet.sort(CHAT, QUERIES, order).nodes["a"] is new


def test_services_whose_selectors_use_the_same_labels_are_asked_for_together() -> None:
    """One query for all of them; strangers that slip through belong to nobody."""
    code = services.Service("code", "dsctl", {"service": "code"})
    zoned = services.Service("zoned", "dsctl", {"app": "z", "zone": "1"})
    first, second = fleet.group([CHAT, code, zoned])
    assert first.matchers == 'service=~"chat|code"'
    assert second.matchers == 'app="z",zone="1"'
    assert first.owners()[first.key({"service": "code", "node": "a"})] is code
    assert first.key({"service": "other"}) not in first.owners()
