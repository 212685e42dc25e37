"""How long a new node takes until it serves: the time by which capacity must be asked for ahead of need.

Called before the planner, with what was measured (from the start of a node to its first moment in service). Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane import phrases
from controlplane.domain import services

# One start may have been lucky; of three the slowest is a fair guess of what nine in ten stay below.
MIN_SAMPLES = 3
# Older starts were of other images, models and disks.
MAX_SAMPLES = 50
_QUANTILE = 0.9


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Seconds within which nine of ten nodes serve, whether that was measured, and the sentence that says so."""

    seconds: float
    is_measured: bool
    num_samples: int
    sentence: str

    @property
    def measured_seconds(self) -> float | None:
        """The measured seconds, or None where the rule's value stands in; what `planner.Seen` takes."""
        return self.seconds if self.is_measured else None


def p90(measured: Sequence[float], rules: services.CapacityRules) -> ColdStart:
    """Return the 90th percentile (nearest rank) of the newest measured seconds, newest last; else the rule's value.

    Times that are not finite and above zero are no measurements. Below ten samples this is the slowest of them.

    >>> p90([40.0, 42.0, 55.0], services.CapacityRules()).sentence
    'cold start 55 s: P90 of the newest 3 starts'
    """
    sound = [one for one in measured if math.isfinite(one) and one > 0][-MAX_SAMPLES:]
    if len(sound) < MIN_SAMPLES:
        seconds = rules.cold_start_seconds
        so_far = f"{phrases.count(len(sound), 'start')} measured so far, {MIN_SAMPLES} are needed"
        return ColdStart(
            seconds, False, len(sound), f"cold start {phrases.duration(seconds)} by the service's rules: {so_far}"
        )
    seconds = sorted(sound)[math.ceil(_QUANTILE * len(sound)) - 1]
    said = f"cold start {phrases.duration(seconds)}: P90 of the newest {len(sound)} starts"
    return ColdStart(seconds, True, len(sound), said)
