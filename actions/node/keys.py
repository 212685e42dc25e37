"""Idempotency keys of the calls that belong to one step: one step may call several nodes, and be undone. Pure."""

import hashlib

# The contract's bound on a key.
_MAX_KEY = 128


def derive(key: str, part: str) -> str:
    """Return the key of one part of a step: always the same for the same two texts, and within the bound.

    >>> derive("run_1:flush", "undo")
    'run_1:flush:undo'
    """
    whole = f"{key}:{part}"
    is_plain = len(whole) <= _MAX_KEY and all("!" <= letter <= "~" for letter in whole)
    return whole if is_plain else hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()
