"""The runbooks of this installation: those shipped, and those of a directory of the user's.

Called by `wiring` at start and on reload. A set is accepted whole or refused whole, so that nothing runs on half
a library. A runbook of the user's replaces a shipped one of the same name only when it says so. Reads files,
never writes; a loaded library never changes, so threads and tasks may share it.
"""

import graphlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from controlplane import strictyaml
from controlplane.domain import errors, outcomes
from controlplane.runs.language import checks, models

SHIPPED = Path(__file__).parent.parent / "library"

# Four bytes a character at most, so that nothing longer than strictyaml accepts is read into memory.
_MAX_FILE_BYTES = 4 * strictyaml.MAX_CHARACTERS
_MAX_FILES = 1000


@dataclass(frozen=True, slots=True)
class Runbook:
    """A runbook that passed every check. `digest` covers what it says, not how it is laid out or commented."""

    name: str
    summary: str
    spec: models.Spec
    digest: str
    source: str
    path: str
    is_shipped: bool


@dataclass(frozen=True, slots=True)
class Library:
    """Runbooks by name."""

    runbooks: Mapping[str, Runbook]

    def get(self, name: str) -> Runbook:
        """Return a runbook; raises NotFoundError that names near ones."""
        found = self.runbooks.get(name)
        if found is None:
            raise errors.NotFoundError(f"no runbook is named {name!r}{strictyaml.suggest(name, list(self.runbooks))}")
        return found


def load(words: checks.Vocabulary, *, user: Path | None = None, shipped: Path = SHIPPED) -> Library:
    """Read and check every `*.yaml` of both directories; blocks. Raises InvalidInputError and keeps nothing then."""
    found = {book.name: book for book, _ in _read(shipped, words, is_shipped=True)}
    own: dict[str, Runbook] = {}
    for book, is_override in _read(user, words, is_shipped=False) if user else ():
        _check_name(book, is_override=is_override, shipped=found, own=own)
        own[book.name] = book
    library = Library({**found, **own})
    _check_edges(library)
    return library


def parse(text: str, *, source: str, words: checks.Vocabulary) -> Runbook:
    """Return one runbook, checked except for the runbooks it names; raises InvalidInputError."""
    return _parse(text, source, words, is_shipped=False)[0]


def digest(content: outcomes.Json) -> str:
    """Return the SHA-256 of JSON in canonical form: keys sorted, no white space.

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _read(directory: Path, words: checks.Vocabulary, *, is_shipped: bool) -> Iterator[tuple[Runbook, bool]]:
    if not directory.is_dir():
        raise errors.InvalidInputError(
            "is not a directory of runbooks; create it or correct the setting", place=str(directory)
        )
    files = sorted(directory.glob("*.yaml"))
    if len(files) > _MAX_FILES:
        raise errors.InvalidInputError(f"holds {len(files)} runbooks; at most {_MAX_FILES}", place=str(directory))
    for file in files:
        yield _parse(_text(file), str(file), words, is_shipped=is_shipped)


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise errors.InvalidInputError(f"cannot be read: {error.strerror}", place=str(file)) from error
    if len(content) > _MAX_FILE_BYTES:
        raise errors.InvalidInputError(f"is larger than {_MAX_FILE_BYTES} bytes", place=str(file))
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.InvalidInputError(f"is not UTF-8 text: {error.reason}", place=str(file)) from error


def _parse(text: str, source: str, words: checks.Vocabulary, *, is_shipped: bool) -> tuple[Runbook, bool]:
    document = strictyaml.read(text, source=source)
    parsed = strictyaml.check(models.RunbookDocument, document)
    checks.check(parsed, document, words)
    meta = parsed.metadata
    book = Runbook(meta.name, meta.summary, parsed.spec, digest(document.value), text, source, is_shipped)
    return book, meta.override


def _check_name(
    book: Runbook, *, is_override: bool, shipped: Mapping[str, Runbook], own: Mapping[str, Runbook]
) -> None:
    if book.name in own:
        raise errors.InvalidInputError(
            f"runbook {book.name!r} stands in {own[book.name].path} already", place=book.path
        )
    if book.name in shipped and not is_override:
        raise errors.InvalidInputError(
            f"runbook {book.name!r} is shipped; write `override: true` under metadata to replace it, or rename yours",
            place=book.path,
        )
    if is_override and book.name not in shipped:
        near = strictyaml.suggest(book.name, list(shipped))
        raise errors.InvalidInputError(f"overrides {book.name!r}, which is not shipped{near}", place=book.path)


def _check_edges(library: Library) -> None:
    """Refuse follow-up runbooks that are not there, and circles of them: remediation would never end."""
    follow_ups = {book.name: _follow_ups(book, library) for book in library.runbooks.values()}
    try:
        graphlib.TopologicalSorter(follow_ups).prepare()
    except graphlib.CycleError as error:
        circle = cast("list[str]", error.args[1])[::-1]
        raise errors.InvalidInputError(
            f"spec.on_failure: runbooks run each other in a circle: {' -> '.join(circle)}",
            place=library.runbooks[circle[0]].path,
        ) from error


def _follow_ups(book: Runbook, library: Library) -> list[str]:
    named = [("spec.on_failure", edge.run) for edge in book.spec.on_failure if edge.run is not None]
    for number, step in enumerate(book.spec.steps):
        named += [(f"spec.steps[{number}].on_failure", edge.run) for edge in step.on_failure or () if edge.run]
    for place, name in named:
        if name not in library.runbooks:
            near = strictyaml.suggest(name, list(library.runbooks))
            raise errors.InvalidInputError(f"{place}: no runbook is named {name!r}{near}", place=book.path)
    return [name for _, name in named]
