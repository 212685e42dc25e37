"""What was needed of late, so that nodes go only after they were not needed for a while without break.

Called by the planner once a look. It keeps the highest need of the last `window_seconds` (a short list of falling
maxima), not a mere timer: a fleet may shrink only to what would have been enough all the time, however low the need is
at this moment. Pure; times are monotonic seconds.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Needs seen since `since` without break; `highs` are (when it was last seen, nodes), falling. Empty: nothing."""

    since: float = 0.0
    highs: tuple[tuple[float, int], ...] = ()

    @property
    def highest(self) -> int:
        """The highest need within the window; there must be one."""
        return self.highs[0][1]


def note(pace: Pace, nodes: int, monotonic: float, window_seconds: float) -> Pace:
    """Add the need of this look. After half a window without any look nobody knows what was needed: it starts anew.

    >>> pace = note(note(note(Pace(), 5, 0.0, 60.0), 3, 20.0, 60.0), 4, 40.0, 60.0)
    >>> pace.highs, note(pace, 4, 60.0, 60.0).highs
    (((0.0, 5), (40.0, 4)), ((60.0, 4),))
    """
    is_broken = not pace.highs or monotonic - pace.highs[-1][0] > window_seconds / 2
    kept = () if is_broken else pace.highs
    higher = tuple((at, one) for at, one in kept if one > nodes and monotonic - at < window_seconds)
    return Pace(monotonic if is_broken else pace.since, (*higher, (monotonic, nodes)))


def wait_seconds(pace: Pace, enough: int, monotonic: float, window_seconds: float) -> float:
    """Return how much longer `enough` nodes must stay enough, until that has been so for a whole window.

    The last entry is this look's own: where it asks for more than `enough`, that is a whole window.
    """
    above = [at for at, nodes in pace.highs if nodes > enough]
    return max(0.0, max([pace.since, *above]) + window_seconds - monotonic)
