"""A lifeline holds as long as exactly that process lives."""

import asyncio
import os
from pathlib import Path

from inference_node import lifeline
from tests.support.clock import FakeClock
from tests.support.node_fakes import settle

# Linux gives out numbers below this limit only.
NOBODY = int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii")) + 1


async def test_while_the_process_lives_nothing_happens() -> None:
    """It is looked at once a second, and another process of the same number would be another one."""
    clock, gone = FakeClock(), asyncio.Event()
    watching = asyncio.create_task(lifeline.watch(os.getpid(), clock, gone.set))
    for _ in range(3):
        await settle()
        clock.move(lifeline.CHECK_SECONDS)
    await settle()
    assert not gone.is_set()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_a_process_that_is_gone_already_ends_it_at_once() -> None:
    """A node that was restarted after its starter died does not stay."""
    gone = asyncio.Event()
    await lifeline.watch(NOBODY, FakeClock(), gone.set)
    assert gone.is_set()


def test_processes_of_one_number_differ_by_their_start() -> None:
    """The first process of the machine was not started when this one was."""
    assert lifeline.identity(os.getpid()) not in {None, lifeline.identity(1)}
