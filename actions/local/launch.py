"""Starts one process of a local fleet so that it belongs to nobody, and writes down who it is before it runs.

Run by `fleet` as a program of its own (`python -I launch.py`), never imported: it reads one JSON request from standard
input, forks, and ends as soon as the new process runs. The new process leads a session of its own, so that it outlives
whoever asked for it, kill -9 included; nobody has to collect it. Before it becomes the node it takes the node's lock,
which it holds as long as it lives (so that no second one can be started beside it), and writes its record, so that no
process runs that nobody knows of. Standard library only, for it must start quickly. Exit codes: 0 it runs, 3 another
process of this node runs already, 1 it cannot be started, with the reason on standard output.
"""

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any

PATH = __file__
BUSY = 3
_FAILED = 1
# Of /proc/PID/stat after the name in brackets (proc(5)): start time in ticks since boot.
_START_FIELD = 19


def main() -> int:
    """Start the process that the request describes."""
    request = json.loads(sys.stdin.read())
    reading, writing = os.pipe()  # closed by exec: what comes before is the reason why it did not come to that
    if os.fork() == 0:
        os.close(reading)
        _become(request, writing)
    os.close(writing)
    with os.fdopen(reading, "r", encoding="utf-8") as report:
        reason = report.read()
    sys.stdout.write(reason.removeprefix("busy"))
    return 0 if not reason else BUSY if reason == "busy" else _FAILED


def _become(request: dict[str, Any], report: int) -> None:
    """Turn this process into the node; never returns."""
    record = Path(request["record_file"])
    try:
        os.setsid()
        lock = os.open(request["lock_file"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.write(report, b"busy")
            os._exit(BUSY)
        os.set_inheritable(lock, True)
        _redirect(request["log_file"])
        os.chdir(request["folder"])
        before = record.read_bytes() if record.exists() else None
        _replace(record, json.dumps(request["record"] | _identity()).encode("utf-8"))
        _execute(request, record, before)
    except OSError as error:
        os.write(report, str(error).encode("utf-8", "replace"))
    os._exit(_FAILED)


def _execute(request: dict[str, Any], record: Path, before: bytes | None) -> None:
    """Replace this program by the node's; where that fails, leave the record as it was."""
    try:
        os.execvpe(request["argv"][0], request["argv"], request["environment"])  # noqa: S606 - that is what it is for
    except OSError:
        if before is None:
            record.unlink()
        else:
            _replace(record, before)
        raise


def _identity() -> dict[str, Any]:
    """Return what tells this process from any other that ever has its number; exec changes none of it."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {"pid": os.getpid(), "started_ticks": int(fields[_START_FIELD]), "boot_id": boot}


def _redirect(log_file: str) -> None:
    """Read from nowhere and write into the log."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _replace(path: Path, content: bytes) -> None:
    """Write a file as a whole: a reader, or a power cut, finds the old one or the new one."""
    fresh = path.with_suffix(".new")
    target = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(target, content)
        os.fsync(target)
    finally:
        os.close(target)
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
