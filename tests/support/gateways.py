"""A gateway in this process, with a caller of each level, in front of nodes that are real ones here or plain functions."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from inference_node import settings
from inference_node.gateway import app, gateway
from tests.support import node_fakes
from tests.support.clock import FakeClock

LEVELS = ("premium", "standard", "batch")
KEYS = [{"key": f"key-{level}", "level": level} for level in LEVELS]


class GatedNode(httpx.AsyncBaseTransport):
    """Answers with the level it was told, once its gate is open; remembers who was let in and who was cut off."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.headers: list[httpx.Headers] = []
        self.cancelled = 0

    @property
    def levels(self) -> list[str]:
        """The levels of the requests, in the order in which they came."""
        return [one["x-service-level"] for one in self.headers]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.headers.append(request.headers)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return httpx.Response(200, content=_body())


async def _body() -> AsyncIterator[bytes]:
    yield b"{}"


@dataclass
class Body(httpx.AsyncByteStream):
    """A request's body that says whether anybody read it; `is_endless` never ends."""

    is_endless: bool = False
    is_read: bool = False
    _never: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.is_read = True
        yield b'{"prompt": "x"}'
        if self.is_endless:
            await self._never.wait()


@dataclass
class GatewayUnderTest:
    """The gateway, its clock, and a client."""

    gateway: gateway.Gateway
    client: httpx.AsyncClient
    clock: FakeClock

    async def ask(self, level: str = "standard", body: Body | None = None) -> httpx.Response:
        """Send a completion with the key of a level."""
        headers = {"authorization": f"Bearer key-{level}", "content-type": "application/json"}
        return await self.client.post("/v1/completions", content=body or Body(), headers=headers)

    def asking(self, *levels: str) -> list[asyncio.Task[httpx.Response]]:
        """Start a request of each level, in order."""
        return [asyncio.create_task(self.ask(level)) for level in levels]

    async def admin(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Make an admin call that succeeds."""
        headers = {"authorization": "Bearer admin-token"}
        answer = await self.client.request(method, f"/admin/v1{path}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def metric(self, line: str) -> float:
        """Return the value of the sample written as `line`."""
        text = (await self.client.get("/metrics")).text
        [value] = [each.rpartition(" ")[2] for each in text.splitlines() if each.rpartition(" ")[0] == line]
        return float(value)

    async def move(self, seconds: float) -> None:
        """Move the clock once every task sleeps, and let them act on it."""
        await node_fakes.settle()
        self.clock.move(seconds)
        await node_fakes.settle()


def places(concurrency: int, queue: int, timeout_seconds: float = 5.0) -> dict[str, float]:
    """Return the settings of a level."""
    return {"concurrency": concurrency, "queue": queue, "timeout_seconds": timeout_seconds}


def same(level: Mapping[str, float]) -> dict[str, Mapping[str, float]]:
    """Return settings in which every level has the same places."""
    return dict.fromkeys(LEVELS, level)


@asynccontextmanager
async def served(transport: httpx.AsyncBaseTransport, **overrides: Any) -> AsyncGenerator[GatewayUnderTest]:
    """Run a gateway in front of one node, `a`, until the block ends."""
    document = {
        "api_keys": KEYS,
        "admin_tokens": ["admin-token"],
        "node_api_key": "key-gateway",
        "nodes": [{"name": "a", "url": "http://a"}],
        **overrides,
    }
    clock = FakeClock()
    made = gateway.Gateway(settings.GatewaySettings.model_validate(document), time=clock, transport=transport)
    made.start()
    inside = httpx.ASGITransport(app=app.create(made)[0])
    async with httpx.AsyncClient(transport=inside, base_url="http://gateway") as client:
        yield GatewayUnderTest(made, client, clock)
    await made.stop()
