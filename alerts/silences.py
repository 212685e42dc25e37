"""The `SilenceReader` port: the silences that are active at Alertmanager, as of a stated instant.

Called by the guard before anything is done. It never raises: when Alertmanager does not answer, the last good
reading stays, with the instant it was read, and the guard decides what too old means. Concurrency: async; callers
that come while a reading is on its way share it.
"""

import asyncio
from collections.abc import Iterator, Mapping
from datetime import datetime

from alerts import alertmanager, payload
from controlplane.domain import alerting, errors, ports

PATH = "/api/v2/silences"
# Several gates and previews of one tick share a reading; also how often a silent Alertmanager is asked.
CACHE_SECONDS = 5.0
_MAX_SILENCES = 10_000
_MAX_TEXT = 16_384


class AlertmanagerSilences:
    """Keeps the last good reading."""

    def __init__(self, server: alertmanager.Alertmanager, clock: ports.Clock) -> None:
        self._server = server
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: alerting.Silences | None = None
        self._asked_at: float | None = None
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the last reading failed, or empty."""
        return self._problem

    async def current(self) -> alerting.Silences | None:
        """Return the newest silences known, possibly old (see `read_at`), or None when never read."""
        async with self._lock:
            now = self._clock.monotonic()
            if self._asked_at is None or now - self._asked_at >= CACHE_SECONDS:
                await self._refresh()
                self._asked_at = self._clock.monotonic()
        return self._known

    async def _refresh(self) -> None:
        # Before the request: what was read is at least as new as this.
        read_at = self._clock.now()
        try:
            self._known = alerting.Silences(read_at, tuple(parse(await self._server.get(PATH))))
        except errors.DsctlError as error:
            self._problem = str(error)
        else:
            self._problem = ""


def parse(body: bytes) -> Iterator[alerting.Silence]:
    """Yield the active silences of `GET /api/v2/silences`.

    Raises InvalidInputError for anything unexpected: a silence that cannot be read might be the one that counts.
    """
    listed = payload.sequence(payload.document(body, "silences"), "silences")
    if len(listed) > _MAX_SILENCES:
        raise errors.InvalidInputError(f"holds more than {_MAX_SILENCES}", place="silences")
    for number, one in enumerate(listed):
        place = f"silences[{number}]"
        silence = payload.mapping(one, place)
        state = payload.mapping(silence.get("status"), f"{place}.status").get("state")
        if state == "active":
            yield _silence(silence, place)


def _silence(silence: Mapping[str, object], place: str) -> alerting.Silence:
    matchers = payload.sequence(silence.get("matchers"), f"{place}.matchers")
    return alerting.Silence(
        id=payload.text(silence.get("id"), f"{place}.id", at_most=_MAX_TEXT),
        matchers=tuple(
            _matcher(payload.mapping(one, f"{place}.matchers[{number}]"), f"{place}.matchers[{number}]")
            for number, one in enumerate(matchers)
        ),
        ends_at=_end(silence, f"{place}.endsAt"),
        created_by=payload.text(_or_empty(silence, "createdBy"), f"{place}.createdBy", at_most=_MAX_TEXT),
        comment=payload.prose(_or_empty(silence, "comment"), f"{place}.comment", at_most=_MAX_TEXT),
    )


def _matcher(matcher: Mapping[str, object], place: str) -> tuple[str, str, bool, bool]:
    is_equal = matcher.get("isEqual")
    return (
        payload.text(matcher.get("name"), f"{place}.name", at_most=_MAX_TEXT),
        payload.text(matcher.get("value"), f"{place}.value", at_most=_MAX_TEXT),
        payload.flag(matcher.get("isRegex"), f"{place}.isRegex"),
        # Left out by Alertmanager before 0.22, where every matcher meant equal.
        True if is_equal is None else payload.flag(is_equal, f"{place}.isEqual"),
    )


def _end(silence: Mapping[str, object], place: str) -> datetime:
    found = payload.instant(silence.get("endsAt"), place)
    if found is None:
        raise errors.InvalidInputError("is the zero time", place=place)
    return found


def _or_empty(silence: Mapping[str, object], name: str) -> object:
    value = silence.get(name)
    return "" if value is None else value
