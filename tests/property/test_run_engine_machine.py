"""A state machine of the run engine: whatever happens, in any order, to three replicas, the oracle finds nothing.

In process, on a fake clock and a SQLite file; the same happens to real processes in the crash benchmark.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support import run_world

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

NAMES = st.sampled_from(run_world.NAMES)
TARGETS = st.sampled_from(run_world.TARGETS)
# How often a replica deals with the outside before it is held or killed.
PASSERS = st.integers(0, 3)


class Machine(RuleBasedStateMachine):
    """Submits, cancels, lets time pass, kills, pauses, resumes, restarts."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._loop = asyncio.new_event_loop()
        self._world = self._loop.run_until_complete(_make_world(folder))

    def _do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(what)

    @rule(name=NAMES, node=TARGETS)
    def submit(self, name: str, node: str) -> None:
        self._do(self._world.submit(name, node))

    @rule(name=NAMES, index=st.integers(0, 20))
    def cancel(self, name: str, index: int) -> None:
        self._do(self._world.cancel(name, index))

    @rule(name=NAMES)
    def play(self, name: str) -> None:
        self._do(self._world.play(name))

    @rule(seconds=st.sampled_from((0.5, 2.0, 9.0)))
    def move(self, seconds: float) -> None:
        self._do(self._world.move(seconds))

    @rule(seconds=st.sampled_from((-3600.0, 3600.0)))
    def step_clock(self, seconds: float) -> None:
        """The server's clock is set; leases may end early or late, and nothing else may come of it."""
        self._world.clock.step_wall(seconds)

    @rule(name=NAMES, passers=PASSERS)
    def pause(self, name: str, passers: int) -> None:
        self._do(self._world.pause(name, passers))

    @rule(name=NAMES, beats_first=st.booleans())
    def resume(self, name: str, beats_first: bool) -> None:
        self._do(self._world.resume(name, beats_first=beats_first))

    @rule(name=NAMES, passers=PASSERS)
    def kill(self, name: str, passers: int) -> None:
        self._do(self._world.kill(name, passers))

    @rule(name=NAMES)
    def claim_and_die(self, name: str) -> None:
        self._do(self._world.claim_and_die(name))

    @rule(names=st.permutations(run_world.NAMES), passers=PASSERS, heirs=PASSERS, beats_first=st.booleans())
    def contend(self, names: list[str], passers: int, heirs: int, beats_first: bool) -> None:
        """Two replicas that sleep through their leases, one after the other, in the midst of the same runs."""
        self._do(self._world.contend(names[0], passers, names[1], heirs, beats_first=beats_first))

    @rule(names=st.permutations(run_world.NAMES), passers=PASSERS)
    def outlive(self, names: list[str], passers: int) -> None:
        self._do(self._world.outlive(names[0], passers, names[1]))

    @rule(name=NAMES, passers=PASSERS)
    def stall(self, name: str, passers: int) -> None:
        self._do(self._world.stall(name, passers))

    @rule(name=NAMES, num_told=st.integers(0, 4))
    def play_losing(self, name: str, num_told: int) -> None:
        self._do(self._world.play_losing(name, num_told))

    @rule(names=st.permutations(run_world.NAMES))
    def call_slowly(self, names: list[str]) -> None:
        self._do(self._world.call_slowly(names[0], names[1]))

    @rule(name=NAMES)
    def restart(self, name: str) -> None:
        """A successor takes the name while its predecessor lives: that one must find out and stop."""
        self._do(self._world.replace(name))

    @invariant()
    def no_promise_is_broken(self) -> None:
        assert self._do(self._world.judge()).sentences == []

    def teardown(self) -> None:
        try:
            assert self._do(self._world.finish()).sentences == []
        finally:
            self._do(self._world.close())
            self._loop.close()
            self._stack.close()


async def _make_world(folder: Path) -> run_world.World:
    world = run_world.World(folder)
    for name in run_world.NAMES:
        await world.start(name)
    return world


TestRunEngine = Machine.TestCase
TestRunEngine.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
