"""Checks files of runbooks, and of their tests, without a server: everything that is wrong, with line and column.

Called by `dsctl runbooks validate`. It knows the actions and signals that are installed here; those of a server may be
others. Runbooks that others name are looked for among the shipped ones and the files given. Reads files, never writes.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from controlplane import strictyaml
from controlplane.domain import errors
from controlplane.rehearsal import files, models, words
from controlplane.runs.language import checks, library, links
from controlplane.runs.language import models as language

# Beside runbooks, where their tests stand.
TESTS = "tests"


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What was found in one file; `name` is empty where it cannot be told."""

    path: str
    kind: str
    name: str
    complaints: tuple[str, ...]


def check(paths: Sequence[Path]) -> list[Report]:
    """Return a report for each file; of a folder, of every `*.yaml` in it and in its folder `tests`. Blocks."""
    vocabulary = words.shipped()
    checker = _Checker(vocabulary, library.load(vocabulary))
    reports = [checker.file(file) for path in paths for file in _files(path)]
    return checker.with_links(reports)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    tests = path / TESTS
    return [*library.find_files(path), *(library.find_files(tests) if tests.is_dir() else ())]


class _Checker:
    """The files checked so far; what a set of runbooks must agree on is known at its end."""

    def __init__(self, vocabulary: checks.Vocabulary, shipped: library.Library) -> None:
        self._words = vocabulary
        self._shipped = shipped.runbooks
        self._own: dict[str, library.Runbook] = {}

    def file(self, file: Path) -> Report:
        """Check one file by itself."""
        try:
            text = library.read_text(file)
            document = strictyaml.read(text, source=str(file), with_columns=True)
        except errors.InvalidInputError as error:
            return Report(str(file), "file", "", (str(error),))
        if isinstance(document.value, dict) and document.value.get("kind") == files.KIND:
            return Report(str(file), files.KIND, _name(document), tuple(map(str, self._test(document, file))))
        complaints = tuple(map(str, self._runbook(document, text, file)))
        return Report(str(file), "Runbook", _name(document), complaints)

    def _test(self, document: strictyaml.Document, file: Path) -> Iterator[errors.InvalidInputError]:
        complaints = strictyaml.complaints(models.TestDocument, document)
        yield from complaints
        if not complaints:
            try:
                files.parse(document, self._words.signals, folder=file.parent)
            except errors.InvalidInputError as error:
                yield error

    def _runbook(self, document: strictyaml.Document, text: str, file: Path) -> Iterator[errors.InvalidInputError]:
        complaints = strictyaml.complaints(language.RunbookDocument, document)
        yield from complaints
        if complaints:
            return
        parsed = strictyaml.check(language.RunbookDocument, document)
        yield from checks.complaints(parsed, document, self._words)
        book = library.make(parsed, document, text)
        if file.resolve().parent == library.SHIPPED.resolve():
            return
        try:
            library.check_name(book, is_override=parsed.metadata.override, shipped=self._shipped, own=self._own)
        except errors.InvalidInputError as error:
            yield error
        else:
            self._own[book.name] = book

    def with_links(self, reports: Sequence[Report]) -> list[Report]:
        """Return the reports with what is wrong between the runbooks."""
        books = {**self._shipped, **self._own}
        found = list(links.complaints(books, self._words.actions, with_columns=True))
        return [
            dataclasses.replace(
                report,
                complaints=(*report.complaints, *(str(one) for one in found if _is_about(one, report))),
            )
            for report in reports
        ]


def _is_about(error: errors.InvalidInputError, report: Report) -> bool:
    return error.place == report.path or error.place.startswith(f"{report.path}:")


def _name(document: strictyaml.Document) -> str:
    """Return what a document calls itself, valid or not."""
    value = document.value
    metadata = value.get("metadata") if isinstance(value, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""
