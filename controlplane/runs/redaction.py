"""Keeps secrets and unstorable values out of the event log of runs.

Called by the ledger for everything it writes into an event. Pure. The log is shown to everybody who may read runs,
and it is kept for weeks.
"""

import math
import re
from collections.abc import Mapping
from typing import cast

from controlplane.domain import outcomes

HIDDEN = "***"
_SECRET_WORDS = frozenset({"token", "secret", "password", "authorization"})
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def redact(value: object) -> outcomes.Json:
    """Return `value` as JSON with the values of secret-looking keys replaced.

    A key looks secret when one of its words is token, secret, password or authorization. What JSON cannot hold
    (NaN, infinity, foreign objects) becomes its text: a bad value in an answer must not cost the record of it.

    >>> redact({"node": "a", "api_token": "x", "prompt_tokens": 3})
    {'node': 'a', 'api_token': '***', 'prompt_tokens': 3}
    """
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(key): HIDDEN if _is_secret(str(key)) else redact(one) for key, one in items}
    if isinstance(value, list | tuple):
        return [redact(one) for one in cast("list[object]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def redact_mapping(data: Mapping[str, object]) -> dict[str, outcomes.Json]:
    """Redact the data of one event."""
    return cast("dict[str, outcomes.Json]", redact(data))


def _is_secret(key: str) -> bool:
    return any(word.lower() in _SECRET_WORDS for word in _WORD.findall(key))
