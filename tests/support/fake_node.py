"""A node and a gateway that exist only as their admin API: real HTTP on a loopback port, no engine.

They speak docs/contract/node-gateway.openapi.yaml as far as actions use it, keep idempotency keys, leases and a
boot_id, and have switches for what goes wrong between two processes. What `/metrics` says is up to the test.
Concurrency: one asyncio server in the test's own loop, or in a thread of its own for tests that block; nothing runs
after the block ends.
"""

import asyncio
import contextlib
import json
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self
from urllib.parse import unquote

from tests.support.clock import FakeClock

TOKEN = "admin-token-of-the-fakes"
Json = dict[str, Any]


class Trouble(StrEnum):
    """What goes wrong with the next call that changes something; it is used up by that call."""

    NONE = "none"
    LOSE_REQUEST = "lose_request"  # the connection breaks before anything happens
    LOSE_ANSWER = "lose_answer"  # it happens, then the connection breaks
    FAIL_AFTER_EFFECT = "fail_after_effect"  # it happens, the answer says 500
    HANG = "hang"  # it happens, no answer ever comes
    BUSY = "busy"  # refused before anything happens, as a node that is loading does
    BARE_503 = "bare_503"  # something in between says 503: nobody knows
    NOT_JSON = "not_json"
    HUGE = "huge"
    REDIRECT = "redirect"
    OTHER_CONTRACT = "other_contract"


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    body: Json
    headers: dict[str, str] = field(default_factory=dict)


def problem(status: int, detail: str, **headers: str) -> Answer:
    """An RFC 9457 answer."""
    body = {"type": "about:blank", "title": "refused", "status": status, "detail": detail}
    return Answer(status, body, {"Content-Type": "application/problem+json", **headers})


# What a wedged engine says: the connection stays open and nothing comes.
SILENCE = Answer(0, {})


def completion(text: str) -> Answer:
    """What a node generated."""
    return Answer(200, {"choices": [{"text": text}]})


