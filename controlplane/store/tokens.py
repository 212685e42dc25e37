"""API tokens: who may call, in which role. Only a hash is stored; the token itself is shown once.

Called by the API's authentication and its token routes. Async; the work runs in `database`. A token carries 256
random bits, so a plain SHA-256 is enough: there is nothing to guess, and no slow hash to pay on every request.

Where this process alone uses the database, live tokens are also kept in memory: every change of them passes through
here. Beside other processes each request looks into the database, or a revoked token would work on elsewhere.
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


@dataclass(slots=True)
class _Live:
    """What is known of a token that was not revoked when it was read."""

    principal: Principal
    expires_at: datetime | None
    last_used_at: datetime | None


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
        self._live: dict[str, _Live] = {}
        self._num_revoked = 0

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
        known = self._live.get(digest) or await self._find(digest)
        if known is None or (known.expires_at is not None and known.expires_at <= now):
            return None
        if known.last_used_at is None or known.last_used_at <= now - _TOUCH_EVERY:
            known.last_used_at = now  # before the write, so that requests beside this one do not write it too
            self._live.pop(digest, None)  # once a minute it is read anew, whatever may have been missed
            await self._touch(digest, now)
        return known.principal

    async def _find(self, digest: str) -> _Live | None:
        """Read a token that is not revoked, and keep it where nobody else can revoke it."""
        query = sa.select(_TOKEN).where(_TOKEN.c.sha256 == digest, _TOKEN.c.revoked_at.is_(None))
        num_revoked = self._num_revoked
        row = await self._database.read(lambda connection: connection.execute(query).first())
        if row is None or not hmac.compare_digest(row.sha256, digest):
            return None
        found = _Live(Principal(row.name, row.role), row.expires_at, row.last_used_at)
        if self._database.is_exclusive and num_revoked == self._num_revoked:
            self._live[digest] = found
        return found

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
        try:
            num_revoked = await self._database.write(lambda connection: connection.execute(revoke).rowcount)
        finally:
            self._forget()
        if num_revoked == 0:
            raise errors.NotFoundError(f"there is no live token named {name!r}; list them with: dsctl auth token list")

    def _forget(self) -> None:
        """Look every token up anew, and keep nothing that was read before now."""
        self._num_revoked += 1
        self._live.clear()

    async def _touch(self, digest: str, now: datetime) -> None:
        touch = _TOKEN.update().where(_TOKEN.c.sha256 == digest).values(last_used_at=now)
        try:
            await self._database.write(lambda connection: connection.execute(touch))
        except errors.RetryLaterError:
            return  # a busy database is no reason to turn a valid caller away


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
