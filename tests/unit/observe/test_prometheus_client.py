"""The client and the reader against servers that misbehave: errors are named, the deadline is kept."""

import json
import math
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest

from controlplane import clock
from controlplane.domain import errors, services
from controlplane.domain import signals as sig
from controlplane.observe import catalogue, profiles, prometheus, reader
from tests.support import prometheus as real

CHAT = services.Service("chat", "dsctl", {"service": "chat"})
CATALOGUE = catalogue.load()
Answer = Callable[[str], tuple[int, bytes]]


@dataclass
class Store:
    """A stand-in for the query API; `queries` are those that were asked."""

    url: str = ""
    queries: list[str] = field(default_factory=list[str])
    authorizations: set[str] = field(default_factory=set[str])


@contextmanager
def answering(answer: Answer) -> Generator[Store]:
    store = Store()

    class Handler(real.QuietHandler):
        def do_GET(self) -> None:  # noqa: N802  # the base class names it so
            query = parse_qs(urlsplit(self.path).query)["query"][0]
            store.queries.append(query)
            store.authorizations.add(self.headers.get("Authorization", ""))
            self.answer(*answer(query), kind="application/json")

    with real.serving(Handler) as address:
        store.url = f"http://{address}"
        yield store


@asynccontextmanager
async def asking(url: str, threads: int = 4) -> AsyncGenerator[prometheus.PrometheusClient]:
    with ThreadPoolExecutor(threads) as pool:
        client = prometheus.PrometheusClient(url, pool, headers={"Authorization": "Bearer t0ken"})
        yield client
    client.close()


def vector(*rows: tuple[dict[str, str], float, str]) -> tuple[int, bytes]:
    result = [{"metric": labels, "value": [at, value]} for labels, at, value in rows]
    return 200, json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


async def test_an_answer_becomes_samples_and_the_token_is_sent() -> None:
    """Numbers are text on the wire, NaN among them; the metric's own name is dropped."""
    with answering(lambda _: vector(({"__name__": "up", "node": "a"}, 5.0, "1"), ({"node": "b"}, 5.0, "NaN"))) as store:
        async with asking(store.url) as client:
            first, second = await client.instant("up")
        assert first == prometheus.Sample({"node": "a"}, 5.0, 1.0)
        assert math.isnan(second.value)
        assert store.authorizations == {"Bearer t0ken"}


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ((400, b'{"error":"parse error"}'), errors.GiveUpError, "refused the query"),
        ((422, b'{"error":"too many"}'), errors.GiveUpError, "refused the query"),
        ((503, b"busy"), errors.RetryLaterError, "refused the query"),
        ((200, b"<html>a login page</html>"), errors.RetryLaterError, "does not answer"),
        ((200, b"[]"), errors.RetryLaterError, "not Prometheus's API"),
        ((200, b'{"data": {}}'), errors.RetryLaterError, "not Prometheus's API"),
        ((200, b'{"data": {"result": [1, "2"]}}'), errors.GiveUpError, "gives no series"),
        ((200, b'{"data": {"result": [{"metric": {}}]}}'), errors.GiveUpError, "gives no series"),
    ],
)
async def test_every_misbehaviour_is_one_of_our_errors(
    answer: tuple[int, bytes], error: type[errors.DsctlError], said: str
) -> None:
    """Refused for good, or worth asking again: nothing foreign gets out."""
    with answering(lambda _: answer) as store:
        async with asking(store.url) as client:
            with pytest.raises(error, match=said):
                await client.instant("up")


async def test_nobody_listening_is_told_at_once() -> None:
    """No retries of the library: the answer comes in well under a second."""
    async with asking(f"http://127.0.0.1:{real.free_port()}") as client:
        begin = anyio.current_time()
        with pytest.raises(errors.RetryLaterError, match="is it running"):
            await client.instant("up")
        assert anyio.current_time() - begin < 1.0


def fleet_reader(client: prometheus.PrometheusClient, **settings: float) -> reader.PrometheusReader:
    known = profiles.load_all(["dsctl"], CATALOGUE)
    return reader.PrometheusReader(client, [CHAT], known, CATALOGUE, clock.SystemClock(), **settings)  # pyright: ignore[reportArgumentType]


