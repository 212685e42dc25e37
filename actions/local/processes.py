"""Processes by identity: a number alone names nobody, because the kernel gives it out again.

Called by `fleet`. A process counts as ours when boot, start time and command line are those that its record names; only
then is it signalled, through a handle of the kernel (pidfd) that cannot come to mean another process. Linux only. Blocks
for microseconds; safe from any thread.
"""

import os
import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actions.local import launch
from controlplane.domain import errors

# Of /proc/PID/stat after the name in brackets (proc(5)).
_STATE_FIELD, _START_FIELD = 0, 19
_ENDED_STATES = frozenset({"Z", "X"})


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for all time: its number, when it was started (ticks since boot), in which boot, as what."""

    pid: int
    started_ticks: int
    boot_id: str
    argv: tuple[str, ...]


class Handle:
    """A process that was checked to be ours while this handle was open."""

    def __init__(self, identity: Identity, pidfd: int) -> None:
        self._identity = identity
        self._pidfd = pidfd

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and, while its number still is its own, what it started."""
        if is_running(self._identity):
            os.killpg(self._identity.pid, signal.SIGKILL)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return  # it has ended by itself, which is what was wanted


@contextmanager
def opened(identity: Identity) -> Generator[Handle | None]:
    """Yield a handle, or None when the process has ended.

    Raises GiveUpError when its number and start time fit and its command line does not: that must be looked at.
    """
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Checked after opening: from here on the handle means this process or nobody.
        yield Handle(identity, pidfd) if is_running(identity) else None
    finally:
        os.close(pidfd)


def is_running(identity: Identity) -> bool:
    """Say whether exactly this process runs; raises GiveUpError when it does under another command line."""
    if identity.boot_id != boot_id() or _started_ticks(identity.pid) != identity.started_ticks:
        return False
    found = _command_line(identity.pid)
    if found[-1:] == [launch.PATH]:
        return True  # it has written its record and is about to become the node
    if found and not _is_run_of(found, identity.argv):
        raise errors.GiveUpError(
            f"process {identity.pid} was started as {' '.join(identity.argv)} and now runs {' '.join(found)}; "
            "it is not touched, look at it and end it yourself"
        )
    return bool(found)


def boot_id() -> str:
    """Return what tells this boot of the machine from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _started_ticks(pid: int) -> int | None:
    """Return when a process was started; None when it is gone, or ended and only not collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[_STATE_FIELD] in _ENDED_STATES else int(fields[_START_FIELD])


def _command_line(pid: int) -> list[str]:
    """Return the command line; empty when the process has just ended."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rstrip("\0").split("\0") if text else []


def _is_run_of(found: Sequence[str], argv: Sequence[str]) -> bool:
    """Say whether a command line is that of `argv`; a script's begins with its interpreter."""
    rest = argv[1:]
    program = found[: len(found) - len(rest)]
    name = os.path.basename(argv[0])  # noqa: PTH119 - of a text, not of a file
    return list(found[len(program) :]) == list(rest) and any(os.path.basename(part) == name for part in program)  # noqa: PTH119
