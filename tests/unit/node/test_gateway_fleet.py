"""Choosing nodes, passing requests on, and the gateway's admin API, over stub nodes in this process."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_node import settings
from inference_node.gateway import app, fleet, gateway
from tests.support import node_fakes
from tests.support.clock import FakeClock

Answer = Callable[[httpx.Request], Any]


class Stub(httpx.AsyncBaseTransport):
    """Nodes by host name; each answers with a function, which may raise, or wait on an event."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[httpx.Request] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        answer = self.answers.get(request.url.host, lambda _: httpx.Response(200, json={"from": request.url.host}))
        made = answer(request)
        if isinstance(made, Exception):
            raise made
        return made if not made.is_stream_consumed else unread(made)

    def hosts(self) -> list[str]:
        return [request.url.host for request in self.requests]


def unread(response: httpx.Response) -> httpx.Response:
    """Return the response as a network would bring it: not read yet."""

    async def content() -> AsyncIterator[bytes]:
        yield response.content

    return httpx.Response(response.status_code, headers=response.headers, content=content())


@dataclass
class GatewayUnderTest:
    gateway: gateway.Gateway
    client: httpx.AsyncClient
    clock: FakeClock
    stub: Stub
    tokens: dict[str, str] = field(default_factory=lambda: {"authorization": "Bearer admin-token"})

    async def ask(self, key: str = "key-standard", **headers: str) -> httpx.Response:
        sent = {"authorization": f"Bearer {key}", **headers}
        return await self.client.post("/v1/completions", json={"prompt": "x"}, headers=sent)

    async def admin(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return await self.client.request(method, f"/admin/v1{path}", json=body, headers=self.tokens)

    async def metric(self, line: str) -> float | None:
        text = (await self.client.get("/metrics")).text
        values = [each.rpartition(" ")[2] for each in text.splitlines() if each.rpartition(" ")[0] == line]
        return float(values[0]) if values else None

    async def move(self, seconds: float) -> None:
        await node_fakes.settle()
        self.clock.move(seconds)
        await node_fakes.settle()


@asynccontextmanager
async def served(*nodes: str, **overrides: Any) -> AsyncGenerator[GatewayUnderTest]:
    document = {
        "api_keys": [{"key": "key-standard", "tenant": "acme"}, {"key": "key-batches", "level": "batch"}],
        "admin_tokens": ["admin-token"],
        "node_api_key": "key-of-the-gateway",
        "nodes": [{"name": name, "url": f"http://{name}"} for name in nodes],
        **overrides,
    }
    clock, stub = FakeClock(), Stub()
    made = gateway.Gateway(settings.GatewaySettings.model_validate(document), time=clock, transport=stub)
    made.start()
    transport = httpx.ASGITransport(app=app.create(made)[0])
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield GatewayUnderTest(made, client, clock, stub)
    await made.stop()


def refusal(_: httpx.Request) -> httpx.Response:
    return httpx.Response(503, headers={"retry-after": "5"}, json={"error": {}})


def test_idle_nodes_take_turns() -> None:
    """Without load the requests go round."""
    nodes = fleet.Fleet(FakeClock(), 0)
    for name in "abc":
        nodes.register(name, f"http://{name}")
    chosen: list[str] = []
    for _ in range(9):
        member = nodes.choose()
        assert member is not None
        nodes.begin(member)
        nodes.end(member)
        chosen.append(member.name)
    assert Counter(chosen) == {"a": 3, "b": 3, "c": 3}


def test_outstanding_requests_follow_the_weights() -> None:
    """A node of weight three holds three times as many."""
    nodes = fleet.Fleet(FakeClock(), 0)
    nodes.register("a", "http://a", 1)
    nodes.register("b", "http://b", 3)
    nodes.register("c", "http://c", 0)
    for _ in range(40):
        member = nodes.choose()
        assert member is not None
        nodes.begin(member)
    assert [each.outstanding for each in nodes.members()] == [10, 30, 0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "remove", "begin", "end", "eject"]))))
def test_a_choice_is_always_in_service_and_counts_never_go_wrong(events: list[tuple[str, str]]) -> None:
    """For any order of events: chosen nodes are in service, counts match, drained nodes are gone."""
    nodes, held = fleet.Fleet(FakeClock(), 0), list[fleet.Member]()
    for name, event in events:
        known = {each.name: each for each in nodes.members()}
        if event == "put":
            nodes.register(name, f"http://{name}")
        elif event == "remove" and name in known:
            nodes.remove(name)
        elif event == "eject" and name in known and known[name].state is fleet.State.IN_SERVICE:
            known[name].state = fleet.State.EJECTED
        elif event == "begin" and (member := nodes.choose()) is not None:
            assert member.state is fleet.State.IN_SERVICE
            nodes.begin(member)
            held.append(member)
        elif event == "end" and held:
            nodes.end(held.pop())
        for each in nodes.members():
            assert each.outstanding == sum(member is each for member in held)
            assert each.state is not fleet.State.DRAINING or each.outstanding > 0


