"""Durations as people write them in runbooks: `90s`, `2m`, `1h30m`. Called by the models next door; pure."""

import re

_DURATION = re.compile(r"(?:(?P<hours>[0-9]{1,3})h)?(?:(?P<minutes>[0-9]{1,4})m)?(?:(?P<seconds>[0-9]{1,5})s)?")

# A step that would take longer than a day belongs into a schedule, not into a remediation.
MAX_SECONDS = 86_400.0


def parse(text: object) -> float:
    """Return the seconds of a duration; raises ValueError with a sentence for the person who wrote it.

    >>> parse("1h30m"), parse("90s")
    (5400.0, 90.0)
    """
    found = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if found is None:
        raise ValueError(f"{text!r} is not a duration; write it with units, such as 90s, 2m or 1h30m")
    parts = {unit: float(value or 0) for unit, value in found.groupdict().items()}
    seconds = parts["hours"] * 3600 + parts["minutes"] * 60 + parts["seconds"]
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"{text!r} is out of range; durations are longer than 0 and at most 24h")
    return seconds
