"""The senders of benchmark `intake`: a process of its own that posts Alertmanager's notifications over many connections.

Reads one `Load` as JSON from standard input and writes what came of it as JSON to standard output. Every alert is
another one; bodies are made before the clock starts. Closed (`per_s` is 0), every client sends as soon as it was
answered; open, notifications fall due at a steady rate, and an answer's time counts from when it was due, so that a
server that stalls cannot slow the senders and hide it. A 503 is sent again after the time it asks for, as Alertmanager
would. Async; one task a client.
"""

import asyncio
import dataclasses
import json
import sys
from dataclasses import dataclass, field

from controlplane import clock

WEBHOOK = "/api/v1/webhooks/alertmanager"
NUM_NODES = 500
_STARTS_AT = "2026-03-02T09:00:00Z"
_OVERLOADED = 503
_MAX_TRIES = 50


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: `num_posts` notifications of `size` alerts, numbered from `first` on, or those in `numbers`."""

    host: str
    port: int
    token: str
    num_clients: int
    num_posts: int
    size: int
    first: int = 0
    per_s: float = 0.0
    numbers: tuple[int, ...] = ()


@dataclass(slots=True)
class Came:
    """What came of it. `answered` are the numbers of notifications answered 202, `known` of those answered 200."""

    seconds: float = 0.0
    answered: list[int] = field(default_factory=list[int])
    known: list[int] = field(default_factory=list[int])
    answer_s: list[float] = field(default_factory=list[float])
    overloaded: int = 0
    without_retry_after: int = 0
    broken: int = 0
    odd: dict[str, int] = field(default_factory=dict[str, int])


def fingerprint(number: int, place: int) -> str:
    """Return the identity of one alert of a notification."""
    return f"{number:012x}{place:04x}"


def body(number: int, size: int) -> bytes:
    """Return a notification as Alertmanager words it (webhook version 4)."""
    alerts = [_alert(number, place) for place in range(size)]
    document = {
        "version": "4",
        "groupKey": f'{{}}/{{service="chat"}}:{{batch="{number}"}}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "dsctl",
        "groupLabels": {"service": "chat"},
        "commonLabels": {"service": "chat", "severity": "warning"},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example:9093",
        "alerts": alerts,
    }
    return json.dumps(document).encode()


def _alert(number: int, place: int) -> dict[str, object]:
    node = f"n{(number * 50 + place) % NUM_NODES:03}"
    labels = {
        "alertname": "GpuMemoryNearlyFull",
        "service": "chat",
        "node": node,
        "instance": f"{node}.example:8000",
        "device": f"gpu-{number}-{place}",
        "severity": "warning",
        "dsctl_fault": "leak",
        "dsctl_signal": "gpu_memory_used_ratio",
    }
    return {
        "status": "firing",
        "labels": labels,
        "annotations": {
            "summary": f"GPU memory of {node} is nearly full",
            "description": "More than 90 % of the memory has been in use for five minutes.",
            "observed": "0.93",
        },
        "startsAt": _STARTS_AT,
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example:9090/graph?g0.expr=gpu_memory_used_ratio+%3E+0.9&g0.tab=1",
        "fingerprint": fingerprint(number, place),
    }


class _Client:
    """One connection that posts one notification at a time; opened anew when it was closed."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, content: bytes) -> tuple[int, str]:
        """Return the status and what the header Retry-After says; raises OSError and IncompleteReadError."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._load.host, self._load.port)
        reader, writer = self._streams
        try:
            writer.write(self._head(len(content)) + content)
            await writer.drain()
            return await self._answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    def _head(self, length: int) -> bytes:
        return (
            f"POST {WEBHOOK} HTTP/1.1\r\nHost: {self._load.host}\r\nAuthorization: Bearer {self._load.token}\r\n"
            f"User-Agent: Alertmanager\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, str]:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1]), headers.get("retry-after", "")


async def run(load: Load) -> Came:
    """Send everything, or as much as the server lives for."""
    came, time = Came(), clock.SystemClock()
    numbers = load.numbers or range(load.first, load.first + load.num_posts)
    bodies = [(number, body(number, load.size)) for number in numbers]
    queue = iter(bodies)
    started = time.monotonic()

    async def send() -> None:
        client = _Client(load)
        for number, content in queue:
            due = time.monotonic()
            if load.per_s:
                due = started + (number - load.first) / load.per_s
                await time.sleep(due - time.monotonic())
            if not await _deliver(client, number, content, came, time):
                break  # the server is gone, and so is this client
            came.answer_s.append(time.monotonic() - due)
        client.close()

    await asyncio.gather(*(send() for _ in range(load.num_clients)))
    came.seconds = time.monotonic() - started
    return came


async def _deliver(client: _Client, number: int, content: bytes, came: Came, time: clock.SystemClock) -> bool:
    """Post until it is answered otherwise than 503; False when the connection broke."""
    status = _OVERLOADED
    for _ in range(_MAX_TRIES):
        try:
            status, retry_after = await client.post(content)
        except (OSError, asyncio.IncompleteReadError):
            came.broken += 1
            return False
        if status != _OVERLOADED:
            break
        came.overloaded += 1
        came.without_retry_after += not retry_after
        await time.sleep(float(retry_after or 1.0))
    kept = {202: came.answered, 200: came.known}.get(status)
    if kept is None:
        came.odd[str(status)] = came.odd.get(str(status), 0) + 1
    else:
        kept.append(number)
    return True


def main(text: str) -> str:
    """Run the load described by `text`."""
    return json.dumps(dataclasses.asdict(asyncio.run(run(Load(**json.loads(text))))))


if __name__ == "__main__":
    sys.stdout.write(main(sys.stdin.read()))
