"""Forecasts with defaults for everything but what a test is about."""

from datetime import UTC, datetime

from controlplane.domain import forecasts

STEP = 60.0
AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def accuracy(
    wape: float = 0.1, last: float = 0.2, yesterday: float | None = None, *, lead: float = 300.0, num: int = 144
) -> forecasts.Accuracy:
    """Errors of the forecast and of both naive ones."""
    return forecasts.Accuracy(lead, num, wape, 0.0, 0.8, last, yesterday)


def forecast(p50: tuple[float, ...] = (10.0, 11.0), was: forecasts.Accuracy | None = None) -> forecasts.Forecast:
    """A forecast that begins now, with bounds 1 below and 1 above."""
    return forecasts.Forecast(
        service="chat",
        made_at=AT,
        fitted_at=AT,
        start=AT.timestamp(),
        step_seconds=STEP,
        p10=tuple(one - 1.0 for one in p50),
        p50=p50,
        p90=tuple(one + 1.0 for one in p50),
        last=9.0,
        accuracy=was or accuracy(),
    )
