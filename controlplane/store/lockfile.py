"""The proof that one process owns a SQLite file: an advisory lock on a file beside it.

Called by `database` before it opens SQLite. The operating system drops the lock when the process ends, however it
ends, so a crash never leaves it behind. Blocking, but only for the time of one system call.
"""

import contextlib
import fcntl
import os
from pathlib import Path

from controlplane.domain import errors


class LockFile:
    """Holds the lock from construction until `release`; raises ConflictError when another process has it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read_holder(path)
            self._file.close()
            raise errors.ConflictError(
                f"another process{holder} already uses the database {path.with_suffix('')}; SQLite serves one dsctl"
                " process: talk to that one with the dsctl CLI, stop it first, or set a PostgreSQL database url"
            ) from error
        self._write_holder()

    def _write_holder(self) -> None:
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Let another process have the database. The file stays: removing it would race with the next owner."""
        with contextlib.suppress(ValueError):
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()


def _read_holder(path: Path) -> str:
    text = path.read_text(encoding="utf-8").strip()
    return f" (pid {text})" if text.isdigit() else ""
