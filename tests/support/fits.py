"""Fits that go wrong, for the pool's worker to import. Their children carry the service's name in their command line."""

import os
import signal
import subprocess
import sys

from controlplane.domain import forecasts
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
