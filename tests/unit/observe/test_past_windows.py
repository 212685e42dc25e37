"""Windows: samples stand only where they could be believed at that very time."""

import math

from controlplane import promql
from controlplane.domain import services, windows
from controlplane.domain import signals as sig
from controlplane.observe import asking, catalogue, fleet, past, profiles, prometheus

CATALOGUE = catalogue.load()
CHAT = services.Service("chat", "dsctl", {"service": "chat"})
PROFILE = profiles.load("dsctl", CATALOGUE)
SPAN = past.Span(100.0, 140.0, 10)
TIMES = (100.0, 110.0, 120.0, 130.0, 140.0)


def labels(node: str) -> dict[str, str]:
    return {"service": "chat", "node": node, "job": "nodes", "instance": node}


def track(node: str, values: list[float | None]) -> prometheus.Track:
    return prometheus.Track(labels(node), [(t, v) for t, v in zip(TIMES, values, strict=True) if v is not None])


def presence(up: dict[str, list[float | None]], scraped: dict[str, list[float | None]] | None = None) -> past.Presence:
    times = scraped or {
        node: [t if v is not None else None for t, v in zip(TIMES, values, strict=True)] for node, values in up.items()
    }
    return past.presence(
        CHAT, PROFILE.queries, [track(n, v) for n, v in up.items()], [track(n, v) for n, v in times.items()]
    )


def questions(*signals: str) -> list[asking.Question]:
    return asking.questions([CHAT], {"dsctl": PROFILE}, CATALOGUE, window="2m", only=signals)


def queue(present: past.Presence, **nodes: list[float | None]) -> windows.Window:
    [question] = questions("queue_depth")
    answer = [track(node, values) for node, values in nodes.items()]
    return past.assemble(CHAT, SPAN, present, [(question, answer)], {})


def test_samples_of_a_node_that_was_down_are_holes() -> None:
    """The store repeats what it saw last; the window leaves it out, and the sum goes on with the others."""
    present = presence({"a": [1, 1, 0, 0, 1], "b": [1, 1, 1, 1, 1]})
    window = queue(present, a=[4, 4, 4, 4, 5], b=[1, 1, 1, 1, 1])
    assert window.nodes["a"]["queue_depth"].times == (100.0, 110.0, 140.0)
    assert window.service_signals["queue_depth"].values == (5, 5, 1, 1, 6)


def test_samples_that_were_not_scraped_anew_are_holes() -> None:
    """Prometheus was away from 105 to 139 and repeats the sample of 105: it is believed for 30 s at most."""
    present = presence({"a": [1, 1, 1, 1, 1]}, {"a": [100, 105, 105, 99, 140]})
    window = queue(present, a=[4, 4, 4, 4, 5])
    assert window.nodes["a"]["queue_depth"].times == (100.0, 110.0, 120.0, 140.0)


def test_a_sum_has_a_hole_where_a_living_node_says_nothing() -> None:
    """A partial sum would look healthier than the fleet; what is not a number says nothing."""
    present = presence({"a": [1, 1, 1, 1, 1], "b": [1, 1, 1, 1, 1]})
    window = queue(present, a=[4, 4, 4, 4, 4], b=[1, None, math.nan, 1, 1])
    assert window.service_signals["queue_depth"].times == (100.0, 130.0, 140.0)


def test_a_node_that_joined_later_does_not_spoil_what_was_before() -> None:
    """Before its first scrape it was no node of the service."""
    present = presence({"a": [1, 1, 1, 1, 1], "b": [None, None, None, 1, 1]})
    window = queue(present, a=[4, 4, 4, 4, 4], b=[None, None, None, 1, 1])
    assert window.service_signals["queue_depth"].values == (4, 4, 4, 5, 5)


def test_what_failed_is_unknown_and_in_neither_map() -> None:
    """One scope's failure makes the signal unknown; an empty answer is unknown too, with its own reason."""
    lost = sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE, "refused")
    node, service = questions("cache_wrong_ratio")
    present = presence({"a": [1, 1, 1, 1, 1]})
    window = past.assemble(CHAT, SPAN, present, [(node, [track("a", [0, 0, 0, 0, 0])]), (service, lost)], {})
    assert window.unknown == {"cache_wrong_ratio": lost}
    assert (window.nodes, window.service_signals) == ({}, {})
    empty = past.assemble(CHAT, SPAN, present, [(node, []), (service, [])], {})
    assert empty.unknown["cache_wrong_ratio"].reason is sig.UnknownReason.NO_SERIES


def test_series_find_their_node_by_label_or_by_instance() -> None:
    """A query that groups by the node's label alone still finds the service; strangers are dropped."""
    nodes = {
        "chat": fleet.sort(CHAT, PROFILE.queries, [fleet.Target(labels("a"), is_up=True, scraped_at=1, age_seconds=1)])
    }
    [question] = questions("queue_depth")
    answer = [
        ({"service": "chat", "node": "a"}, 1),
        ({"node": "a"}, 2),
        ({"node": "z"}, 3),
        ({"service": "other", "node": "b"}, 4),
    ]
    assert list(asking.placed(question, answer, nodes)) == [(("chat", "a"), 1), (("chat", "a"), 2)]


def test_a_fleet_is_asked_with_one_query_per_signal_and_scope() -> None:
    """Twenty services of one profile cost as many queries as one."""
    many = [services.Service(f"s{n}", "dsctl", {"service": f"s{n}"}) for n in range(20)]
    asked = asking.questions(many, {"dsctl": PROFILE}, CATALOGUE, window="2m")
    assert len(asked) == len(asking.questions([CHAT], {"dsctl": PROFILE}, CATALOGUE, window="2m"))
    assert len({(one.signal.name, one.scope) for one in asked}) == len(asked)
    assert all(promql.placeholders(one.query) == frozenset() for one in asked)
