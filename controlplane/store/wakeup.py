"""News from other replicas on PostgreSQL: somebody stored work, look now instead of at the next poll.

Used by the run engine. Nothing depends on it: a message that is lost, or a listener that cannot connect, costs one poll's
time and no more. On SQLite there are no other replicas, and nothing is sent or listened to.

Concurrency: one daemon thread, named `dsctl-listener`, with a connection of its own; `on_news` is called from it.
"""

import threading
from collections.abc import Callable

import sqlalchemy as sa

_CHANNEL = "dsctl_work"
# How soon the thread notices that it is to end, and how long it lets a server alone that does not answer.
_LOOK_SECONDS = 0.2
_RETRY_SECONDS = 2.0


def send(connection: sa.Connection) -> None:
    """Tell the other replicas, when the transaction commits."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_notify(_CHANNEL, "")))


class Listener:
    """Listens from `start` to `stop`; without a PostgreSQL url it does nothing."""

    def __init__(self, url: sa.URL, on_news: Callable[[], None]) -> None:
        self._conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._is_needed = url.get_backend_name() == "postgresql"
        self._on_news = on_news
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dsctl-listener", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        if self._is_needed:
            self._thread.start()

    def stop(self) -> None:
        """End the thread; blocking for a moment."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2 * _RETRY_SECONDS)

    def _run(self) -> None:
        import psycopg

        while not self._stop.is_set():
            try:
                self._listen()
            except psycopg.Error:
                # The server is away, or does not take more connections; polling goes on without it.
                self._stop.wait(_RETRY_SECONDS)

    def _listen(self) -> None:
        import psycopg

        with psycopg.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=5,
            # A network that swallows packets would else leave it deaf for hours.
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        ) as connection:
            connection.execute(f"LISTEN {_CHANNEL}")
            # What was stored while nobody listened is found now, and not only at the next poll.
            self._on_news()
            while not self._stop.is_set():
                for _ in connection.notifies(timeout=_LOOK_SECONDS, stop_after=1):
                    self._on_news()
