"""The memory of this process: what it holds, what it may hold, what it leaks on purpose, and its end at the limit.

A node that was given a limit ends itself above it, at once and with the status of a process that the kernel killed for
want of memory, so that a drill on one machine shows what a container shows. Where only the cgroup has a limit, the
kernel keeps it. Concurrency: one event loop, one named task; a step allocates for a few milliseconds at most.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from inference_node import capture, clock, faults

KILLED_STATUS = 137
"""What a shell and a container report for a process that ended by SIGKILL: 128 and 9."""
STEP_SECONDS = 0.25
# What version 1 of cgroups writes for no limit is the largest number of whole pages; nobody sets an exbibyte.
_UNLIMITED_BYTES = 1 << 60
_LAST_FRAMES = 6

_log = structlog.get_logger()


def resident_bytes() -> int | None:
    """Return how much memory of the machine this process holds, or None where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def cgroup_limit(root: Path = Path("/")) -> int | None:
    """Return the smallest memory limit among the control groups this process is in, or None when there is none."""
    return min(_limits(root), default=None)


def _limits(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            yield from _upwards(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _upwards(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")


def _upwards(mount: Path, path: str, name: str) -> Iterator[int]:
    """Yield the limits from a group to the root; in a container the path is one of the host's and the root is what counts."""
    parts = [part for part in path.split("/") if part and part != ".."]
    for length in range(len(parts), -1, -1):
        try:
            text = mount.joinpath(*parts[:length], name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < _UNLIMITED_BYTES:
            yield int(text)


def die() -> None:
    """End the process as SIGKILL would: nothing is finished, nobody is told."""
    os._exit(KILLED_STATUS)


class Keeper:
    """Lets the fault `leak` grow, and ends the process when it holds more than it was given."""

    def __init__(
        self,
        *,
        trouble: faults.Faults,
        given_bytes: int | None,
        time: clock.Clock,
        end: Callable[[], None] = die,
        resident: Callable[[], int | None] = resident_bytes,
    ) -> None:
        self._trouble = trouble
        self._given = given_bytes
        self._clock = time
        self._end = end
        self._resident = resident

    async def run(self) -> None:
        """Look four times a second until cancelled."""
        before = self._clock.monotonic()
        while True:
            await self._clock.sleep(STEP_SECONDS)
            now = self._clock.monotonic()
            self._trouble.leak(now - before)
            before = now
            self.check()

    def check(self) -> None:
        """End the process when it holds too much; the last line of its log says where it stood."""
        held = self._resident()
        if self._given is None or held is None or held <= self._given:
            return
        _log.error(
            "memory_limit_exceeded",
            resident_bytes=held,
            memory_limit_bytes=self._given,
            leaked_bytes=self._trouble.leaked_bytes,
            stacks=_shortened(capture.stacks()),
        )
        self._end()


def _shortened(stacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"thread": each["thread"], "frames": each["frames"][:_LAST_FRAMES]} for each in stacks]
