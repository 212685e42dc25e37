"""Lanes: which runs get in each other's way. Two runs on one target exclude each other only within one lane.

A surge is answered by degrading at once and by adding nodes meanwhile: the one must not wait for the other. What runs
take out of service is counted together, whatever their lanes.
"""

from enum import StrEnum


class Lane(StrEnum):
    """What a runbook works on: the nodes themselves, how many there are, or how much of the service is given."""

    NODES = "nodes"
    CAPACITY = "capacity"
    DEGRADATION = "degradation"

    @property
    def slot(self) -> int:
        """The number of the lane's place on a target, as it is stored; never changes."""
        return list(Lane).index(self)
