"""The reader against a real Prometheus that scrapes targets whose metrics the test sets."""

import json
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from controlplane import clock
from controlplane.domain import services, windows
from controlplane.domain import signals as sig
from controlplane.observe import catalogue, coverage, profiles, prometheus, reader
from tests.support import prometheus as real

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CHAT = services.Service("chat", "dsctl", {"service": "chat"})
QUEUE = 'vllm:num_requests_waiting{model_name="m"}'
STEPS = "dsctl_node_engine_steps_total"
ARRIVALS = 'dsctl_gateway_arrivals_total{level="standard"}'


@dataclass
class Fleet:
    """A Prometheus scraping two nodes and a gateway five times a second."""

    prometheus: real.Server
    nodes: dict[str, real.Exposition]
    gateway: real.Exposition
    folder: Path
    config: str

    def restart(self) -> None:
        port = int(self.prometheus.url.rsplit(":", 1)[1])
        self.prometheus = real.start_prometheus(self.folder, self.config, port=port)


@pytest.fixture
def fleet(tmp_path: Path) -> Generator[Fleet]:
    with real.exposing() as a, real.exposing() as b, real.exposing() as gateway:
        jobs = {
            "nodes": [_target(a, node="a"), _target(b, node="b")],
            "gateway": [_target(gateway)],
        }
        config = json.dumps(
            {
                "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
                "scrape_configs": [{"job_name": job, "static_configs": targets} for job, targets in jobs.items()],
            }
        )
        for node in (a, b):
            node.set({QUEUE: 0, STEPS: 1})
        gateway.set({ARRIVALS: 5})
        server = real.start_prometheus(tmp_path, config)
        found = Fleet(server, {"a": a, "b": b}, gateway, tmp_path, config)
        try:
            real.until(lambda: _scraped(server) == 3, "all three targets are scraped")
            yield found
        finally:
            found.prometheus.stop()


def _scraped(server: real.Server) -> int:
    return len(real.get(f"{server.url}/api/v1/query?query=up==1")["data"]["result"])


def _target(exposition: real.Exposition, **labels: str) -> dict[str, object]:
    return {"targets": [exposition.address], "labels": {"service": "chat", **labels}}


@asynccontextmanager
async def reading(url: str) -> AsyncGenerator[reader.PrometheusReader]:
    with ThreadPoolExecutor(8) as pool:
        client = prometheus.PrometheusClient(url, pool)
        known = profiles.load_all(["dsctl"], catalogue.load())
        yield reader.PrometheusReader(
            client, [CHAT], known, catalogue.load(), clock.SystemClock(), window_seconds=2.0, step_seconds=1
        )
    client.close()


async def seen(one: reader.PrometheusReader, node: str, signal: str, wanted: object, *, seconds: float = 15) -> None:
    """Read until the node's signal is `wanted`: a number, or the reason it is unknown."""
    last: object = None
    with anyio.move_on_after(seconds):
        while True:
            view = (await one.read_now()).services["chat"]
            last = state(view.nodes[node].signals[signal] if node in view.nodes else None)
            if last == wanted:
                return
            await anyio.sleep(0.1)
    raise AssertionError(f"{signal} of {node} is {last}, expected {wanted}")


def state(reading: sig.Reading | None) -> object:
    return reading.value if isinstance(reading, sig.Value) else reading and reading.reason


async def test_values_zeros_and_down_targets_are_told_apart(fleet: Fleet) -> None:
    """A value is a value, zero is zero, a node that stops answering is unknown, and it is known to be down."""
    async with reading(fleet.prometheus.url) as one:
        await seen(one, "a", "queue_depth", 0.0)
        fleet.nodes["a"].metrics[QUEUE] = 7
        await seen(one, "a", "queue_depth", 7.0)
        await seen(one, "b", "queue_depth", 0.0)
        await seen(one, "a", "queue_age", sig.UnknownReason.NO_SERIES)

        fleet.nodes["b"].is_up = False
        await seen(one, "b", "queue_depth", sig.UnknownReason.TARGET_DOWN)
        view = (await one.read_now()).services["chat"]
        assert state(view.nodes["b"].is_up) == 0.0
        assert not view.nodes["b"].is_serving
        assert view.nodes["a"].is_serving
        assert view.nodes["a"].address == fleet.nodes["a"].address
        assert state(view.signals["queue_depth"]) == 7.0


async def test_a_rate_of_a_quiet_counter_is_zero_and_a_ratio_of_nothing_is_unknown(fleet: Fleet) -> None:
    """Steps that stand still are a zero; a hit ratio without look-ups is not a number."""
    fleet.nodes["a"].metrics['dsctl_node_cache_requests_total{tier="l1",result="miss"}'] = 3
    async with reading(fleet.prometheus.url) as one:
        await seen(one, "a", "engine_steps_rate", 0.0)
        await seen(one, "a", "cache_hit_ratio", sig.UnknownReason.NOT_FINITE)


