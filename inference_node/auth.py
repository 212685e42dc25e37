"""Who is calling: API keys to tenant and level, admin tokens to the right to administer.

Used by both servers at the door. Keys are looked up by their SHA-256, so that comparing takes no longer for a good guess.
A level comes from the key; headers are believed only from a key marked as a gateway's.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from inference_node import errors, levels

DEFAULT_TENANT = "default"
MAX_TIME_LEFT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Caller:
    """What a key grants; and where a gateway calls, how long its caller will still wait."""

    tenant: str = DEFAULT_TENANT
    level: levels.Level = levels.Level.STANDARD
    is_gateway: bool = False
    time_left_seconds: float | None = None


class Keyring:
    """API keys of the data API; without any, everybody is a `standard` caller of the default tenant."""

    def __init__(self, callers: Mapping[str, Caller]) -> None:
        self._callers = {_digest(key): caller for key, caller in callers.items()}

    def identify(self, headers: Mapping[str, str]) -> Caller:
        """Return who calls; raises DataError 401."""
        caller = self._known(headers)
        if not caller.is_gateway:
            return caller
        return Caller(
            tenant=headers.get("x-tenant", caller.tenant),
            level=_level(headers.get("x-service-level"), caller.level),
            is_gateway=True,
            time_left_seconds=_seconds(headers.get("x-time-left")),
        )

    def _known(self, headers: Mapping[str, str]) -> Caller:
        if not self._callers:
            return Caller()
        caller = self._callers.get(_digest(bearer(headers)))
        if caller is None:
            raise errors.DataError(
                401,
                "The API key is missing or unknown; send it as 'Authorization: Bearer KEY'.",
                kind="authentication_error",
                code="invalid_api_key",
            )
        return caller


class AdminTokens:
    """Tokens of the admin API; without any, nobody may administer."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = frozenset(_digest(token) for token in tokens)

    def require(self, headers: Mapping[str, str]) -> None:
        """Raise AdminError 401 unless the call carries an admin token."""
        if _digest(bearer(headers)) in self._digests:
            return
        raise errors.AdminError(
            401, "Not authorised", "The admin token is missing or wrong; send it as 'Authorization: Bearer TOKEN'."
        )


def bearer(headers: Mapping[str, str]) -> str:
    """Return the bearer token, or an empty string, which is no key: settings refuse empty ones."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _level(name: str | None, granted: levels.Level) -> levels.Level:
    if name is None:
        return granted
    try:
        return levels.Level(name)
    except ValueError:
        raise errors.DataError(
            400, f"X-Service-Level {name!r} is not one of premium, standard, batch.", param="X-Service-Level"
        ) from None


def _seconds(text: str | None) -> float | None:
    """Return a time in seconds, None where none is given."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIME_LEFT_SECONDS:
        raise errors.DataError(
            400,
            f"X-Time-Left {text[:20]!r} is not a number of seconds above 0, at most {MAX_TIME_LEFT_SECONDS:g}.",
            param="X-Time-Left",
        )
    return seconds
