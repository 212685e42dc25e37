"""How fast rules react. The defaults suit production; a demo on one machine runs the same rules faster.

Used by the rules' writers. Pure values.
"""

import math
from dataclasses import dataclass

# A rate needs two samples; four scrapes leave room for one that is lost and one that is late.
SCRAPES_PER_WINDOW = 4


@dataclass(frozen=True, slots=True)
class Pace:
    """Every duration of a rule is multiplied by `time_ratio`; a range never shrinks below four scrapes.

    No range is longer than `max_window_seconds`: where trouble lasts a minute, an hour's range still shows it long after.
    """

    time_ratio: float = 1.0
    scrape_seconds: float = 5.0
    evaluation_seconds: float = 15.0
    max_window_seconds: float = math.inf

    def hold(self, seconds: float) -> float:
        """Return how long a condition must last.

        >>> Pace(time_ratio=0.1).hold(120)
        12.0
        """
        return seconds * self.time_ratio

    def window(self, seconds: float) -> float:
        """Return the range of a rate.

        >>> Pace(time_ratio=0.1, scrape_seconds=5.0).window(120)
        20.0
        >>> Pace(time_ratio=0.1, max_window_seconds=60.0).window(3600)
        60.0
        """
        wanted = min(seconds * self.time_ratio, self.max_window_seconds)
        return max(wanted, self.scrape_seconds * SCRAPES_PER_WINDOW)
