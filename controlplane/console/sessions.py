"""Who is signed in: the id in a browser's cookie, and the token it stands for.

Used by `door`, on one event loop. Kept in the memory of one process: a restart signs everybody out, and another replica
knows nothing of them. A session grants nothing by itself: its token is asked about at every request, so that one which
is revoked or expires ends its sessions at once. Never blocks.
"""

import secrets
from dataclasses import dataclass

from controlplane.domain import ports

# A shift; whoever stays longer signs in again.
MAX_SECONDS = 12 * 3600.0
# A watched run renews it every few minutes; a browser that was closed and forgotten does not.
MAX_IDLE_SECONDS = 2 * 3600.0
# Far more people than look after one fleet. Beyond it whoever was away longest goes.
MAX_SESSIONS = 1000


@dataclass(slots=True)
class _Session:
    token: str
    opened_at: float
    used_at: float


class Sessions:
    """The open sessions by their ids."""

    def __init__(self, clock: ports.Clock) -> None:
        self._clock = clock
        self._open: dict[str, _Session] = {}  # in the order of their use, the longest unused first

    def __len__(self) -> int:
        return len(self._open)

    def open(self, token: str) -> str:
        """Return the id of a new session; nobody can guess it."""
        self._sweep()
        now = self._clock.monotonic()
        session_id = secrets.token_urlsafe(32)
        self._open[session_id] = _Session(token, now, now)
        return session_id

    def token(self, session_id: str) -> str | None:
        """Return the token a session stands for and note its use; None for one that is unknown or over."""
        session = self._open.pop(session_id, None)
        if session is None or self._is_over(session):
            return None
        session.used_at = self._clock.monotonic()
        self._open[session_id] = session
        return session.token

    def close(self, session_id: str) -> None:
        """End a session; one that is unknown is over already."""
        self._open.pop(session_id, None)

    def _is_over(self, session: _Session) -> bool:
        now = self._clock.monotonic()
        return now - session.opened_at > MAX_SECONDS or now - session.used_at > MAX_IDLE_SECONDS

    def _sweep(self) -> None:
        """Forget what is over, and make room for one more."""
        self._open = {one: session for one, session in self._open.items() if not self._is_over(session)}
        while len(self._open) >= MAX_SESSIONS:
            del self._open[next(iter(self._open))]
