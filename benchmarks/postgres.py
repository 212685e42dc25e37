"""A PostgreSQL server of one's own: from Debian's binaries, in a temporary folder, on a free port of loopback.

Used by the benchmarks that compare databases, and by the tests. PostgreSQL refuses to be root, so for root it runs as the
user `postgres`, who owns the folder. Everybody on this machine may connect: it is for throw-away data only, and without
`is_durable` it does not even flush, which a kill of any process survives and a power cut does not.

Blocking; never call it on an event loop.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from controlplane.domain import errors

_USER = "postgres"
_DEBIAN = Path("/usr/lib/postgresql")
_SECONDS = 60
_OPTIONS = ("-c", "listen_addresses=127.0.0.1", "-c", "max_connections=100")


def find_binaries() -> Path:
    """Return the folder with the newest server's `initdb` and `pg_ctl`; raises GiveUpError with what to install."""
    found = sorted(_DEBIAN.glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("pg_ctl")
    if on_path is not None and shutil.which("initdb") is not None:
        return Path(on_path).parent
    raise errors.GiveUpError(
        "there is no PostgreSQL server here: install Debian's package postgresql, or run requirements/install.sh databases"
    )


class Server:
    """One running server. Make it with `running`."""

    def __init__(self, folder: Path, binaries: Path, port: int, *, is_durable: bool) -> None:
        self._folder = folder
        self._binaries = binaries
        self.port = port
        self._user = _USER if os.geteuid() == 0 else None
        sync = "on" if is_durable else "off"
        self._options = (*_OPTIONS, "-c", f"fsync={sync}", "-c", f"unix_socket_directories={folder}")

    def initialise(self) -> None:
        """Make the empty cluster; about a second."""
        if self._user is not None:
            shutil.chown(self._folder, *_owner())
        self._call("initdb", "-A", "trust", "-U", _USER, "-E", "UTF8", "--locale=C", "--no-sync")

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = " ".join((f"-p {self.port}", *self._options))
        self._call("pg_ctl", "-w", "-t", str(_SECONDS), "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop: `fast` in order, `immediate` as a crash would, with nothing written back."""
        self._call("pg_ctl", "-w", "-t", str(_SECONDS), "-m", mode, "stop")

    def crash(self) -> None:
        """Restart at once, as after a crash: every session is cut off, and the log is replayed."""
        self.stop("immediate")
        self.start()

    def create_database(self, name: str, template: str = "template0") -> str:
        """Make a database and return its url."""
        self.execute("CREATE DATABASE {} TEMPLATE {}", name, template)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database with whatever is still connected to it."""
        self.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def url(self, name: str) -> str:
        """Return the url of a database of this server."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: LiteralString, *names: str) -> Sequence[tuple[Any, ...]]:
        """Run one statement, with `names` of things in place of its {}, outside of a transaction; return its rows."""
        query = sql.SQL(statement).format(*(sql.Identifier(name) for name in names))
        with psycopg.connect(self.url(_USER), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description is not None else ()

    def cut_sessions(self, name: str) -> int:
        """Terminate every session of a database, as an operator or a failing-over proxy would; return how many."""
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        with psycopg.connect(self.url(_USER), autocommit=True, connect_timeout=10) as connection:
            return len(connection.execute(query, (name,)).fetchall())

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), "-D", str(self._folder / "data"), *arguments]
        done = subprocess.run(
            command,
            cwd=self._folder,
            user=self._user,
            group=_owner()[1] if self._user is not None else None,
            extra_groups=[] if self._user is not None else None,
            stdin=subprocess.DEVNULL,
            # Not a pipe: the server inherits it and would keep it open.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=2 * _SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise errors.GiveUpError(f"PostgreSQL: {program} {arguments[-1]} failed; its log ends with: {self._tail()}")

    def _tail(self) -> str:
        log = self._folder / "log"
        return log.read_text(errors="replace")[-500:] if log.exists() else "nothing"


def _owner() -> tuple[int, int]:
    try:
        user = pwd.getpwnam(_USER)
    except KeyError as error:
        raise errors.GiveUpError(
            f"PostgreSQL refuses to run as root, and there is no user {_USER}: make one, or run this as another user"
        ) from error
    return user.pw_uid, user.pw_gid


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(*, is_durable: bool = False) -> Generator[Server]:
    """Run a server for the length of a block; the folder is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dsctl-postgres-") as folder:
        server = Server(Path(folder), find_binaries(), _free_port(), is_durable=is_durable)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
