"""The console on a real server: news cross the network as they happen, and pages that go away are forgotten."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator

import fastapi
import httpx
import pytest

from controlplane.console import pages
from tests.support import api, console

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


@pytest.fixture
def fakes() -> api.Fakes:
    return api.Fakes(api.system_clock())


@pytest.fixture
def served(fakes: api.Fakes) -> fastapi.FastAPI:
    return console.served(fakes)


@pytest.fixture
def url(served: fastapi.FastAPI) -> Generator[str]:
    with api.serving(served) as found:
        yield found


@pytest.fixture
async def browser(url: str) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as opened:
        await console.signed_in(opened)
        yield opened


async def until(is_so: str, lines: AsyncIterator[str]) -> list[str]:
    """Read lines up to the one that begins so."""
    found: list[str] = []
    async for line in lines:
        found.append(line)
        if line.startswith(is_so):
            return found
    raise AssertionError(f"the stream ended before {is_so!r}: {found}")


async def test_news_arrive_while_the_answer_is_still_open(fakes: api.Fakes, browser: httpx.AsyncClient) -> None:
    """Neither the server nor what is around the application holds a message back until the end."""
    run = console.run(fakes)
    async with browser.stream("GET", f"/runs/{run.id}/events-stream") as answer:
        lines = answer.aiter_lines()
        first = await until("event: state", lines)
        assert [line for line in first if line.startswith("id: ")] == ["id: 0", "id: 1"]
        console.finish(fakes, run.id)
        rest = await until("event: end", lines)
        assert [line for line in rest if line.startswith("id: ")] == ["id: 2", "id: 3", "id: 4", "id: 5"]
        assert [line async for line in lines] == ["data: succeeded", ""]


async def test_a_page_that_is_closed_is_not_watched_for_any_more(
    fakes: api.Fakes, served: fastapi.FastAPI, browser: httpx.AsyncClient
) -> None:
    """The place is free as soon as the connection is gone."""
    run = console.run(fakes)
    async with browser.stream("GET", f"/runs/{run.id}/events-stream") as answer:
        await until("event: state", answer.aiter_lines())
        assert served.state.console.streams.num_open == 1
    async with asyncio.timeout(5):
        while served.state.console.streams.num_open:
            await fakes.clock.sleep(0.02)


async def test_an_open_page_ends_when_the_server_is_to_stop(
    fakes: api.Fakes, served: fastapi.FastAPI, browser: httpx.AsyncClient
) -> None:
    """Its stream ends by itself within a second, long before the server would break it off."""
    run = console.run(fakes)
    async with browser.stream("GET", f"/runs/{run.id}/events-stream") as answer:
        lines = answer.aiter_lines()
        await until("event: state", lines)
        pages.close(served)
        async with asyncio.timeout(3):
            rest = [line async for line in lines]
    assert not any(line.startswith("event: end") for line in rest)
