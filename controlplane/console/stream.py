"""The live updates of one run's page as server-sent events, each with an id, so that a browser goes on where it was.

Used by `pages`; async, one generator per open page. `line` carries one entry of the log with its number as the id,
`state` the part of the page that changes, `end` says that nothing more will come. The state is sent whole, on each
connection and whenever something moved, so nothing is lost with a broken one. A stream ends by itself after some
minutes; the browser then asks again, and its token is looked at anew.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from controlplane.console import parts
from controlplane.domain import errors, runs

POLL_SECONDS = 0.5
# Below the idle timeouts of usual proxies, which are 30 s and more.
HEARTBEAT_SECONDS = 15.0
# How long a token that was revoked goes on seeing a run.
MAX_SECONDS = 300.0
# Each open page asks the database a few times a second.
MAX_STREAMS = 64
_RETRY_MILLISECONDS = 2000


@dataclass(slots=True)
class Streams:
    """Counts the open streams, and ends them. Used on one event loop; never waits."""

    num_open: int = 0
    is_closing: bool = False

    def close(self) -> None:
        """Let every stream end at its next look: a server that stops would wait for open pages otherwise."""
        self.is_closing = True

    def check(self) -> None:
        """Raise OverloadedError when no more pages can be kept up to date."""
        if self.num_open >= MAX_STREAMS:
            raise errors.OverloadedError(
                f"{self.num_open} pages are being watched; reload this one to see news", delay_seconds=10.0
            )


@dataclass(slots=True)
class _Seen:
    """What a page has been told: the last event's number, and the run as it was when its state was sent."""

    number: int
    run: runs.Run | None = None
    said_at: float = field(default=0.0)


async def follow(made: parts.Parts, streams: Streams, run_id: str, after: int) -> AsyncGenerator[str]:
    """Yield messages until the run has ended, or some minutes have passed. `after` is the last event the page has."""
    clock = made.home.clock
    began = clock.monotonic()
    seen = _Seen(after, said_at=began)
    streams.num_open += 1
    try:
        yield f"retry: {_RETRY_MILLISECONDS}\n\n"
        while clock.monotonic() - began < MAX_SECONDS and not streams.is_closing:
            run = await made.home.runs.get(run_id)  # before the events: a final run then has its last event among them
            events = await made.home.runs.events(run_id)
            for text in await _news(made, run, events, seen):
                seen.said_at = clock.monotonic()
                yield text
            if run.state.is_final:
                yield message("end", run.state)
                return
            if clock.monotonic() - seen.said_at >= HEARTBEAT_SECONDS:
                seen.said_at = clock.monotonic()
                yield ": still here\n\n"
            await clock.sleep(POLL_SECONDS)
    except errors.DsctlError:
        return  # the browser asks again, and then hears why not
    finally:
        streams.num_open -= 1


async def _news(made: parts.Parts, run: runs.Run, events: Sequence[runs.RunEvent], seen: _Seen) -> list[str]:
    """Return the messages about what a page has not been told, and note that it is told."""
    new = [event for event in events if event.number > seen.number]
    texts = [message("line", made.line(event), number=event.number) for event in new]
    if new or run != seen.run:
        texts.append(message("state", await made.state(run, events)))
    seen.number = max(seen.number, *(event.number for event in new)) if new else seen.number
    seen.run = run
    return texts


def message(kind: str, data: str, *, number: int | None = None) -> str:
    r"""Return one message; every line of the data is led in, so that none of them can begin a message of its own.

    >>> message("line", "a\r\nid: 9\n\nevent: end", number=3)
    'id: 3\nevent: line\ndata: a\ndata: id: 9\ndata: \ndata: event: end\n\n'
    """
    head = "" if number is None else f"id: {number}\n"
    lines = data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return f"{head}event: {kind}\n" + "".join(f"data: {line}\n" for line in lines) + "\n"
