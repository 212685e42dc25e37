"""The gate: open only while the forecast beats repeating, on history and in life, and it says with which numbers."""

import pytest

from controlplane.capacity import gate
from controlplane.domain import forecasts
from tests.support import foretold as samples


def test_no_forecast_no_gate():
    """The reason is handed on."""
    missing = forecasts.NoForecast("chat", forecasts.NoForecastReason.TOO_SHORT, "1 h of 2 h")
    found = gate.gate(missing, None)
    assert not found.is_open
    assert found.sentence == "closed: no forecast, the history is too short (1 h of 2 h)"


def test_a_forecast_that_beats_both_may_act():
    """Before enough forecasts came true, held-out history decides."""
    found = gate.gate(samples.forecast(was=samples.accuracy(0.1, 0.2, 0.3)), None)
    assert found.is_open
    assert found.sentence == (
        "open: error at 300 s ahead is 0.1 on held-out history, repeating the last value gives 0.2"
        " and repeating yesterday gives 0.3"
    )


@pytest.mark.parametrize(
    ("was", "says"),
    [
        (samples.accuracy(0.31, 0.22), "repeating the last value gives 0.22"),
        (samples.accuracy(0.31, 0.4, 0.22), "repeating yesterday gives 0.22"),
        (samples.accuracy(0.31, 0.2, 0.22), "repeating the last value gives 0.2 and repeating yesterday gives 0.22"),
        (samples.accuracy(0.2, 0.2), "repeating the last value gives 0.2 and it must be 5% better"),
        (samples.accuracy(0.195, 0.2), "repeating the last value gives 0.2 and it must be 5% better"),
        (samples.accuracy(0.0, 0.0), "repeating the last value gives 0"),
    ],
)
def test_a_forecast_that_is_no_better_is_kept_out(was, says):
    """One of both is enough, and hardly better is not better."""
    found = gate.gate(samples.forecast(was=was), None)
    assert not found.is_open
    assert found.sentence.startswith(f"closed: error at 300 s ahead is {was.wape:.3g} on held-out history, ")
    assert says in found.sentence


def test_yesterday_counts_only_where_it_is_known():
    """A service in its first day is compared with the last value alone."""
    assert gate.gate(samples.forecast(was=samples.accuracy(0.1, 0.2, None)), None).is_open


def test_a_forecast_that_goes_bad_closes_the_gate_before_the_next_fit():
    """What really came counts more than what the history promised."""
    live = samples.accuracy(0.31, 0.22, num=40)
    found = gate.gate(samples.forecast(was=samples.accuracy(0.1, 0.2)), live)
    assert not found.is_open
    assert found.sentence == (
        "closed: error at 300 s ahead is 0.31 over the last 40 forecasts, repeating the last value gives 0.22"
    )


def test_forecasts_that_come_true_keep_it_open():
    """In life any advantage is enough: the margin was asked before."""
    live = samples.accuracy(0.199, 0.2, 0.4, num=40)
    found = gate.gate(samples.forecast(was=samples.accuracy(0.1, 0.2)), live)
    assert found.is_open
    assert "over the last 40 forecasts" in found.sentence


def test_luck_in_life_does_not_open_it():
    """A fit that history speaks against stays out, whatever the last hours were like."""
    assert not gate.gate(samples.forecast(was=samples.accuracy(0.3, 0.2)), samples.accuracy(0.1, 0.2)).is_open
