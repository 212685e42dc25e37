"""The live updates of a run: in order, each once, resumed where a browser was, and over when the run is."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

import pytest

from controlplane.console import pages, parts, stream
from controlplane.domain import errors, runs
from tests.support import api, console
from tests.support.clock import FakeClock


@dataclass(frozen=True)
class Message:
    kind: str
    data: str
    id: str


def messages(text: str) -> Iterator[Message]:
    """Read a stream as a browser does."""
    for block in text.split("\n\n"):
        fields: dict[str, list[str]] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            fields.setdefault(name, []).append(value)
        if "event" in fields:
            yield Message(fields["event"][0], "\n".join(fields.get("data", [])), fields.get("id", [""])[0])


@pytest.fixture
def fakes(clock: FakeClock) -> api.Fakes:
    return api.Fakes(clock)


def following(fakes: api.Fakes, run_id: str, after: int = -1) -> tuple[AsyncGenerator[str], stream.Streams]:
    streams = stream.Streams()
    made = parts.Parts(fakes.house(), console.rendered())
    return stream.follow(made, streams, run_id, after), streams


async def test_a_run_is_told_in_order_and_to_its_end(fakes: api.Fakes) -> None:
    """Each event is one line with its number; the state comes after what it is about, and the end comes last."""
    run = console.run(fakes)
    console.finish(fakes, run.id)
    async with console.http(fakes, "viewer") as browser:
        answer = await browser.get(f"/runs/{run.id}/events-stream")
    told = list(messages(answer.text))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-accel-buffering"] == "no"
    assert [one.id for one in told if one.kind == "line"] == ["0", "1", "2", "3", "4", "5"]
    assert [one.kind for one in told] == ["line"] * 6 + ["state", "end"]
    assert "recovered after 4 s" in told[-2].data
    assert told[-1].data == "succeeded"


@pytest.mark.parametrize(
    ("query", "headers", "expected"),
    [
        ("?after=2", {}, ["3", "4", "5"]),
        ("?after=0", {"Last-Event-ID": "4"}, ["5"]),
        ("?after=5", {}, []),
        ("?after=3", {"Last-Event-ID": "-1"}, ["4", "5"]),
        ("?after=3", {"Last-Event-ID": "x" * 100}, ["4", "5"]),
    ],
)
async def test_a_browser_goes_on_where_it_was(
    query: str, headers: dict[str, str], expected: list[str], fakes: api.Fakes
) -> None:
    """The last id it had counts before what the page had; what is no number counts for nothing."""
    run = console.run(fakes)
    console.finish(fakes, run.id)
    async with console.http(fakes, "viewer") as browser:
        answer = await browser.get(f"/runs/{run.id}/events-stream{query}", headers=headers)
    told = list(messages(answer.text))
    assert [one.id for one in told if one.kind == "line"] == expected
    assert [one.kind for one in told][-2:] == ["state", "end"]  # whole on each connection: no news is lost


async def waited_for(told: AsyncGenerator[str], clock: FakeClock) -> str | None:
    """Return the next text while time passes, None at the end."""
    waiting = asyncio.ensure_future(anext(told, None))
    while not waiting.done():
        await asyncio.wait([waiting], timeout=0)
        clock.move(stream.POLL_SECONDS)
    return waiting.result()


async def test_news_come_once_and_as_they_happen(fakes: api.Fakes, clock: FakeClock) -> None:
    """Between two looks nothing is said; a new event is one line and one state."""
    run = console.run(fakes)
    told, streams = following(fakes, run.id, after=1)
    assert (await anext(told)).startswith("retry: ")
    assert [one.kind for one in messages(await anext(told))] == ["state"]
    assert streams.num_open == 1
    fakes.runs.event(run.id, runs.RunEventKind.STEP_FINISHED, "flush", sentence="flushed 12 entries")
    [line] = messages(await waited_for(told, clock) or "")
    [state] = messages(await anext(told))
    assert (line.kind, line.id, "flushed 12 entries" in line.data) == ("line", "2", True)
    assert re.search(r'class="badge done">done', state.data)
    await told.aclose()
    assert streams.num_open == 0


async def test_silence_is_broken_before_proxies_hang_up(fakes: api.Fakes, clock: FakeClock) -> None:
    """A comment every fifteen seconds, and an end after some minutes so that rights are looked at again."""
    run = console.run(fakes)
    told, streams = following(fakes, run.id, after=1)
    said = [await anext(told), await anext(told)]
    while (text := await waited_for(told, clock)) is not None:
        said.append(text)
    assert set(said[2:]) == {": still here\n\n"}
    assert len(said[2:]) == pytest.approx(stream.MAX_SECONDS / stream.HEARTBEAT_SECONDS, abs=2)
    assert streams.num_open == 0


async def test_a_server_that_stops_does_not_wait_for_open_pages(fakes: api.Fakes, clock: FakeClock) -> None:
    """Once it is to stop, each stream ends at its next look."""
    run = console.run(fakes)
    application = console.served(fakes)
    streams = application.state.console.streams
    told = stream.follow(parts.Parts(fakes.house(), console.rendered()), streams, run.id, 1)
    assert [await anext(told), await anext(told)]
    pages.close(application)
    assert await waited_for(told, clock) is None
    assert streams.num_open == 0


async def test_a_store_that_fails_ends_the_stream_and_not_the_server(fakes: api.Fakes) -> None:
    """The browser asks again, and then hears what is wrong."""
    run = console.run(fakes)
    told, streams = following(fakes, run.id)
    await anext(told)
    del fakes.runs.rows[run.id]
    assert [text async for text in told] == []
    assert streams.num_open == 0


async def test_watching_is_bounded(fakes: api.Fakes) -> None:
    """One page too many is told to reload; a stream that ends makes room."""
    streams = stream.Streams(stream.MAX_STREAMS)
    with pytest.raises(errors.OverloadedError, match="reload"):
        streams.check()
    streams.num_open -= 1
    streams.check()
    run = console.run(fakes)
    application = console.served(fakes)
    application.state.console.streams.num_open = stream.MAX_STREAMS
    async with console.http(fakes, "viewer", application=application) as browser:
        full = await browser.get(f"/runs/{run.id}/events-stream", headers={"Accept": "text/event-stream"})
    assert (full.status_code, full.headers["content-type"]) == (503, "application/problem+json")


async def test_a_stream_is_refused_in_words_for_programs(fakes: api.Fakes) -> None:
    """Without a session, and for a run that is not there, no form and no page is sent to what reads none."""
    asked = {"Accept": "text/event-stream"}
    async with console.http(fakes) as stranger, console.http(fakes, "viewer") as viewer:
        signed_out = await stranger.get("/runs/run_0/events-stream", headers=asked)
        unknown = await viewer.get("/runs/run_0/events-stream", headers=asked)
    assert (signed_out.status_code, unknown.status_code) == (401, 404)
    assert signed_out.headers["content-type"] == "application/problem+json"


async def test_no_text_of_the_fleet_can_begin_a_message(fakes: api.Fakes) -> None:
    """Line breaks in a sentence stay inside the message they came in."""
    run = console.run(fakes)
    fakes.runs.event(run.id, runs.RunEventKind.ESCALATED, sentence="a\r\n\r\nevent: end\rid: 99\n\nevent: end")
    told, _ = following(fakes, run.id)
    texts = [await anext(told) for _ in range(5)]
    await told.aclose()
    found = [one for text in texts for one in messages(text)]
    assert [one.kind for one in found] == ["line", "line", "line", "state"]
    assert all("\r" not in text for text in texts)
