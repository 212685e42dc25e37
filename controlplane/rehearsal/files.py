"""Reads test files: what they say, checked against the signals there are, with recordings read from beside them.

Called by the command line and by tests of ours. Reads files, never writes; what it returns never changes.
"""

import csv
import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from controlplane import strictyaml
from controlplane.domain import errors, outcomes, services
from controlplane.rehearsal import models
from controlplane.runs.language import library

KIND = "RunbookTest"
# Signals of a node that the catalogue does not list: whether it answers its scrape.
UP = "up"
_COLUMNS = ("seconds", "node", "signal", "value")
_MAX_SAMPLES = 1_000_000
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sample:
    """From `seconds` on a signal has this value; None is unknown. Of the service, where `node` is empty.

    With `after` the seconds count from when that step took effect.
    """

    seconds: float
    after: str
    node: str
    signal: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Case:
    """One rehearsal, complete: what the file says for all and what the case says itself."""

    name: str
    runbook: str
    service: services.Service
    node: str
    nodes: tuple[str, ...]
    inputs: Mapping[str, outcomes.Json]
    samples: tuple[Sample, ...]
    answers: Mapping[str, tuple[models.Answer, ...]]
    undos: Mapping[str, tuple[models.Answer, ...]]
    people: tuple[models.Person, ...]
    expect: models.Expect


@dataclass(frozen=True, slots=True)
class TestFile:
    """The cases of one file."""

    __test__ = False

    name: str
    runbook: str
    path: str
    cases: tuple[Case, ...]


def read(path: Path, signals: Collection[str]) -> TestFile:
    """Return the tests of a file; blocks. Raises InvalidInputError with file, line, column and path."""
    document = strictyaml.read(library.read_text(path), source=str(path), with_columns=True)
    return parse(document, signals, folder=path.parent)


def parse(document: strictyaml.Document, signals: Collection[str], *, folder: Path) -> TestFile:
    """Return the tests of a document; `folder` is where its recordings are looked for."""
    written = strictyaml.check(models.TestDocument, document)
    spec, reader = written.spec, _Reader(document, {*signals, UP}, folder)
    reader.check_names(spec)
    cases = tuple(reader.case(spec, number, case) for number, case in enumerate(spec.cases))
    return TestFile(written.metadata.name, spec.runbook, document.source, cases)


