"""Fits that go wrong, for the pool's worker to import. Their children carry the service's name in their command line."""

import asyncio
import datetime as dt
import os
import signal
import subprocess
import sys

from controlplane.domain import forecasts, windows
from controlplane.wiring import fits
from detectors import forecast


def hang(request: forecast.FitRequest) -> forecasts.NoForecast:
    """Start a child, as Prophet does, and wait for it for ever; a service whose name ends in `answers` gets one."""
    if not request.service.endswith("answers"):
        subprocess.run(_waits_for_ever(request), check=True)
    return forecasts.NoForecast(request.service, forecasts.NoForecastReason.TOO_SHORT)


def die(request: forecast.FitRequest) -> forecasts.NoForecast:
    """Leave a child behind and die, as by the kernel when memory is short."""
    subprocess.Popen(_waits_for_ever(request))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(request)


def _waits_for_ever(request: forecast.FitRequest) -> list[str]:
    return [sys.executable, "-c", f"import signal; signal.pause()  # {request.service}"]


async def _hold(name: str) -> None:
    """Wait for a fit that hangs, as the service does."""
    nothing = windows.Series((0.0,), (1.0,))
    await fits.FitPool(100.0, hang).fit(
        forecast.FitRequest(
            service=name,
            history=nothing,
            step_seconds=300,
            horizon_steps=24,
            lead_seconds=120.0,
            refit_seconds=3600.0,
            events=(),
            now=dt.datetime(2026, 3, 2, tzinfo=dt.UTC),
        )
    )


if __name__ == "__main__":
    asyncio.run(_hold(sys.argv[1]))
