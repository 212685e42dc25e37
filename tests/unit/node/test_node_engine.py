"""The engine's loop over a model of integers and a clock that only tests move."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from inference_node import errors
from inference_node.engine import batcher, engine, generation
from tests.support import node_fakes
from tests.support.clock import FakeClock

STANDARD = generation.Rank.STANDARD


class Trouble:
    slow_factor = 1.0

    def __init__(self) -> None:
        self.is_unwedged = asyncio.Event()
        self.is_unwedged.set()

    async def until_unwedged(self) -> None:
        await self.is_unwedged.wait()


class Recorder:
    def __init__(self) -> None:
        self.steps: list[tuple[float, int]] = []
        self.done: list[str | None] = []

    def step_done(self, *, seconds: float, batch_size: int, num_tokens: int) -> None:
        self.steps.append((round(seconds, 6), batch_size))

    def token_done(self, one: generation.Generation, *, since_last: float | None) -> None: ...

    def generation_done(self, one: generation.Generation, now: float) -> None:
        self.done.append(one.finish_reason)


class Bench:
    """An engine and what surrounds it."""

    def __init__(self, *, max_size: int = 4, max_wait_seconds: float = 0, pace: float = 0) -> None:
        self.clock = FakeClock()
        self.trouble = Trouble()
        self.recorder = Recorder()
        self.runner = node_fakes.FakeRunner()
        self.waiting = batcher.Batcher(batcher.Batch(max_size, max_wait_seconds), lambda rank: 100)
        self.engine = engine.Engine(
            model=node_fakes.model(runner=self.runner),
            thread=node_fakes.InlineThread(),
            waiting=self.waiting,
            faults=self.trouble,
            observer=self.recorder,
            clock=self.clock,
            pace_step_seconds=pace,
        )

    def submit(self, start: str = "a", max_tokens: int = 3, stop: tuple[str, ...] = ()) -> generation.Reader:
        parameters = node_fakes.parameters(max_tokens=max_tokens, stop=stop)
        one = self.engine.submit(prompt=[ord(start) - ord("a")], parameters=parameters, rank=STANDARD)
        return one.reader()


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    made = Bench()
    task = asyncio.create_task(made.engine.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def running(made: Bench) -> asyncio.Task[None]:
    task = asyncio.create_task(made.engine.run())
    await node_fakes.settle()
    return task


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_requests_share_steps_and_late_ones_join(bench: Bench) -> None:
    """Two requests take one prefill and share decodes; each gets its own text."""
    first, second = bench.submit("a"), bench.submit("x", max_tokens=2)
    await first.all()
    await second.all()
    assert (first.generation.text, second.generation.text) == ("abc", "xy")
    assert bench.runner.passes == [("prefill", 2), ("decode", 2), ("decode", 1)]


async def test_an_ended_row_leaves_the_model(bench: Bench) -> None:
    """Nothing stays in the KV cache of an idle engine."""
    await bench.submit().all()
    await node_fakes.settle()
    assert bench.runner.rows == {}
    assert bench.engine.num_running == 0


async def test_stop_string_ends_the_answer_before_it(bench: Bench) -> None:
    """The stop string is not part of the answer, even when it comes in pieces."""
    reader = bench.submit("a", max_tokens=9, stop=("de",))
    await reader.all()
    assert (reader.generation.text, reader.generation.finish_reason) == ("abc", "stop")


async def test_the_last_reader_to_leave_cancels() -> None:
    """While one of two readers stays the answer goes on; when both left, its place is free before the next step."""
    made = Bench(pace=1.0)
    task = await running(made)
    reader = made.submit(max_tokens=100)
    other = reader.generation.reader()
    await node_fakes.settle()
    reader.close()
    made.clock.move(1.0)
    await node_fakes.settle()
    assert made.engine.num_running == 1
    other.close()
    made.clock.move(1.0)
    await node_fakes.settle()
    assert made.engine.num_running == 0
    assert made.recorder.done == ["abort"]
    await stop(task)


async def test_pace_and_slowness_stretch_a_step() -> None:
    """A paced step takes the pace; a slow one takes a multiple; tokens come at its end."""
    made = Bench(pace=0.5)
    task = await running(made)
    reader = made.submit(max_tokens=2)
    await node_fakes.settle()
    assert reader.generation.text == ""
    made.clock.move(0.5)
    await node_fakes.settle()
    assert reader.generation.text == "a"
    made.trouble.slow_factor = 3.0
    made.clock.move(0.5)
    await node_fakes.settle()
    made.clock.move(1.5)
    await node_fakes.settle()
    assert [seconds for seconds, _ in made.recorder.steps] == [0.5, 0.5]
    await stop(task)


async def test_a_wedged_engine_lives_but_does_not_step() -> None:
    """A wedge stops the step counter and nothing else; its end lets waiting requests through."""
    made = Bench()
    made.trouble.is_unwedged.clear()
    task = await running(made)
    reader = made.submit()
    await node_fakes.settle()
    assert made.engine.is_alive
    assert made.engine.steps_total == 0
    made.trouble.is_unwedged.set()
    await reader.all()
    assert reader.generation.text == "abc"
    await stop(task)


async def test_a_failed_step_fails_its_requests_and_no_others(bench: Bench) -> None:
    """An out-of-memory in a step ends that batch with an error; the next request is served."""
    bench.runner.fails_next = True
    with pytest.raises(errors.EngineFailedError):
        await bench.submit().all()
    after = bench.submit()
    await after.all()
    assert after.generation.text == "abc"


async def test_a_new_version_waits_for_the_old_ones_requests() -> None:
    """A switch lets running and waiting requests end on the old model; later ones get the new one."""
    made = Bench(pace=1.0)
    task = await running(made)
    old = made.submit(max_tokens=2)
    await node_fakes.settle()
    switching = asyncio.create_task(made.engine.switch(node_fakes.model("v2", node_fakes.FakeRunner(shift=10))))
    await node_fakes.settle()
    new = made.submit(max_tokens=1)
    assert not switching.done()
    for _ in range(4):
        made.clock.move(1.0)
        await node_fakes.settle()
    assert switching.done()
    assert (old.generation.text, new.generation.text) == ("ab", "k")
    assert made.engine.model.version == "v2"
    await stop(task)


async def test_a_stopped_engine_leaves_nobody_waiting() -> None:
    """When the loop ends, waiting and running requests fail instead of hanging, and new ones are refused."""
    made = Bench(pace=1.0)
    task = await running(made)
    reader = made.submit()
    await node_fakes.settle()
    await stop(task)
    with pytest.raises(errors.EngineFailedError):
        await reader.all()
    assert not made.engine.is_alive
    with pytest.raises(errors.EngineFailedError):
        made.submit()


async def test_batch_size_changes_while_running() -> None:
    """A smaller size holds for the next requests to join; a larger one lets more in."""
    made = Bench(max_size=1)
    task = await running(made)
    first, second = made.submit(), made.submit()
    made.waiting.batch = batcher.Batch(2, 0)
    await first.all()
    await second.all()
    assert made.runner.passes[0] == ("prefill", 2)
    await stop(task)
