"""What one node carries: what is stated, what can be learned from load and latency, and when nobody can say."""

import pytest

from controlplane.capacity import node_capacity
from controlplane.domain import services, windows
from controlplane.domain import signals as sig
from tests.support import builders as b

STATED = b.service(capacity=services.CapacityRules(requests_per_second_per_node=11.8))
# P99 of at most 1.5 s.
LEARNED = b.service()
Samples = list[tuple[float, float]]


def window(*nodes: Samples, **more: list[float]) -> windows.Window:
    """One node for each list of (rate, P99) a minute apart; `more` are signals of all of them."""
    found: dict[str, dict[str, windows.Series]] = {}
    for number, samples in enumerate(nodes):
        signals = {"request_rate": [one for one, _ in samples], "latency_p99": [one for _, one in samples], **more}
        found[f"node-{number}"] = {name: b.series(values, step_seconds=60.0) for name, values in signals.items()}
    return b.window(found)


def learned(*nodes: Samples, **more: list[float]) -> node_capacity.Estimate:
    found = node_capacity.estimate(LEARNED, window(*nodes, **more))
    assert isinstance(found, node_capacity.Estimate), found
    return found


def refused(of: windows.Window | None) -> node_capacity.NoEstimate:
    found = node_capacity.estimate(LEARNED, of)
    assert isinstance(found, node_capacity.NoEstimate), found
    return found


def test_what_the_service_states_wins_over_what_was_seen() -> None:
    found = node_capacity.estimate(STATED, window([(50.0, 0.1)] * 100))
    assert isinstance(found, node_capacity.Estimate)
    assert (found.rps, found.is_knee_seen, found.sentence) == (
        11.8,
        True,
        "11.8 requests/s a node, as the service states",
    )


def test_the_highest_rate_that_kept_the_objective_is_carried() -> None:
    """Above 12 requests/s the P99 of these nodes leaves 1.5 s: the knee was seen, and nothing is added."""
    rising = [(float(rate), 0.3 if rate <= 12 else 4.0) for rate in range(1, 25) for _ in range(10)]
    found = learned(rising, rising)
    assert (found.rps, found.is_knee_seen, found.num_samples) == (12.0, True, 480)
    assert found.sentence == (
        "12.0 requests/s a node kept a P99 of 1.5 s (median 0.3 s), more broke it in 238 of 480 samples"
    )


def test_one_fast_moment_is_no_capacity() -> None:
    """A rate counts when twenty samples reached it, not when one did."""
    found = learned([(30.0, 0.9)] + [(10.0, 0.9)] * 40)
    assert (found.rps, found.is_knee_seen) == (10.0, False)


def test_one_instant_of_many_nodes_is_no_capacity() -> None:
    """In the first moments of a surge rates are high already and the P99 is still that of the minute before."""
    nodes: list[Samples] = [[(10.0, 0.9)] * 9 + [(40.0, 0.9)] for _ in range(30)]
    assert learned(*nodes).rps == 10.0


def test_a_few_slow_samples_hide_nothing_and_are_no_knee() -> None:
    """A quantile over few requests breaks any objective now and then."""
    found = learned([*[(20.0, 9.0)] * 3, *[(15.0, 0.9)] * 40])
    assert (found.rps, found.is_knee_seen) == (15.0, False)


def test_a_rate_that_breaks_the_objective_now_and_then_is_beyond_the_knee() -> None:
    """One sample in five too slow is no service within its objective, however many were fast."""
    uneven = [(20.0, 9.0 if number % 5 == 0 else 0.3) for number in range(50)]
    found = learned([*uneven, *[(15.0, 0.3)] * 50])
    assert (found.rps, found.is_knee_seen) == (15.0, True)


def test_an_idle_fleet_is_trusted_to_keep_the_headroom() -> None:
    """Nodes that were never loaded far, with most of the objective to spare: planned up to what was seen, no further.

    Were the headroom kept below that, each peak would call for more nodes, which then see less each.
    """
    found = learned([(10.0, 0.2)] * 40)
    assert found.rps == pytest.approx(13.0)
    assert not found.is_knee_seen
    assert found.sentence.endswith("the most that was seen of 40 samples, with enough to spare for 30 % headroom")


def test_a_loaded_fleet_is_not() -> None:
    """With less than half of the objective to spare nobody knows how near the knee is."""
    found = learned([(10.0, 0.8)] * 40)
    assert found.rps == 10.0
    assert found.sentence.endswith("the most that was seen of 40 samples")


def test_a_node_that_fails_fast_carries_nothing() -> None:
    """Errors and short answers come quickly; what they seem to carry is left out."""
    fast, sound = [(90.0, 0.01)] * 30, [(10.0, 0.9)] * 30
    assert learned(fast + sound, server_error_ratio=[0.5] * 30 + [0.0] * 30).rps == 10.0
    assert learned(fast + sound, degradation_level=[2.0] * 30 + [0.0] * 30).rps == 10.0


def test_moments_whose_errors_are_unknown_are_left_out() -> None:
    """The node tells its errors, but not then."""
    fast, sound = [(90.0, 0.01)] * 30, [(10.0, 0.9)] * 30
    assert learned(fast + sound, server_error_ratio=[float("nan")] * 30 + [0.0] * 30).rps == 10.0


def test_moments_without_load_or_without_latency_tell_nothing() -> None:
    idle, blind = [(0.0, 0.1)] * 30, [(50.0, float("nan"))] * 30
    assert learned(idle + blind + [(10.0, 0.9)] * 30).num_samples == 30


def test_too_few_samples_are_not_enough() -> None:
    said = "too few samples (19 of nodes under load at 19 instants; 20 at 5 are needed)"
    assert str(refused(window([(10.0, 0.2)] * 19))) == said
    at_once: list[Samples] = [[(10.0, 0.2)]] * 40
    assert refused(window(*at_once)).reason is node_capacity.NoEstimateReason.TOO_FEW_SAMPLES


def test_a_service_that_never_keeps_its_objective_teaches_nothing() -> None:
    said = str(refused(window([(10.0, 2.0)] * 40)))
    assert said == "the objective was not kept often enough at any rate (P99 of at most 1.5 s, 40 samples)"


def test_a_large_fleet_whose_nodes_carry_alike_teaches_as_well() -> None:
    """Of neighbours in rate most are of one instant there: more of them are taken, until there are instants enough."""
    day = [10.0 + number for number in range(10)]
    nodes: list[Samples] = [[(rate, 0.9 if rate < 16 else 3.0) for rate in day] for _ in range(50)]
    found = learned(*nodes)
    assert (found.rps, found.is_knee_seen) == (12.0, True)


def test_without_a_past_nobody_can_say() -> None:
    assert str(refused(None)) == "no past of the nodes was read"


@pytest.mark.parametrize("signal", ["request_rate", "latency_p99"])
def test_an_unknown_signal_is_said(signal: str) -> None:
    gone = sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE)
    said = refused(b.window({}, unknown={signal: gone}))
    assert said.reason is node_capacity.NoEstimateReason.SIGNAL_UNKNOWN
    assert signal in said.detail