async def test_the_node_sees_the_gateways_key_and_the_callers_rights() -> None:
    """The caller's key stays at the gateway; level, tenant and id go on, forged ones do not."""
    async with served("a") as it:
        forged = {"x-service-level": "premium", "x-tenant": "other", "x-request-id": "id-1"}
        response = await it.ask("key-batches", **forged)
        assert (response.status_code, response.headers["x-request-id"]) == (200, "id-1")
        sent = it.stub.requests[0].headers
        assert sent["authorization"] == "Bearer key-of-the-gateway"
        assert (sent["x-service-level"], sent["x-tenant"], sent["x-request-id"]) == ("batch", "default", "id-1")


@pytest.mark.parametrize("name", ["user-agent", "accept", "cache-control", "content-type"])
async def test_headers_beyond_ascii_pass_through(name: str) -> None:
    """A client named in its own language is served like any other, and the node reads the same bytes."""
    async with served("a") as it:
        sent = {b"authorization": b"Bearer key-standard", name.encode(): b"caf\xe9"}
        response = await it.client.post("/v1/completions", content=b"{}", headers=sent)
        assert response.status_code == 200
        assert (name.encode(), b"caf\xe9") in [(key.lower(), value) for key, value in it.stub.requests[0].headers.raw]


@pytest.mark.parametrize("value", [b"\xe9", "\u20ac".encode()])
async def test_a_nodes_odd_headers_cost_no_place(value: bytes) -> None:
    """Whatever bytes a node sends as a header, they come through, and nothing is held for ever."""
    async with served("a") as it:
        it.stub.answers["a"] = lambda _: httpx.Response(200, headers=[(b"content-type", value)], content=b"{}")
        response = await it.ask()
        assert (b"content-type", value) in response.headers.raw
        assert (it.gateway.outstanding, it.gateway.fleet.find("a").outstanding) == (0, 0)


@pytest.mark.parametrize("status", [101, 199, 600, 999])
async def test_a_status_that_is_no_answer_is_a_broken_node(status: int) -> None:
    """502, counted, and the node let go of."""
    async with served("a") as it:
        it.stub.answers["a"] = lambda _: httpx.Response(status, content=b"{}")
        response = await it.ask()
        assert (response.status_code, response.json()["error"]["code"]) == (502, "bad_upstream")
        assert (it.gateway.outstanding, it.gateway.fleet.find("a").outstanding) == (0, 0)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "http://user@host:1",
        "http://host/path",
        "http://host:99999",
        "http://host:port",
        "http://host:0",
        "http://:80",
        "http://[zz]:1",
        "http://[::::]:1",
        "http://a..b",
        "http://\u2460",
        "http://a\\b",
        f"http://{'a' * 64}",
    ],
)
async def test_an_address_that_no_request_could_reach_is_refused(url: str) -> None:
    """At registration, where somebody reads the answer, and not with each caller's request."""
    async with served("a") as it:
        response = await it.admin("PUT", "/nodes/b", {"url": url})
        assert (response.status_code, response.json()["errors"][0]["place"]) == (422, "url")
        assert [each.name for each in it.gateway.fleet.members()] == ["a"]


async def test_an_unknown_key_never_reaches_a_node() -> None:
    """401 in OpenAI's form."""
    async with served("a") as it:
        response = await it.ask("wrong-key")
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert it.stub.requests == []


@pytest.mark.parametrize("first", [lambda _: httpx.ConnectError("refused"), refusal])
async def test_what_surely_was_not_processed_is_tried_on_another_node(first: Answer) -> None:
    """A node that cannot be reached, or refuses because it drains, costs the caller nothing."""
    async with served("a", "b") as it:
        it.stub.answers["a"] = first
        response = await it.ask()
        assert (response.status_code, response.json()) == (200, {"from": "b"})
        assert it.stub.hosts() == ["a", "b"]
        assert [each.outstanding for each in it.gateway.fleet.members()] == [0, 0]


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (lambda _: httpx.RemoteProtocolError("closed"), 502),
        (lambda _: httpx.ReadError("reset"), 502),
        (lambda _: httpx.ReadTimeout("slow"), 504),
        (lambda _: httpx.Response(500, json={}), 500),
        (lambda _: httpx.Response(429, headers={"retry-after": "3"}, json={}), 429),
        (lambda _: httpx.Response(503, json={}), 503),
    ],
)
async def test_what_may_have_been_processed_is_not_repeated(failure: Answer, status: int) -> None:
    """One try only, and the caller learns what happened."""
    async with served("a", "b") as it:
        it.stub.answers["a"] = failure
        response = await it.ask()
        assert response.status_code == status
        assert it.stub.hosts() == ["a"]
        line = f'dsctl_gateway_responses_total{{code="{status}",level="standard",node="a"}}'
        assert await it.metric(line) == 1


