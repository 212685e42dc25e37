"""Metrics of forecasts and plans: what dashboards and alerts read, and that nothing stands for the unknown."""

from controlplane import telemetry
from controlplane.domain import capacity, forecasts
from tests.support import builders as b
from tests.support.clock import START, FakeClock


def exposed(outlook: capacity.Outlook, clock: FakeClock) -> str:
    told = telemetry.Telemetry(clock)
    told.outlooks({"chat": outlook})
    return told.exposition().decode()


def test_plan_and_forecast_are_exported_per_service() -> None:
    """The forecast of the step one cold start ahead, how good forecasts were, nodes of each kind, the gate."""
    clock = FakeClock()
    clock.move(90)
    plan = b.capacity_plan(desired=4, gate=capacity.Gate(True, "open"))
    text = exposed(capacity.Outlook("chat", plan, b.forecast()), clock)
    for line in (
        'dsctl_forecast_requests_per_second{quantile="0.9",service="chat"} 40.0',
        'dsctl_forecast_requests_per_second{quantile="0.1",service="chat"} 30.0',
        'dsctl_forecast_wape{service="chat"} 0.1',
        'dsctl_forecast_skill_last_value{service="chat"} 0.5',
        'dsctl_forecast_age_seconds{service="chat"} 90.0',
        'dsctl_forecast_gate_open{service="chat"} 1.0',
        'dsctl_capacity_nodes{kind="desired",service="chat"} 4.0',
        'dsctl_capacity_nodes{kind="present",service="chat"} 3.0',
    ):
        assert line in text


def test_what_is_not_known_has_no_series() -> None:
    """Zero requests or zero nodes would be read as a fact."""
    why = forecasts.NoForecast("chat", forecasts.NoForecastReason.NOT_FITTED)
    text = exposed(capacity.Outlook("chat", capacity.NoPlan("chat", START, "unknown"), why), FakeClock())
    assert 'service="chat"' not in text
    short = b.forecast(accuracy=forecasts.Accuracy(60.0, 4, 0.1, 0.0, 0.8, 0.2))
    text = exposed(capacity.Outlook("chat", b.capacity_plan(), short), FakeClock())
    assert 'dsctl_forecast_skill_seasonal_naive{service="chat"}' not in text
    assert 'dsctl_forecast_skill_last_value{service="chat"}' in text
