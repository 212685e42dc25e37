"""The senders of benchmark `intake`: real notifications, every alert another one, and figures that mean what they say."""

from alerts import intake as parser
from benchmarks import burst, intake, intake_load


def test_every_alert_of_a_load_is_another_one_and_can_be_read() -> None:
    """Equal alerts would be merged, and the rate would be that of something cheaper."""
    read = [parser.parse(intake_load.body(number, 50), source="alertmanager") for number in range(20)]
    assert len({one.idempotency_key for one in read}) == 20
    assert len({alert.fingerprint for one in read for alert in one.alerts}) == 1000
    assert len({tuple(sorted(alert.labels.items())) for one in read for alert in one.alerts}) == 1000


def test_p99_is_what_one_in_a_hundred_exceeds() -> None:
    """Not the mean, not the worst, and nothing where nothing was measured."""
    seconds = [float(number) for number in range(1, 201)]
    assert (intake.p99(seconds), intake.p99([])) == (198.0, None)
    assert (burst.p99(seconds), burst.p99([])) == (198.0, None)


def test_a_tenth_of_the_fleet_may_be_out_and_always_one() -> None:
    """As the guard counts it."""
    assert [burst.allowed_out(nodes) for nodes in (3, 30, 200)] == [1, 3, 20]
