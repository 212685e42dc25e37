"""Named places where a test may kill the process, to prove that every one of them can be survived.

Reached by the run engine; inert unless the environment names one: `DSCTL_FAILPOINT=before_effect:2` makes the process
send itself SIGKILL the second time it reaches `before_effect`. Nothing is flushed and nothing is closed, as in a
power cut of the process.

| point | where |
| --- | --- |
| after_claim | the claim is committed, nothing else is done |
| before_effect | the step is announced and allowed, the action is not called |
| after_effect | the action has returned, its outcome is not stored |
| in_commit | the outcome is written, its transaction is not committed |
| after_commit | the outcome is committed, memory does not know |
| at_wait | the run is parked until later |

Safe from any thread.
"""

import os
import signal
import threading
from collections.abc import Mapping
from enum import StrEnum

from controlplane.domain import errors

_VARIABLE = "DSCTL_FAILPOINT"


class Point(StrEnum):
    """The places, in the order a step passes them."""

    AFTER_CLAIM = "after_claim"
    BEFORE_EFFECT = "before_effect"
    AFTER_EFFECT = "after_effect"
    IN_COMMIT = "in_commit"
    AFTER_COMMIT = "after_commit"
    AT_WAIT = "at_wait"


class FailPoints:
    """Counts how often the armed place is reached; without one, `reach` does nothing."""

    def __init__(self, armed: Point | None = None, left: int = 1) -> None:
        self._armed = armed
        self._left = left
        self._lock = threading.Lock()

    def reach(self, point: Point) -> None:
        """Kill this process when `point` is armed and reached for the given time."""
        if point is not self._armed:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def read_environment(environment: Mapping[str, str]) -> FailPoints:
    """Return what the environment arms; raises InvalidInputError for a point that does not exist.

    >>> read_environment({}).reach(Point.AFTER_CLAIM)
    """
    text = environment.get(_VARIABLE, "")
    if not text:
        return FailPoints()
    name, _, count = text.partition(":")
    if name not in list(Point) or not (count or "1").isdigit():
        known = ", ".join(Point)
        raise errors.InvalidInputError(f"{_VARIABLE}={text!r} is not NAME:COUNT with a name of: {known}")
    return FailPoints(Point(name), int(count or "1"))
