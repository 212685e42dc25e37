"""The metric of the breakers on automation."""

from controlplane import telemetry
from tests.support.clock import FakeClock


def test_the_breaker_of_each_service_has_a_series_from_the_start(clock: FakeClock) -> None:
    """One that never tripped is 0 and not missing, so that an alert on it can be trusted."""
    told = telemetry.Telemetry(clock)
    told.breakers({"chat": True, "search": False})
    lines = told.exposition().decode().splitlines()
    assert 'dsctl_automation_breaker_open{service="chat"} 1.0' in lines
    assert 'dsctl_automation_breaker_open{service="search"} 0.0' in lines