class FakeProcess:
    """What node and gateway have in common: token, keys, leases, boot_id, troubles, and the HTTP around them."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.url = ""
        self.port = 0  # a free one at first; kept when served again
        self.trouble = Trouble.NONE
        self.read_trouble = Trouble.NONE  # the same for the next reading
        self.is_lasting = False  # troubles stay until they are taken away
        self.calls: list[tuple[str, str, Json | None, str | None]] = []
        self.effects: list[str] = []
        self.metrics: Callable[[], Mapping[str, float]] = dict[str, float]
        self._released = asyncio.Event()
        self.restart()

    def restart(self) -> None:
        """Forget everything that lives in memory, as a new process does."""
        self.boot_id = uuid.uuid4().hex
        self.keys: dict[str, tuple[str, str, Json]] = {}
        self.leases: dict[str, tuple[float, Any]] = {}

    def route(self, method: str, path: list[str], body: Json) -> "Json | Answer | None":
        """Return the answer's body, a whole answer, or None when the path is unknown."""
        raise NotImplementedError

    def expire(self, kind: str, previous: Any) -> None:
        """A lease has ended: return to the value before."""
        raise NotImplementedError

    def data(self, path: str, body: Json) -> Answer:
        """Answer a call of the data API or a probe."""
        return problem(404, f"no such thing: {path} ({len(body)} fields)")

    def lease(self, kind: str, ttl_seconds: float | None, previous: Any) -> None:
        """Hold a value for a while; a second lease of a kind keeps the first one's previous value."""
        held = self.leases.pop(kind, None)
        if ttl_seconds is not None:
            self.leases[kind] = (self.clock.monotonic() + ttl_seconds, held[1] if held else previous)

    def listed_leases(self) -> list[Json]:
        """The leases as the contract lists them."""
        now = self.clock.monotonic()
        return [
            {"kind": kind, "expires_in_seconds": until - now, "previous": previous}
            for kind, (until, previous) in self.leases.items()
        ]

    def expires_in(self, kind: str) -> float | None:
        """Seconds left of a lease."""
        return self.leases[kind][0] - self.clock.monotonic() if kind in self.leases else None

    def answer(self, method: str, raw_path: str, headers: dict[str, str], content: bytes) -> Answer:
        """Handle one request as the contract says."""
        for kind, (until, previous) in list(self.leases.items()):
            if until <= self.clock.monotonic():
                del self.leases[kind]
                self.expire(kind, previous)
        body = json.loads(content) if content else None
        key = headers.get("idempotency-key")
        self.calls.append((method, raw_path, body, key))
        if not raw_path.startswith("/admin/"):
            return self.data(raw_path, body or {})
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return problem(401, "no admin token, or a wrong one")
        path = [unquote(part) for part in raw_path.strip("/").split("/")]
        if method == "GET" and path[:3] == ["admin", "v1", "operations"]:
            return self._operation(path[3])
        return self._keyed(method, raw_path, path, body or {}, key)

    def _operation(self, key: str) -> Answer:
        if key not in self.keys:
            return problem(404, f"no operation {key!r} since boot {self.boot_id}")
        _, name, result = self.keys[key]
        at = datetime(2026, 3, 2, tzinfo=UTC).isoformat()
        return Answer(200, {"key": key, "operation": name, "result": result, "at": at, "boot_id": self.boot_id})

    def _keyed(self, method: str, raw_path: str, path: list[str], body: Json, key: str | None) -> Answer:
        name = f"{method} {raw_path}"
        fingerprint = f"{name} {json.dumps(body, sort_keys=True)}"
        if key in self.keys:
            known, _, result = self.keys[key]
            return Answer(200, result) if known == fingerprint else problem(409, "the key belongs to another call")
        result = self.route(method, path[2:], body)
        if result is None:
            return problem(404, f"no such thing: {raw_path}")
        if isinstance(result, Answer):
            return result
        if method != "GET":
            self.effects.append(name)
            result["boot_id"] = self.boot_id
            if key is not None:
                self.keys[key] = (fingerprint, name, result)
        return Answer(200, result)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[Self]:
        """Serve on a free loopback port, the second time on the same; `url` is then the base URL."""
        self._released = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        host, self.port = server.sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{self.port}"
        try:
            yield self
        finally:
            self._released.set()
            server.close()
            await server.wait_closed()

    @contextlib.contextmanager
    def running_in_thread(self) -> Generator[Self]:
        """Serve as `running` does, for tests that wait without an event loop."""
        started, listening = threading.Event(), list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()

        async def serve() -> None:
            ended = asyncio.Event()
            async with self.running():
                listening.append((asyncio.get_running_loop(), ended))
                started.set()
                await ended.wait()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), name="fake-process")
        thread.start()
        assert started.wait(10), "the fake does not listen"
        try:
            yield self
        finally:
            [(loop, ended)] = listening
            loop.call_soon_threadsafe(ended.set)
            thread.join(10)

    def _next_trouble(self, method: str) -> Trouble:
        trouble = self.read_trouble if method == "GET" else self.trouble
        if not self.is_lasting and method == "GET":
            self.read_trouble = Trouble.NONE
        elif not self.is_lasting:
            self.trouble = Trouble.NONE
        return trouble

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._one(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away: its side of a trouble
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = (await reader.readline()).decode().split()
        if not first:
            return  # connected and gone
        method, path = first[:2]
        headers: dict[str, str] = {}
        while line := (await reader.readline()).decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if path == "/metrics":
            await _write_metrics(writer, self.metrics())
            return
        trouble = self._next_trouble(method)
        if trouble is Trouble.LOSE_REQUEST:
            return
        replace = _WITHOUT_EFFECT.get(trouble)
        answer = replace() if replace else self.answer(method, path, headers, content)
        if trouble is Trouble.LOSE_ANSWER:
            return
        if trouble is Trouble.HANG or answer is SILENCE:
            await self._released.wait()
            return
        await _write(writer, answer, trouble)


def _bare(status: int, **headers: str) -> Callable[[], Answer]:
    return lambda: Answer(status, {}, {"Content-Type": "text/html", **headers})


_WITHOUT_EFFECT: dict[Trouble, Callable[[], Answer]] = {
    Trouble.BUSY: lambda: problem(503, "the model is loading", **{"Retry-After": "7"}),
    Trouble.BARE_503: _bare(503),
    Trouble.REDIRECT: _bare(307, Location="http://127.0.0.1:1/elsewhere"),
}


async def _write_metrics(writer: asyncio.StreamWriter, metrics: Mapping[str, float]) -> None:
    text = "".join(f"{name} {value}\n" for name, value in metrics.items())
    head = f"Content-Type: text/plain; version=0.0.4\r\nContent-Length: {len(text.encode())}\r\nConnection: close"
    writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n{text}".encode())
    await writer.drain()


async def _write(writer: asyncio.StreamWriter, answer: Answer, trouble: Trouble) -> None:
    if trouble is Trouble.FAIL_AFTER_EFFECT:
        answer = problem(500, "broke after the effect")
    content = json.dumps(answer.body).encode()
    if trouble is Trouble.NOT_JSON:
        content = b"<html>not json</html>"
    elif trouble is Trouble.HUGE:
        content = b'{"padding": "' + b"x" * 2_000_000 + b'"}'
    elif trouble is Trouble.OTHER_CONTRACT:
        content = b'{"flushed": "many"}'
    headers = {"Content-Type": "application/json", **answer.headers, "Content-Length": str(len(content))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {answer.status} X\r\n{head}Connection: close\r\n\r\n".encode() + content)
    await writer.drain()


LEVELS = ("premium", "standard", "batch")
NO_CAP: Json = {"max_tokens": None, "max_prompt_tokens": None, "is_cached_only": False}


def full_service() -> Json:
    """A node's state when nothing is cut."""
    return {"level": 0, "max_tokens": None, "levels": dict.fromkeys(LEVELS, NO_CAP)}


class FakeNode(FakeProcess):
    """A node with `entries` answers in its L1."""

    def __init__(
        self, name: str = "n1", *, service: str = "chat", entries: int = 812, clock: FakeClock | None = None
    ) -> None:
        self.name = name
        self.service = service
        super().__init__(clock)
        self.entries = entries
        self.is_poisoned = False  # what the test makes of it is the test's: nothing here depends on it
        self.running_requests = 0
        self.resident_bytes = 600_000_000
        self.version = "1"
        self.say: Callable[[str], Answer] = lambda prompt: completion(f"an answer to {prompt}")

    def restart(self) -> None:
        super().restart()
        self.entries = 0
        self.generation = 0
        self.is_draining = False
        self.batch: Json = {"max_size": 8, "max_wait_seconds": 0.01}
        self.degradation: Json = full_service()

    def expire(self, kind: str, previous: Any) -> None:
        attribute = {"drain": "is_draining", "batch": "batch", "degradation": "degradation"}[kind]
        setattr(self, attribute, previous)

    def route(self, method: str, path: list[str], body: Json) -> Json | Answer | None:
        routes: dict[tuple[str, ...], Callable[[Json], Json | Answer]] = {
            ("GET", "state"): lambda _: self.state(),
            ("POST", "cache", "flush"): self._flush,
            ("POST", "cache", "warm"): self._warm,
            ("POST", "drain"): self._drain,
            ("POST", "undrain"): self._undrain,
            ("POST", "capture"): self._capture,
            ("PUT", "batch"): self._set_batch,
            ("PUT", "degradation"): self._degrade,
            ("DELETE", "degradation"): self._restore,
        }
        found = routes.get((method, *path))
        return found(body) if found else None

    def state(self) -> Json:
        limits = {level: {"concurrency": 8, "queue": 100} for level in ("premium", "standard", "batch")}
        tier = {"entries": self.entries, "bytes": 100 * self.entries, "max_entries": 1000, "max_bytes": 10**6}
        return {
            "node": self.name,
            "service": self.service,
            "boot_id": self.boot_id,
            "model": {"name": "tiny", "version": self.version},
            "device": "cpu",
            "is_ready": not self.is_draining,
            "is_draining": self.is_draining,
            "running": self.running_requests,
            "waiting": 0,
            "batch": self.batch,
            "limits": limits,
            "degradation": self.degradation,
            "cache": {"l1": {**tier, "generation": self.generation, "hit_ratio": 0.5}},
            "leases": self.listed_leases(),
            "faults": {"enabled": False, "active": []},
            "steps_total": 7,
            "pace_step_seconds": 0.0,
        }

    def data(self, path: str, body: Json) -> Answer:
        if path == "/ready":
            return problem(503, "it drains") if self.is_draining else Answer(200, {"status": "ready"})
        return self.say(body["prompt"]) if path == "/v1/completions" else super().data(path, body)

    def _flush(self, body: Json) -> Json | Answer:
        if body.get("tier") not in {"l1", "all"}:
            return problem(422, "tier: expects l1 or all")
        flushed = self.entries if not (body.get("prefix") or body.get("model")) else self.entries // 2
        self.entries -= flushed
        self.generation += 1
        return {"flushed": flushed, "generation": self.generation}

    def _warm(self, body: Json) -> Json:
        failed = sum(1 for prompt in body["prompts"] if prompt.get("temperature", 1) != 0)
        warmed = len(body["prompts"]) - failed
        self.entries += warmed
        return {"warmed": warmed, "failed": failed}

    def _drained(self) -> Json:
        return {
            "is_draining": self.is_draining,
            "running": 0,
            "waiting": 0,
            "expires_in_seconds": self.expires_in("drain"),
        }

    def _drain(self, body: Json) -> Json:
        self.lease("drain", body.get("ttl_seconds"), self.is_draining)
        self.is_draining = True
        return self._drained()

    def _undrain(self, _: Json) -> Json:
        self.leases.pop("drain", None)
        self.is_draining = False
        return self._drained()

    def _capture(self, _: Json) -> Json:
        frames = [f"inference_node/engine/engine.py:{line} Engine.run" for line in range(20)]
        return {
            "at": datetime(2026, 3, 2, tzinfo=UTC).isoformat(),
            "resident_bytes": self.resident_bytes,
            "memory_limit_bytes": 1_500_000_000,
            "engine": {"running": self.running_requests, "waiting": 0, "is_alive": True},
            "gc_counts": [100, 2, 1],
            "num_threads": 3,
            "num_open_files": 21,
            "cuda": None,
            "allocations": {"is_traced": False, "top": []},
            "stacks": [{"thread": f"thread-{number}", "frames": frames} for number in range(12)],
            "profile": {"samples": 25, "sample_seconds": 0.02, "top": [{"place": frames[0], "samples": 25}]},
        }

    def _set_batch(self, body: Json) -> Json:
        ttl = body.pop("ttl_seconds", None)
        self.lease("batch", ttl, self.batch)
        self.batch = {**self.batch, **body}
        return {"batch": self.batch, "expires_in_seconds": self.expires_in("batch")}

    def _degrade(self, body: Json) -> Json:
        self.lease("degradation", body["ttl_seconds"], self.degradation)
        given = body.get("levels") or {}
        self.degradation = {
            "level": body["level"],
            "max_tokens": body.get("max_tokens"),
            "levels": {level: {**NO_CAP, **(given.get(level) or {})} for level in LEVELS},
        }
        return {"degradation": self.degradation, "expires_in_seconds": self.expires_in("degradation")}

    def _restore(self, _: Json) -> Json:
        self.leases.pop("degradation", None)
        self.degradation = full_service()
        return {"degradation": self.degradation, "expires_in_seconds": None}


class FakeGateway(FakeProcess):
    """A gateway that knows the named nodes."""

    def __init__(self, *names: str, clock: FakeClock | None = None) -> None:
        super().__init__(clock)
        self.states = dict.fromkeys(names, "in_service")
        self.outstanding: dict[str, int] = {}  # by node; what is not there is 0

    def restart(self) -> None:
        super().restart()
        self.shed: set[str] = set()
        self.rung: int | None = None
        self.reasons: dict[str, str] = {}

    def expire(self, kind: str, previous: Any) -> None:
        if kind == "levels":
            self.shed, self.rung = set(), None
        else:
            self.states[kind.removeprefix("eject:")] = previous

    def route(self, method: str, path: list[str], body: Json) -> Json | Answer | None:
        if path == ["levels"]:
            return self._set_levels(body) if method == "PUT" else self._end_levels()
        if (method, path) == ("GET", ["state"]):
            return self.state()
        if (method, path) == ("GET", ["nodes"]):
            return {"nodes": [self._node(name) for name in sorted(self.states)]}
        if len(path) == 2 and path[0] == "nodes":
            return self._register_or_remove(method, path[1])
        if method != "POST" or len(path) != 3 or path[1] not in self.states:
            return None
        name = path[1]
        if path[2] == "eject":
            self.lease(f"eject:{name}", body["ttl_seconds"], self.states[name])
            self.states[name] = "ejected"
            self.reasons[name] = body["reason"]
        else:
            self.leases.pop(f"eject:{name}", None)
            self.states[name] = "in_service"
        return {"node": self._node(name)}

    def state(self) -> Json:
        queue = {"concurrency": 8, "queue": 8, "timeout_seconds": 5.0, "at_nodes": 0, "waiting": 0}
        return {
            "boot_id": self.boot_id,
            "service": "chat",
            "outstanding": 0,
            "max_outstanding": 2000,
            "max_at_nodes": 2000,
            "levels": self._levels(),
            "rung": self.rung,
            "queues": dict.fromkeys(LEVELS, queue),
            "nodes": [self._node(name) for name in sorted(self.states)],
            "leases": self.listed_leases(),
        }

    def _levels(self) -> Json:
        return {level: {"is_shed": level in self.shed} for level in LEVELS}

    def _set_levels(self, body: Json) -> Json:
        self.lease("levels", body["ttl_seconds"], {level: {"is_shed": False} for level in LEVELS})
        named = {level: body[level]["is_shed"] for level in LEVELS if body.get(level)}
        self.shed = {level for level in LEVELS if named.get(level, level in self.shed)}
        self.rung = body.get("rung")
        return {"levels": self._levels(), "rung": self.rung, "expires_in_seconds": self.expires_in("levels")}

    def _end_levels(self) -> Json:
        self.leases.pop("levels", None)
        self.shed, self.rung = set(), None
        return {"levels": self._levels(), "rung": None, "expires_in_seconds": None}

    def _register_or_remove(self, method: str, name: str) -> Json | None:
        if method == "PUT":
            if self.states.get(name) != "ejected":
                self.states[name] = "in_service"
            return {"node": self._node(name)}
        if method != "DELETE" or name not in self.states:
            return None
        self.leases.pop(f"eject:{name}", None)
        outstanding = self.outstanding.get(name, 0)
        if outstanding:
            self.states[name] = "draining"
        else:
            del self.states[name]
        return {"name": name, "is_removed": not outstanding, "outstanding": outstanding}

    def _node(self, name: str) -> Json:
        node: Json = {
            "name": name,
            "url": f"http://{name}:8100",
            "state": self.states[name],
            "weight": 1.0,
            "outstanding": self.outstanding.get(name, 0),
            "slow_start_ratio": 1.0,
        }
        if self.states[name] == "ejected":
            node |= {"eject_expires_in_seconds": self.expires_in(f"eject:{name}"), "eject_reason": self.reasons[name]}
        return node
