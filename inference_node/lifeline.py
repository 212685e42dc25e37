"""A lifeline to another process: whoever holds it ends when that process is gone.

For demos and tests, whose nodes live in sessions of their own and would outlive a starter that was killed. Used by the
two entry points. Concurrency: one event loop, one named task.
"""

import os
from collections.abc import Callable
from pathlib import Path

from inference_node import clock as clocks

CHECK_SECONDS = 1.0
# Fields of /proc/PID/stat after the name in brackets (proc(5)): the state first, the start time in ticks 20th.
_STATE, _START = 0, 19


async def watch(pid: int, clock: clocks.Clock, on_gone: Callable[[], None]) -> None:
    """Call `on_gone` once the process `pid` has ended, also when another one has got its number since."""
    seen = identity(pid)
    while seen is not None and identity(pid) == seen:
        await clock.sleep(CHECK_SECONDS)
    on_gone()


def identity(pid: int) -> str | None:
    """Return what tells a process from a later one of the same number; None when it is gone or only not collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        return _bare_identity(pid)
    except ProcessLookupError:
        return None
    return None if fields[_STATE] in {"Z", "X"} else fields[_START]


def _bare_identity(pid: int) -> str | None:
    """Do without the start time where there is no /proc."""
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return str(pid)
    return str(pid)
