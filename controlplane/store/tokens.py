"""API tokens: who may call, in which role. Only a hash is stored; the token itself is shown once.

Called by the API's authentication and its token routes. Async; the work runs in `database`. A token carries 256
random bits, so a plain SHA-256 is enough: there is nothing to guess, and no slow hash to pay on every request.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import exc

from controlplane.domain import errors, ports
from controlplane.store import database as db
from controlplane.store import tables

_PREFIX = "dsct_"  # lets scanners of repositories and logs recognise a leaked token
_NUM_BYTES = 32
# "Last used" is for spotting forgotten tokens; a write per request would be a high price for more precision.
_TOUCH_EVERY = timedelta(minutes=1)
_TOKEN = tables.API_TOKEN


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling."""

    name: str
    role: str


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token as it may be listed; nothing here helps to use it."""

    name: str
    role: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class TokenRepository:
    """Tokens in the database."""

    def __init__(self, database: db.Database, clock: ports.Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, name: str, role: str, expires_at: datetime | None = None) -> str:
        """Store a new token and return it; it cannot be read again.

        Raises ConflictError when a token with this name is not revoked yet.
        """
        token = _PREFIX + secrets.token_urlsafe(_NUM_BYTES)
        row = {
            "sha256": _digest(token),
            "name": name,
            "role": role,
            "created_at": self._clock.now(),
            "expires_at": expires_at,
        }
        try:
            await self._database.write(lambda connection: connection.execute(_TOKEN.insert(), row))
        except exc.IntegrityError as error:
            raise errors.ConflictError(
                f"a token named {name!r} exists; revoke it first or choose another name"
            ) from error
        return token

    async def verify(self, token: str) -> Principal | None:
        """Return whose token this is, or None when it is unknown, expired or revoked.

        Takes no longer for a nearly right token: what is looked up is its hash.
        """
        if not token.startswith(_PREFIX):
            return None
        digest, now = _digest(token), self._clock.now()
        query = sa.select(_TOKEN).where(_TOKEN.c.sha256 == digest, _TOKEN.c.revoked_at.is_(None))
        row = await self._database.read(lambda connection: connection.execute(query).first())
        if row is None or not hmac.compare_digest(row.sha256, digest):
            return None
        if row.expires_at is not None and row.expires_at <= now:
            return None
        if row.last_used_at is None or row.last_used_at <= now - _TOUCH_EVERY:
            await self._touch(digest, now)
        return Principal(row.name, row.role)

    async def list(self) -> Sequence[TokenInfo]:
        """Return every token that was ever made, newest first."""
        columns = [_TOKEN.c[name] for name in TokenInfo.__slots__]
        query = sa.select(*columns).order_by(_TOKEN.c.created_at.desc(), _TOKEN.c.name)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return tuple(TokenInfo(*row) for row in rows)

    async def revoke(self, name: str) -> None:
        """Make the live token with this name useless at once; raises NotFoundError."""
        revoke = (
            _TOKEN.update()
            .where(_TOKEN.c.name == name, _TOKEN.c.revoked_at.is_(None))
            .values(revoked_at=self._clock.now())
        )
        num_revoked = await self._database.write(lambda connection: connection.execute(revoke).rowcount)
        if num_revoked == 0:
            raise errors.NotFoundError(f"there is no live token named {name!r}; list them with: dsctl auth token list")

    async def _touch(self, digest: str, now: datetime) -> None:
        touch = _TOKEN.update().where(_TOKEN.c.sha256 == digest).values(last_used_at=now)
        try:
            await self._database.write(lambda connection: connection.execute(touch))
        except errors.RetryLaterError:
            return  # a busy database is no reason to turn a valid caller away


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