async def test_what_the_gateway_tells_belongs_to_the_service_and_to_its_nodes(fleet: Fleet) -> None:
    """Arrivals are the service's; answers carry the node's name and become that node's; 429 is not an error."""
    async with reading(fleet.prometheus.url) as one:
        for count in range(40):
            fleet.gateway.metrics |= {
                ARRIVALS: 5 + 10 * count,
                'dsctl_gateway_responses_total{level="standard",node="a",code="200"}': 3.0 * count,
                'dsctl_gateway_responses_total{level="standard",node="a",code="500"}': 1.0 * count,
                'dsctl_gateway_responses_total{level="standard",node="",code="429"}': 9.0 * count,
            }
            await anyio.sleep(0.1)
        view = (await one.read_now()).services["chat"]
        rate = view.signals["request_rate"]
        assert isinstance(rate, sig.Value)
        assert 40 < rate.value < 160
        assert state(view.signals["server_error_ratio"]) == pytest.approx(0.25, abs=0.02)
        assert state(view.nodes["a"].signals["success_ratio"]) == pytest.approx(0.75, abs=0.02)


async def test_a_stopped_prometheus_makes_everything_unknown_until_it_is_back(fleet: Fleet) -> None:
    """Stopped: quick, no exception, the nodes stay listed, all unknown. Started again: values, without help."""
    async with reading(fleet.prometheus.url) as one:
        await seen(one, "a", "queue_depth", 0.0)
        fleet.prometheus.stop()
        begin = anyio.current_time()
        view = (await one.read_now()).services["chat"]
        assert anyio.current_time() - begin < 6.5
        assert set(view.nodes) == {"a", "b"}
        unknown = [state(r) for n in view.nodes.values() for r in (n.is_up, *n.signals.values())]
        assert set(unknown) | {state(r) for r in view.signals.values()} == {sig.UnknownReason.SOURCE_UNREACHABLE}

        fleet.restart()
        await seen(one, "a", "queue_depth", 0.0)


async def test_a_hung_prometheus_costs_at_most_the_deadline(fleet: Fleet) -> None:
    """A store that takes connections and never answers holds the loop for about six seconds, no more."""
    async with reading(fleet.prometheus.url) as one:
        await seen(one, "a", "queue_depth", 0.0)
        fleet.prometheus.freeze()
        begin = anyio.current_time()
        view = (await one.read_now()).services["chat"]
        assert anyio.current_time() - begin < 7.5
        assert state(view.nodes["a"].is_up) is sig.UnknownReason.SOURCE_UNREACHABLE
        fleet.prometheus.thaw()
        await seen(one, "a", "queue_depth", 0.0)


async def test_a_window_has_holes_where_a_node_was_down(fleet: Fleet) -> None:
    """Prometheus repeats old samples; the window does not, and the service's sum leaves the dead node out."""
    async with reading(fleet.prometheus.url) as one:
        fleet.nodes["a"].metrics[QUEUE] = 4
        await seen(one, "a", "queue_depth", 4.0)
        await anyio.sleep(2.5)
        fleet.nodes["a"].is_up = False
        await seen(one, "a", "queue_depth", sig.UnknownReason.TARGET_DOWN)
        await anyio.sleep(3)
        window = await _window(one, ["queue_depth", "engine_steps_rate", "queue_age", "breaker_open"])
        down = window.nodes["a"]["queue_depth"]
        alive = window.nodes["b"]["queue_depth"]
        assert down.values[-1] == 4.0
        assert down.times[-1] < alive.times[-1]
        assert window.service_signals["queue_depth"].values[-1] == 0.0
        assert window.nodes["a"]["engine_steps_rate"].times[-1] < alive.times[-1]
        assert state(window.unknown["queue_age"]) is sig.UnknownReason.NO_SERIES
        assert state(window.unknown["breaker_open"]) is sig.UnknownReason.NOT_IN_PROFILE


async def _window(one: reader.PrometheusReader, signals: list[str]) -> windows.Window:
    now = clock.SystemClock().now()
    return await one.read_window("chat", signals, now - timedelta(seconds=60), now)


async def test_doctor_hears_which_signals_are_there(fleet: Fleet) -> None:
    """Found on both nodes, missing, and not asked for where the profile does not map it."""
    async with reading(fleet.prometheus.url) as one:
        await seen(one, "b", "queue_depth", 0.0)
        rows = coverage.of((await one.read_now()).services["chat"])
        standing = {row.signal: row.state for row in rows}
        assert standing["queue_depth"] is coverage.Standing.FOUND
        assert standing["gpu_power"] is coverage.Standing.MISSING
        assert "breaker_open" not in standing
