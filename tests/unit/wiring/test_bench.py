"""The bench: pure work beside the event loop, bounded in time and never begun twice."""

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest

from controlplane.domain import errors
from controlplane.wiring import adapters


@pytest.fixture
def threads() -> Generator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


async def test_work_runs_on_another_thread_and_its_answer_comes_back(threads: ThreadPoolExecutor) -> None:
    """The event loop goes on meanwhile."""
    bench = adapters.ThreadBench(threads, seconds=10.0)
    assert await bench.run("a", threading.get_ident) != threading.get_ident()


async def test_what_work_raises_is_raised(threads: ThreadPoolExecutor) -> None:
    """A bug of a detector stays visible, and the name may be used again."""
    bench = adapters.ThreadBench(threads, seconds=10.0)

    def broken() -> None:
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        await bench.run("a", broken)
    assert await bench.run("a", lambda: 1) == 1


async def test_late_work_is_given_up_and_not_begun_again_until_it_has_ended(threads: ThreadPoolExecutor) -> None:
    """A thread cannot be stopped; more of the same would only fill the bench. Other work goes on."""
    bench = adapters.ThreadBench(threads, seconds=0.05)
    end, ended = threading.Event(), threading.Event()

    def hangs() -> None:
        end.wait(20.0)
        ended.set()

    try:
        with pytest.raises(errors.RetryLaterError, match=r"no answer within 0\.05 s"):
            await bench.run("slow", hangs)
        with pytest.raises(errors.RetryLaterError, match="still busy"):
            await bench.run("slow", hangs)
    finally:
        end.set()
    assert ended.wait(20.0)
    patient = adapters.ThreadBench(threads, seconds=10.0)
    assert await patient.run("other", lambda: 2) == 2
