"""Arrivals by bins, read from a real Prometheus that was given a past."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from controlplane import clock
from controlplane.domain import errors, services
from controlplane.observe import catalogue, demand, profiles, prometheus
from tests.support import prometheus as real

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CHAT = services.Service("chat", "dsctl", {"service": "chat"})
STEP = 60
# Two hours that ended an hour ago, on full minutes; scraped every 15 s.
END = clock.SystemClock().now().replace(second=0, microsecond=0) - timedelta(hours=1)
START = END - timedelta(hours=2)
HOLE = (START + timedelta(minutes=40), START + timedelta(minutes=50))


def rate_at(minute: int) -> float:
    """Ten requests a second, and forty from minute 60 on."""
    return 40.0 if minute >= 60 else 10.0


def write_past(folder: Path) -> None:
    """Write what a gateway would have counted, admitted and refused alike, with ten minutes in which nobody looked."""
    lines, count = ["# TYPE dsctl_gateway_arrivals counter\n"], 0.0
    for second in range(0, 7200 + 1, 15):
        at = START + timedelta(seconds=second)
        if not HOLE[0] < at < HOLE[1]:
            lines += [
                f'dsctl_gateway_arrivals_total{{service="{name}",job="gateway",level="{level}"}} {count * share} {at.timestamp()}\n'
                for name, level, share in (("chat", "standard", 0.5), ("chat", "batch", 0.5), ("other", "batch", 9.0))
            ]
        count += rate_at(second // 60) * 15
    text = folder / "past.txt"
    text.write_text(
        "".join([lines[0], *sorted(lines[1:], key=lambda line: line.rpartition(" ")[2]), "# EOF\n"]), encoding="utf-8"
    )
    real.run_tool("promtool", "tsdb", "create-blocks-from", "openmetrics", text, folder / "data")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Generator[demand.PrometheusDemand]:
    folder = tmp_path_factory.mktemp("prometheus")
    write_past(folder)
    server = real.start_prometheus(folder, "{}")
    loaded = profiles.load_all(["dsctl"], catalogue.load())
    with ThreadPoolExecutor(2) as executor:
        client = prometheus.PrometheusClient(server.url, executor)
        yield demand.PrometheusDemand(client, [CHAT], loaded)
        client.close()
    server.stop()


async def test_a_bin_holds_the_mean_rate_of_its_own_minute(reader: demand.PrometheusDemand) -> None:
    """A step up shows in the bin in which it happened: neither smoothed over the next one nor told late."""
    found = await reader.history("chat", START, END, STEP)
    at = dict(zip(found.times, found.values, strict=True))
    jump = (START + timedelta(minutes=60)).timestamp()
    assert at[jump - STEP] == pytest.approx(10, rel=0.05)
    assert at[jump] == pytest.approx(40, rel=0.05)
    assert all(time % STEP == 0 for time in found.times)
    assert max(found.times) < END.timestamp()


async def test_what_nobody_measured_is_absent_and_not_zero(reader: demand.PrometheusDemand) -> None:
    """The ten minutes in which nobody looked have no bins."""
    found = await reader.history("chat", START, END, STEP)
    inside = [t for t in found.times if HOLE[0].timestamp() + STEP <= t < HOLE[1].timestamp() - STEP]
    assert inside == []
    assert min(found.values) > 5


async def test_only_complete_bins_are_told(reader: demand.PrometheusDemand) -> None:
    """A minute that has not ended would look like a fall in demand."""
    until = END - timedelta(seconds=20)
    found = await reader.history("chat", END - timedelta(minutes=5), until, STEP)
    assert max(found.times) == (END - timedelta(minutes=2)).timestamp()


async def test_a_long_span_is_asked_for_in_pieces(reader: demand.PrometheusDemand) -> None:
    """Prometheus answers at most 11,000 points a series."""
    found = await reader.history("chat", END - timedelta(days=10), END, STEP)
    assert len(found.times) > 90
    assert sorted(set(found.times)) == list(found.times)


async def test_a_service_nobody_manages_is_named(reader: demand.PrometheusDemand) -> None:
    """And so is a store that does not answer."""
    with pytest.raises(errors.NotFoundError, match="'search' is not managed"):
        await reader.history("search", START, END, STEP)
    with ThreadPoolExecutor(1) as executor:
        client = prometheus.PrometheusClient(f"http://127.0.0.1:{real.free_port()}", executor)
        loaded = profiles.load_all(["dsctl"], catalogue.load())
        away = demand.PrometheusDemand(client, [replace(CHAT, selector={"service": "chat"})], loaded)
        with pytest.raises(errors.RetryLaterError, match="does not answer"):
            await away.history("chat", START, END, STEP)
        client.close()
