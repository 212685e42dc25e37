"""The world outside of the run engine: a target that writes down what arrives, and answers when it is looked at.

Used by the crash harness, its workers and the tests. Every arrival is appended to a file of its target with one write, so
that the order of the lines is the order in which things happened, whoever is killed. What came of an arrival is not
stored: it follows from the lines before it (`replay`), for the target itself when it is probed as for the oracle. The
target keeps, per run, the highest token it has seen, and refuses older ones: a paused owner may still finish what it was
sending, and only the target can refuse that.

Plain functions and blocking writes of one line; safe from any number of processes.
"""

import enum
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

APPLY, UNDO, PROBE = "apply", "undo", "probe"


class Fate(enum.StrEnum):
    """What the target did with an arrival."""

    EFFECT = "effect"
    REPEAT = "repeat"  # the key was known: nothing happened a second time
    STALE = "stale"  # the token was older than one already seen
    LOOK = "look"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One line: a call that reached the target. `honours_keys` says whether this kind of call is recognised by its key."""

    verb: str
    key: str
    token: int
    attempt: int
    payload: str
    honours_keys: bool
    target: str = ""
    fate: Fate = Fate.LOOK

    @property
    def run_id(self) -> str:
        """The run that sent it; the first part of every key."""
        return self.key.split(":", 1)[0]

    @property
    def step(self) -> str:
        """The step of the run."""
        return self.key.split(":")[1]


@dataclass
class _Memory:
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    keys: set[str] = field(default_factory=set[str])

    def take(self, arrival: Arrival) -> Fate:
        is_stale = arrival.token < self.tokens[arrival.run_id]
        self.tokens[arrival.run_id] = max(self.tokens[arrival.run_id], arrival.token)
        if arrival.verb == PROBE:
            return Fate.LOOK
        if is_stale:
            return Fate.STALE
        if arrival.honours_keys and arrival.key in self.keys:
            return Fate.REPEAT
        self.keys.add(arrival.key)
        return Fate.EFFECT


def replay(lines: Iterable[str], target: str = "") -> Sequence[Arrival]:
    """Return what arrived in order, each with what came of it."""
    memory = _Memory()
    arrivals: list[Arrival] = []
    for line in lines:
        values: dict[str, Any] = json.loads(line)
        arrival = Arrival(**values, target=target)
        arrivals.append(Arrival(**values, target=target, fate=memory.take(arrival)))
    return arrivals


class Target:
    """The targets of one folder, a file for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def send(self, target: str, arrival: Arrival) -> None:
        """Let a call arrive."""
        values = {
            "verb": arrival.verb,
            "key": arrival.key,
            "token": arrival.token,
            "attempt": arrival.attempt,
            "payload": arrival.payload,
            "honours_keys": arrival.honours_keys,
        }
        file = os.open(self._folder / target, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        try:
            os.write(file, f"{json.dumps(values)}\n".encode())
        finally:
            os.close(file)

    def look(self, target: str, arrival: Arrival) -> bool:
        """Say whether the effect with this key is there; a later call with an older token is refused from now on."""
        self.send(target, arrival)
        mine = [line for line in self._lines(self._folder / target) if arrival.run_id in line]
        return any(one.key == arrival.key and one.fate is Fate.EFFECT for one in replay(mine))

    def arrivals(self) -> Sequence[Arrival]:
        """Return everything that arrived at any target, each target's in order."""
        files = sorted(self._folder.iterdir())
        return [one for path in files for one in replay(self._lines(path), path.name)]

    def _lines(self, path: Path) -> Sequence[str]:
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
