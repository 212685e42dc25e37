"""A model made of integers and the parts around it, for tests of the node that need no torch."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import fastapi
import httpx
from starlette.types import ASGIApp

from inference_node import settings, tokenizer
from inference_node.engine import generation, ports, sampling
from inference_node.server import app as node_app
from inference_node.server import node
from tests.support.clock import FakeClock

T = TypeVar("T")


async def settle() -> None:
    """Let every task run until all of them wait."""
    for _ in range(60):
        await asyncio.sleep(0)  # noqa: TID251 - yields to the loop, waits for no time


class InlineThread:
    """Runs model calls on the spot."""

    async def call(self, work: Callable[[], T]) -> T:
        return work()


@dataclass
class FakeRunner:
    """Answers each prompt with the alphabet, beginning at a letter that depends on the prompt and the version."""

    shift: int = 0
    rows: dict[int, int] = field(default_factory=dict)
    passes: list[tuple[str, int]] = field(default_factory=list)
    fails_next: bool = False

    @property
    def held_tokens(self) -> int:
        return len(self.rows)

    def advance(self, *, leaving: Collection[int], joining: Sequence[ports.Row]) -> Mapping[int, int]:
        for key in leaving:
            del self.rows[key]
        if self.fails_next:
            self.fails_next = False
            self.rows.clear()
            raise RuntimeError("out of memory")
        if joining:
            self.passes.append(("prefill", len(joining)))
            first = {row.key: sum(row.prompt) + self.shift for row in joining}
            self.rows |= first
        elif self.rows:
            self.passes.append(("decode", len(self.rows)))
        computed = [row.key for row in joining] or list(self.rows)
        tokens = {key: ord("a") + self.rows[key] % 26 for key in computed}
        for key in computed:
            self.rows[key] += 1
        return tokens

    def empty_cache(self) -> tuple[bool, int]:
        return False, 0


class CountingTokenizer(tokenizer.ByteTokenizer):
    """Counts the prompts it was given."""

    def __init__(self) -> None:
        self.num_encoded = 0

    def encode(self, text: str) -> list[int]:
        self.num_encoded += 1
        return super().encode(text)


def model(version: str = "v1", runner: FakeRunner | None = None) -> ports.LoadedModel:
    """Return a model that needs nothing."""
    return ports.LoadedModel(
        name="tiny-deepseek-v3",
        version=version,
        device="cpu",
        vocab_size=tokenizer.VOCAB_SIZE,
        max_context_tokens=256,
        tokenizer=CountingTokenizer(),
        runner=runner or FakeRunner(),
    )


def parameters(**overrides: Any) -> sampling.Sampling:
    fields: dict[str, Any] = {"max_tokens": 3, "temperature": 0.0, **overrides}
    return sampling.Sampling(**fields)


def waiting(key: int, arrived_at: float, rank: generation.Rank, of: ports.LoadedModel) -> generation.Generation:
    """Return a request that waits."""
    return generation.Generation(
        key=key, rank=rank, model=of, prompt=[key], parameters=parameters(), arrived_at=arrived_at
    )


def node_settings(**overrides: Any) -> settings.NodeSettings:
    """Return settings with one key of each kind and instant batching."""
    document: dict[str, Any] = {
        "api_keys": [
            {"key": "key-standard"},
            {"key": "key-premium", "level": "premium"},
            {"key": "key-gateway", "is_gateway": True},
        ],
        "admin_tokens": ["admin-token"],
        "batch": {"max_size": 4, "max_wait_seconds": 0},
        "default_max_tokens": 4,
        "model": {"versions": {"v1": {"seed": 0}, "v2": {"seed": 1}}},
        "cache": {"audit_ratio": 1.0},
        "faults_enabled": True,
    }
    return settings.NodeSettings.model_validate({**document, **overrides})


@dataclass
class NodeUnderTest:
    """A node in this process, over the model of integers, with a client of each kind."""

    node: node.Node
    app: fastapi.FastAPI
    client: httpx.AsyncClient
    clock: FakeClock
    runners: dict[str, FakeRunner]
    edge: ASGIApp

    async def ask(self, prompt: str = "hello", *, key: str = "key-standard", **fields: Any) -> httpx.Response:
        """Send a greedy completion."""
        headers = {"authorization": f"Bearer {key}", **fields.pop("headers", {})}
        body = {"prompt": prompt, "temperature": 0, **fields}
        return await self.client.post("/v1/completions", json=body, headers=headers)

    async def admin(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> httpx.Response:
        """Make an admin call."""
        headers = {"authorization": "Bearer admin-token"} | ({"idempotency-key": key} if key else {})
        return await self.client.request(method, f"/admin/v1{path}", json=body, headers=headers)

    async def move(self, seconds: float) -> None:
        """Move the clock once every task sleeps, and let them act on it."""
        await settle()
        self.clock.move(seconds)
        await settle()

    async def metric(self, line: str) -> float | None:
        """Return the value of the sample written as `line`, such as `name{label="value"}`."""
        text = (await self.client.get("/metrics")).text
        values = [each.rpartition(" ")[2] for each in text.splitlines() if each.rpartition(" ")[0] == line]
        return float(values[0]) if values else None


@asynccontextmanager
async def served_node(**overrides: Any) -> AsyncGenerator[NodeUnderTest]:
    """Run a node in this process until the block ends."""
    clock = FakeClock()
    runners = {"v1": FakeRunner(), "v2": FakeRunner(shift=1)}
    served = node.Node(
        node_settings(**overrides),
        time=clock,
        thread=InlineThread(),
        load=lambda version: model(version, runners[version]),
    )
    edge, app = node_app.create(served)
    await served.start()
    transport = httpx.ASGITransport(app=edge)
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        try:
            yield NodeUnderTest(served, app, client, clock, runners, edge)
        finally:
            await served.stop()
