"""Fits that go wrong, for the pool's worker to import."""

import os
import signal
import subprocess
import sys

from controlplane.domain import forecasts
from detectors import forecast


def hang(request: forecast.FitRequest) -> forecasts.NoForecast:
    """Start a child, as Prophet does, and wait for it for ever; for any service but `hangs`, answer."""
    if request.service == "hangs":
        subprocess.run([sys.executable, "-c", "import signal; signal.pause()"], check=True)
    return forecasts.NoForecast(request.service, forecasts.NoForecastReason.TOO_SHORT)


def die(request: forecast.FitRequest) -> forecasts.NoForecast:
    """Leave a child behind and die, as by the kernel when memory is short."""
    subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(request)
