"""Days of arrivals before the demo began: written into Prometheus's data folder before it starts, as its own blocks.

Called by the demo's fleet for stories that need a past. What is written are samples of the gateway's counter of arrivals,
as if a gateway had been scraped all the time; whoever forecasts reads them like any others. Runs `promtool` once, which
takes some seconds. The samples are made up, labelled with an instance of their own, and the same for the same times.
"""

import asyncio
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from controlplane.demo import constants
from controlplane.domain import errors

RETENTION = "30d"
_METRIC = "dsctl_gateway_arrivals_total"
_LABELS = f'{{service="{constants.SERVICE}",job="gateway",instance="history",level="standard"}}'
# A quarter of the shortest step of a forecast here, so that every step holds several.
_SCRAPE_SECONDS = 15
# Arrivals of a real service vary more from minute to minute than chance; with the daily wave this leaves work to do.
_NOISE_RATIO = 0.08
_WAVE_RATIO = 0.15
_DAY_SECONDS = 86_400
_PROMTOOL_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Past:
    """What the past looked like: a rate all day, and one from `peak_at` on for `peak_seconds`, every day; requests/s."""

    days: int
    rate: float
    peak_rate: float
    peak_seconds: float
    peak_at: datetime

    def rate_at(self, at: float, noise: random.Random) -> float:
        """Return the arrivals per second at an instant, Unix seconds."""
        since_peak = (at - self.peak_at.timestamp()) % _DAY_SECONDS
        level = self.peak_rate if since_peak < self.peak_seconds else self.rate
        wave = 1 + _WAVE_RATIO * math.sin(2 * math.pi * since_peak / _DAY_SECONDS)
        return max(0.0, level * wave * (1 + noise.gauss(0, _NOISE_RATIO)))


def lines(past: Past, until: datetime) -> Iterator[str]:
    """Yield the past in the OpenMetrics text format, up to `until`."""
    noise = random.Random(past.days)  # noqa: S311 - made-up samples, no secret
    end = int(until.timestamp())
    count = 0.0
    yield f"# TYPE {_METRIC.removesuffix('_total')} counter\n"
    for at in range(end - past.days * _DAY_SECONDS, end, _SCRAPE_SECONDS):
        yield f"{_METRIC}{_LABELS} {count:.3f} {at}\n"
        count += past.rate_at(at, noise) * _SCRAPE_SECONDS
    yield "# EOF\n"


async def write(past: Past, until: datetime, *, text_file: Path, data_folder: Path) -> None:
    """Write the past as blocks of Prometheus; raises GiveUpError with what promtool said when that fails."""
    await asyncio.to_thread(_write_text, past, until, text_file)
    process = await asyncio.create_subprocess_exec(
        "promtool",
        *("tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=24h", str(text_file), str(data_folder)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_PROMTOOL_SECONDS):
            said, _ = await process.communicate()
    except TimeoutError as error:
        process.kill()
        raise errors.GiveUpError(f"promtool needed more than {_PROMTOOL_SECONDS:g} s for {past.days} days") from error
    if process.returncode != 0:
        raise errors.GiveUpError(f"promtool could not write the past: {said.decode('utf-8', 'replace')[-500:]}")


def _write_text(past: Past, until: datetime, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(lines(past, until))


def next_minute(at: datetime) -> datetime:
    """Return the first full minute at or after an instant: calendars know no seconds.

    >>> from datetime import UTC
    >>> next_minute(datetime(2026, 1, 1, 9, 29, 1, tzinfo=UTC)).strftime("%H:%M:%S")
    '09:30:00'
    """
    floor = at.replace(second=0, microsecond=0)
    return floor if floor == at else floor + timedelta(minutes=1)