async def test_at_most_two_nodes_are_tried() -> None:
    """With every node unreachable the caller gets 503 with Retry-After, counted without a node."""
    async with served("a", "b", "c") as it:
        it.stub.answers = dict.fromkeys("abc", lambda _: httpx.ConnectError("refused"))
        response = await it.ask()
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert len(it.stub.requests) == 2
        assert await it.metric('dsctl_gateway_responses_total{code="503",level="standard",node=""}') == 1
        assert await it.metric('dsctl_gateway_rejected_total{level="standard",reason="no_node"}') == 1
        assert await it.metric('dsctl_gateway_upstream_errors_total{node="a",reason="connect"}') == 1


async def test_the_last_refusal_is_passed_back() -> None:
    """When every node drains, the caller gets the node's own 503 and its Retry-After."""
    async with served("a", "b") as it:
        it.stub.answers = dict.fromkeys("ab", refusal)
        response = await it.ask()
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert it.gateway.outstanding == 0


async def test_a_stream_that_breaks_off_ends_with_an_error_event() -> None:
    """The chunks before arrive, then the caller is told; nothing stays outstanding."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        raise httpx.ReadError("reset")

    async with served("a") as it:
        it.stub.answers["a"] = lambda _: httpx.Response(
            200, headers={"content-type": "text/event-stream"}, content=chunks()
        )
        response = await it.ask()
        assert response.text.startswith("data: 1\n\ndata: {")
        assert "broke off" in response.text
        assert it.gateway.outstanding == it.gateway.fleet.members()[0].outstanding == 0
        assert await it.metric('dsctl_gateway_responses_total{code="502",level="standard",node="a"}') == 1


async def test_an_ejected_node_gets_nothing_until_its_lease_ends() -> None:
    """Ejection takes a node out at once, shows why and for how long, and ends by itself."""
    async with served("a", "b") as it:
        ejected = (await it.admin("POST", "/nodes/a/eject", {"ttl_seconds": 10, "reason": "slow"})).json()["node"]
        assert (ejected["state"], ejected["eject_reason"], ejected["eject_expires_in_seconds"]) == (
            "ejected",
            "slow",
            10,
        )
        for _ in range(3):
            await it.ask()
        assert it.stub.hosts() == ["b"] * 3
        assert await it.metric('dsctl_gateway_node_in_service{node="a"}') == 0
        await it.move(10)
        assert (await it.admin("GET", "/nodes")).json()["nodes"][0]["state"] == "in_service"


async def test_a_returned_node_serves_at_once() -> None:
    """Return ends the ejection; returning a node in service changes nothing."""
    async with served("a") as it:
        await it.admin("POST", "/nodes/a/eject", {"ttl_seconds": 10, "reason": "test"})
        assert (await it.client.get("/ready")).status_code == 503
        for _ in range(2):
            assert (await it.admin("POST", "/nodes/a/return")).json()["node"]["state"] == "in_service"
        assert (await it.client.get("/ready")).status_code == 200


async def test_a_removed_node_drains_first() -> None:
    """While a request is outstanding the node is listed as draining; then it is gone, with its metrics and leases."""
    async with served("a") as it:
        it.stub.gate.clear()
        asking = asyncio.create_task(it.ask())
        await node_fakes.settle()
        removed = (await it.admin("DELETE", "/nodes/a")).json()
        assert (removed["is_removed"], removed["outstanding"]) == (False, 1)
        assert (await it.admin("GET", "/nodes")).json()["nodes"][0]["state"] == "draining"
        it.stub.gate.set()
        assert (await asking).status_code == 200
        assert (await it.admin("GET", "/nodes")).json() == {"nodes": []}
        assert await it.metric('dsctl_gateway_outstanding{node="a"}') is None
        assert (await it.admin("DELETE", "/nodes/a")).status_code == 404


async def test_registering_again_keeps_an_ejection() -> None:
    """A control plane that registers everything after a restart does not undo an ejection."""
    async with served("a") as it:
        await it.admin("POST", "/nodes/a/eject", {"ttl_seconds": 10, "reason": "test"})
        node = (await it.admin("PUT", "/nodes/a", {"url": "http://a2/", "weight": 2})).json()["node"]
        assert (node["state"], node["url"], node["weight"]) == ("ejected", "http://a2", 2)


async def test_a_leased_weight_returns() -> None:
    """Weight zero sends nothing; after the lease the old weight holds."""
    async with served("a", "b") as it:
        await it.admin("PUT", "/nodes/a/weight", {"weight": 0, "ttl_seconds": 5})
        await it.ask()
        await it.ask()
        assert it.stub.hosts() == ["b", "b"]
        await it.move(5)
        assert (await it.admin("GET", "/nodes")).json()["nodes"][0]["weight"] == 1


async def test_a_shed_level_gets_429_and_is_counted_as_demand() -> None:
    """Other levels go on; the arrivals are still counted; the lease ends it."""
    async with served("a") as it:
        await it.admin("PUT", "/levels", {"batch": {"is_shed": True}, "ttl_seconds": 5})
        shed, other = await it.ask("key-batches"), await it.ask()
        assert (shed.status_code, shed.headers["retry-after"], other.status_code) == (429, "5", 200)
        assert await it.metric('dsctl_gateway_arrivals_total{level="batch"}') == 1
        assert await it.metric('dsctl_gateway_rejected_total{level="batch",reason="shed"}') == 1
        await it.move(5)
        assert (await it.ask("key-batches")).status_code == 200


async def test_a_full_gateway_refuses() -> None:
    """Beyond max_outstanding the answer is 429, and the load ratio says one."""
    async with served("a", max_outstanding=1) as it:
        it.stub.gate.clear()
        asking = asyncio.create_task(it.ask())
        await node_fakes.settle()
        assert await it.metric("dsctl_gateway_load_ratio") == 1
        assert (await it.ask()).status_code == 429
        it.stub.gate.set()
        assert (await asking).status_code == 200
        assert it.gateway.outstanding == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/nodes/a", {"url": "ftp://a"}, 422),
        ("PUT", "/nodes/a", {"url": "http://user@a"}, 422),
        ("PUT", "/nodes/a", {"url": "http://a/path"}, 422),
        ("PUT", "/nodes/a", {"url": "http://a", "weight": -1}, 422),
        ("PUT", "/nodes/bad%20name", {"url": "http://a"}, 422),
        ("POST", "/nodes/a/eject", {"reason": "no time"}, 422),
        ("POST", "/nodes/a/eject", {"ttl_seconds": 1e9, "reason": "long"}, 422),
        ("POST", "/nodes/zz/eject", {"ttl_seconds": 5, "reason": "gone"}, 404),
        ("POST", "/nodes/zz/return", None, 404),
        ("PUT", "/nodes/zz/weight", {"weight": 1}, 404),
        ("PUT", "/levels", {"ttl_seconds": 5}, 422),
        ("PUT", "/levels", {"gold": {"is_shed": True}, "ttl_seconds": 5}, 422),
    ],
)
async def test_wrong_admin_calls_change_nothing(method: str, path: str, body: Any, status: int) -> None:
    """A refusal is a problem that names the place, and the state stays."""
    async with served("a") as it:
        before = (await it.admin("GET", "/state")).json()
        response = await it.admin(method, path, body)
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
        assert response.json()["detail"]
        assert (await it.admin("GET", "/state")).json() == before


async def test_a_returned_node_is_shown_in_slow_start() -> None:
    """State and metrics tell how far it is, whether it was returned or its lease ended."""
    async with served("a", "b", slow_start_seconds=20) as it:
        for end in ("return", "lease"):
            await it.admin("POST", "/nodes/a/eject", {"ttl_seconds": 5, "reason": "test"})
            if end == "return":
                await it.admin("POST", "/nodes/a/return")
            else:
                await it.move(5)
            assert await it.metric('dsctl_gateway_node_slow_start_ratio{node="a"}') == 0.1
            assert await it.metric('dsctl_gateway_node_slow_start_ratio{node="b"}') == 1
            await it.move(10)
            shown = (await it.admin("GET", "/nodes")).json()["nodes"]
            assert [each["slow_start_ratio"] for each in shown] == [0.5, 1.0]
            await it.move(10)
            assert await it.metric('dsctl_gateway_node_slow_start_ratio{node="a"}') == 1
