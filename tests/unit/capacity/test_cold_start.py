"""How long a new node takes: measured where there is enough to go by, else as the service's rules say."""

from controlplane.capacity import cold_start
from controlplane.domain import services

RULES = services.CapacityRules(cold_start_seconds=900.0)


def test_until_enough_starts_were_measured_the_rule_holds() -> None:
    """One lucky start must not make everybody ask too late."""
    found = cold_start.p90([12.0, 13.0], RULES)
    assert (found.seconds, found.is_measured, found.num_samples, found.measured_seconds) == (900.0, False, 2, None)
    assert found.sentence == "cold start 15 min by the service's rules: 2 starts measured so far, 3 are needed"


def test_of_a_few_starts_the_slowest_counts() -> None:
    assert cold_start.p90([12.0, 40.0, 13.0], RULES).seconds == 40.0


def test_of_many_starts_nine_in_ten_are_not_slower() -> None:
    """The nearest rank: of twenty the eighteenth."""
    found = cold_start.p90([float(one) for one in range(1, 21)], RULES)
    assert (found.seconds, found.measured_seconds) == (18.0, 18.0)
    assert found.sentence == "cold start 18 s: P90 of the newest 20 starts"


def test_old_starts_are_forgotten() -> None:
    """A smaller image starts faster, and that is noticed."""
    found = cold_start.p90([500.0] * 200 + [20.0] * cold_start.MAX_SAMPLES, RULES)
    assert (found.seconds, found.num_samples) == (20.0, cold_start.MAX_SAMPLES)


def test_what_is_no_time_is_no_measurement() -> None:
    """A clock that stepped back, or a start that never ended."""
    assert not cold_start.p90([float("nan"), float("inf"), -3.0, 0.0, 12.0, 13.0], RULES).is_measured