UP = {"service": "chat", "node": "a", "job": "nodes", "instance": "h:1"}


def one_node(query: str, *, age: float = 1.0) -> tuple[int, bytes]:
    """A fleet of one node that is up; every other query has one series of value 3."""
    if query.startswith("timestamp("):
        return vector((UP, 1000.0, str(1000.0 - age)))
    if query.startswith("up{"):
        return vector((UP, 1000.0, "1"))
    return vector(({"service": "chat", "node": "a"}, 1000.0, "3"))


async def test_the_fleet_is_read_with_one_query_each_and_none_for_what_nobody_exports() -> None:
    """`up`, its time, and one per signal and scope; no GPU exporter is scraped, so none is asked about."""
    with answering(one_node) as store:
        async with asking(store.url) as client:
            view = (await fleet_reader(client).read_now()).services["chat"]
        assert view.nodes["a"].signals["queue_depth"] == view.signals["queue_depth"]
        assert len(store.queries) == len(set(store.queries))
        assert not [query for query in store.queries if "DCGM" in query or "dsctl_gateway" in query]
        power = view.nodes["a"].signals["gpu_power"]
        assert isinstance(power, sig.Unknown)
        assert power.reason is sig.UnknownReason.NO_SERIES


async def test_an_old_scrape_is_stale_by_the_limit_of_each_signal() -> None:
    """At 31 s the queue is unknown, as is whether the node is up."""
    with answering(lambda query: one_node(query, age=31.0)) as store:
        async with asking(store.url) as client:
            node = (await fleet_reader(client).read_now()).services["chat"].nodes["a"]
        for reading in (node.is_up, node.signals["queue_depth"]):
            assert isinstance(reading, sig.Unknown)
            assert reading.reason is sig.UnknownReason.STALE


async def test_one_refused_query_costs_one_signal() -> None:
    """The rest of the fleet is still known, and the reason is kept."""

    def picky(query: str) -> tuple[int, bytes]:
        return (400, b"parse error") if "num_requests_waiting" in query else one_node(query)

    with answering(picky) as store:
        async with asking(store.url) as client:
            node = (await fleet_reader(client).read_now()).services["chat"].nodes["a"]
        assert isinstance(node.signals["running"], sig.Value)
        lost = node.signals["queue_depth"]
        assert isinstance(lost, sig.Unknown)
        assert lost.reason is sig.UnknownReason.SOURCE_UNREACHABLE
        assert "400" in lost.detail


async def test_queries_that_hang_cost_the_deadline_and_nothing_else() -> None:
    """What was answered in time is known; what was not is unknown and says how long was waited."""
    release = threading.Event()

    def slow(query: str) -> tuple[int, bytes]:
        if "num_requests_waiting" in query:
            release.wait(timeout=10)
        return one_node(query)

    with answering(slow) as store:
        async with asking(store.url) as client:
            begin = anyio.current_time()
            node = (await fleet_reader(client, deadline_seconds=1.0).read_now()).services["chat"].nodes["a"]
            spent = anyio.current_time() - begin
            release.set()
        assert spent < 3.0
        assert isinstance(node.signals["running"], sig.Value)
        assert str(node.signals["queue_depth"]) == "metrics store did not answer (no answer within 1 s)"


async def test_a_window_of_an_unknown_service_is_refused_and_of_a_silent_store_unknown() -> None:
    """Asking for a service nobody manages is a mistake; a silent store is not."""
    now = clock.SystemClock().now()
    async with asking(f"http://127.0.0.1:{real.free_port()}") as client:
        one = fleet_reader(client)
        with pytest.raises(errors.NotFoundError, match="not managed"):
            await one.read_window("nobody", ["running"], now, now)
        window = await one.read_window("chat", ["running", "breaker_open"], now, now)
    assert window.unknown["running"].reason is sig.UnknownReason.SOURCE_UNREACHABLE
    assert window.unknown["breaker_open"].reason is sig.UnknownReason.NOT_IN_PROFILE
    assert (window.nodes, window.service_signals) == ({}, {})
