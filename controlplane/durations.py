"""Durations as people write them in policies and runbooks: `90s`, `2m`, `1h30m`.

Called by the models of both; each says how long is too long. Pure.
"""

import re

_DURATION = re.compile(r"(?:(?P<hours>[0-9]{1,4})h)?(?:(?P<minutes>[0-9]{1,5})m)?(?:(?P<seconds>[0-9]{1,6})s)?")
_HOUR = 3600.0
# What editors are told of a duration; nothing at all is refused by `parse`.
JSON_SCHEMA = {
    "type": "string",
    "pattern": "^(?:[0-9]{1,4}h)?(?:[0-9]{1,5}m)?(?:[0-9]{1,6}s)?$",
    "minLength": 2,
    "examples": ["90s", "5m", "1h30m"],
}


def parse(text: object, *, max_seconds: float) -> float:
    """Return the seconds of a duration; raises ValueError with a sentence for the person who wrote it.

    >>> parse("1h30m", max_seconds=86_400), parse("0s", max_seconds=86_400)
    (5400.0, 0.0)
    """
    found = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if found is None:
        raise ValueError(f"{text!r} is no duration; write hours, minutes and seconds such as 90s, 5m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    total = hours * _HOUR + minutes * 60 + seconds
    if total > max_seconds:
        raise ValueError(f"{text!r} is too long; a duration here is at most {max_seconds / _HOUR:g}h")
    return total
