"""Recorded expositions of engines and exporters (tests/unit/observe/expositions), and targets that serve them.

The files have the names, types and labels of the real thing. A counter's number, buckets included, is by how much it
grows in a second; a gauge's is what it stands at. So what each signal must be can be read off the file.
"""

import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import prometheus as real

FOLDER = Path(__file__).parents[1] / "unit" / "observe" / "expositions"
# LMDeploy sets these gauges to what it has counted.
COUNTING_GAUGES = frozenset({"lmdeploy:num_requests_succeeded", "lmdeploy:num_requests_failed"})
# So old are counters when they are first seen: next to zero Prometheus guesses where a counter began.
_AGE_SECONDS = 1000.0
_SAMPLE = re.compile(r"(?P<name>[\w:]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """One line; `kind` is the type its family declares."""

    name: str
    kind: str
    labels: dict[str, str]
    value: float

    @property
    def grows(self) -> bool:
        """True where the number counts."""
        return self.kind in {"counter", "histogram"} or self.name in COUNTING_GAUGES


def names() -> list[str]:
    """Return the profiles that an exposition was recorded for."""
    return sorted(path.stem for path in FOLDER.glob("*.prom"))


def read(name: str) -> list[Sample]:
    """Return the samples of one file; a sample of a family without a type is an error."""
    text = (FOLDER / f"{name}.prom").read_text(encoding="utf-8")
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    found: list[Sample] = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, f"{name}: {line}"
        labels = dict(_LABEL.findall(match["labels"] or ""))
        found.append(Sample(match["name"], kinds[_family(match["name"], kinds)], labels, float(match["value"])))
    return found


def _family(name: str, kinds: dict[str, str]) -> str:
    stem = re.sub(r"_(bucket|sum|count)$", "", name)
    return stem if kinds.get(stem) in {"histogram", "summary"} else name


@contextmanager
def serving(samples: list[Sample], *, factor: float = 1.0) -> Generator[str]:
    """Serve samples as they grow, and yield host:port; `factor` makes the counters of a target faster.

    Each answer says at which instant it is true, so that a slow machine changes no rate.
    """

    began = time.time() - _AGE_SECONDS  # noqa: TID251  # real scrapes, real time

    class Handler(real.QuietHandler):
        def do_GET(self) -> None:  # noqa: N802  # the base class asks for it
            self.answer(200, _at(samples, began, factor).encode())

    with real.serving(Handler) as address:
        yield address


def _at(samples: list[Sample], began: float, factor: float) -> str:
    millis = int(time.time() * 1000)  # noqa: TID251  # real scrapes, real time
    elapsed = millis / 1000 - began
    lines: list[str] = []
    for one in samples:
        labels = ",".join(f'{name}="{value}"' for name, value in one.labels.items())
        value = one.value * factor * elapsed if one.grows else one.value
        lines.append(f"{one.name}{{{labels}}} {value!r} {millis}\n")
    return "".join(lines)
