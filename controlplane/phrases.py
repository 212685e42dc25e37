"""How sentences say numbers: durations, counts, rates, shares, lists of names. Called by every room that speaks. Pure functions."""

from collections.abc import Sequence

_MINUTE = 60.0
_HOUR = 3600.0
# Below this a minute and some seconds are told apart: "1 min 30 s", but "12 min".
_SECONDS_MATTER_BELOW = 600.0
# More names than this make a sentence that nobody reads.
_MAX_NAMES = 3


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count(1, "node"), count(2, "node")
    ('1 node', '2 nodes')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rate(rps: float) -> str:
    """Return a rate of requests.

    >>> rate(45.04)
    '45.0 requests/s'
    """
    return f"{rps:.1f} requests/s"


def share(ratio: float) -> str:
    """Return a ratio in percent.

    >>> share(0.3)
    '30 %'
    """
    return f"{100 * ratio:.3g} %"


def duration(seconds: float) -> str:
    """Return a length of time as people say it.

    >>> duration(0.4), duration(90), duration(750), duration(7260)
    ('0.4 s', '1 min 30 s', '12 min', '2 h 1 min')
    """
    if seconds < _MINUTE:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.0f} s"
    if seconds < _HOUR:
        minutes, rest = divmod(int(seconds), 60)
        return f"{minutes} min {rest} s" if rest and seconds < _SECONDS_MATTER_BELOW else f"{minutes} min"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if rest >= _MINUTE else f"{hours} h"


def names(found: Sequence[str]) -> str:
    """Return the first few names, and how many more there are.

    >>> names(["a", "b"]), names(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    said = ", ".join(found[:_MAX_NAMES])
    return said if len(found) <= _MAX_NAMES else f"{said} and {len(found) - _MAX_NAMES} more"