class _Reader:
    """One document being read; holds what every complaint needs."""

    def __init__(self, document: strictyaml.Document, signals: Collection[str], folder: Path) -> None:
        self._document = document
        self._signals = signals
        self._folder = folder

    def check_names(self, spec: models.Spec) -> None:
        """Refuse two cases of one name: people look for a failure by it."""
        names = [case.name for case in spec.cases]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise self._refuse(("spec", "cases", number, "name"), f"a case named {name!r} exists already")

    def case(self, spec: models.Spec, number: int, case: models.Case) -> Case:
        """Return a case with what the file says for all of them."""
        own = ("spec", "cases", number)
        nodes = _first(case.nodes, spec.nodes, ("node-1", "node-2", "node-3"))
        samples = [*self._recording(spec, case, nodes, own)]
        at = own if case.signals is not None else ("spec",)
        for index, row in enumerate(_first(case.signals, spec.signals, ())):
            samples += self._row(row, nodes, (*at, "signals", index))
        return Case(
            name=case.name,
            runbook=spec.runbook,
            service=self._service(_first(case.service, spec.service, models.Service()), len(nodes)),
            node=_first(case.node, spec.node, ""),
            nodes=tuple(nodes),
            inputs=dict(_first(case.inputs, spec.inputs, {})),
            samples=tuple(samples),
            answers=_first(case.answers, spec.answers, {}),
            undos=_first(case.undos, spec.undos, {}),
            people=_first(case.people, spec.people, ()),
            expect=case.expect,
        )

    def _service(self, given: models.Service, num_nodes: int) -> services.Service:
        path = ("spec", "service")
        return services.Service(
            name=given.name,
            profile="rehearsal",
            selector={"service": given.name},
            objectives=services.Objectives(**self._fields(given.objectives, services.Objectives(), path)),
            thresholds=services.Thresholds(**self._fields(given.thresholds, services.Thresholds(), path)),
            pools=(services.Pool("pool", "none", given.min_ready, max(given.min_ready, num_nodes)),),
        )

    def _fields(
        self, given: Mapping[str, float], kind: services.Objectives | services.Thresholds, path: strictyaml.Path
    ) -> dict[str, Any]:
        """Return the numbers that are given; the stages of `qps` are no limit of a signal."""
        known = [one.name for one in dataclasses.fields(kind) if one.name != "qps"]
        for name in given:
            if name not in known:
                what = type(kind).__name__.lower()
                raise self._refuse((*path, what), f"unknown field {name!r}{strictyaml.suggest(name, known)}")
        return dict(given)

    def _row(self, row: models.SignalRow, nodes: Collection[str], path: strictyaml.Path) -> Iterator[Sample]:
        for node in row.nodes:
            self._node(node, nodes, (*path, "nodes"))
        for signal, value in row.set.items():
            self._known(signal, (*path, "set", signal))
            known = None if isinstance(value, str) else value
            yield from (Sample(row.at, row.after or "", node, signal, known) for node in row.nodes or ("",))

    def _node(self, node: str, nodes: Collection[str], path: strictyaml.Path) -> None:
        if node not in nodes:
            raise self._refuse(path, f"no node {node!r}{strictyaml.suggest(node, list(nodes))}")

    def _known(self, signal: str, path: strictyaml.Path) -> None:
        if signal not in self._signals:
            raise self._refuse(path, f"unknown signal {signal!r}{strictyaml.suggest(signal, list(self._signals))}")

    def _recording(
        self, spec: models.Spec, case: models.Case, nodes: Collection[str], own: strictyaml.Path
    ) -> Iterator[Sample]:
        named = _first(case.recording, spec.recording, "")
        if not named:
            return
        path = (*(own if case.recording is not None else ("spec",)), "recording")
        try:
            with (self._folder / named).open(encoding="utf-8", newline="") as opened:
                for one in self._samples(csv.reader(opened), path):
                    self._known(one.signal, path)
                    if one.node:
                        self._node(one.node, nodes, path)
                    yield one
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise self._refuse(path, f"{named} cannot be read: {error}") from error

    def _samples(self, lines: Iterator[list[str]], path: strictyaml.Path) -> Iterator[Sample]:
        if tuple(next(lines, ())) != _COLUMNS:
            raise self._refuse(path, f"a recording begins with the line {','.join(_COLUMNS)}")
        for number, line in enumerate(lines, start=2):
            if number > _MAX_SAMPLES:
                raise self._refuse(path, f"a recording has at most {_MAX_SAMPLES} lines")
            try:
                yield _sample(line)
            except ValueError as error:
                raise self._refuse(path, f"line {number} of the recording: {error}") from error

    def _refuse(self, path: strictyaml.Path, message: str) -> errors.InvalidInputError:
        return errors.InvalidInputError(f"{strictyaml.dotted(path)}: {message}", place=self._document.place(path))


def _sample(line: list[str]) -> Sample:
    if len(line) != len(_COLUMNS):
        raise ValueError(f"has {len(line)} columns, not {len(_COLUMNS)}")
    seconds, node, signal, text = line
    value = None if text in {"", "unknown"} else float(text)
    if not math.isfinite(float(seconds)) or not (value is None or math.isfinite(value)):
        raise ValueError("holds a number that is not finite; an unknown value is left empty")
    return Sample(float(seconds), "", node, signal, value)


def _first(*given: _T | None) -> _T:
    """Return the first that is there: the case's own, the file's, the default."""
    return next(one for one in given if one is not None)
