"""The runbooks of this installation: those shipped, and those of a directory of the user's.

Called by `wiring` at start and on reload. A set is accepted whole or refused whole, so that nothing runs on half
a library. A runbook of the user's replaces a shipped one of the same name only when it says so. Reads files,
never writes; a loaded library never changes, so threads and tasks may share it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane import strictyaml
from controlplane.domain import errors, outcomes
from controlplane.runs.language import checks, links, models

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
        check_name(book, is_override=is_override, shipped=found, own=own)
        own[book.name] = book
    library = Library({**found, **own})
    links.check(library.runbooks, words.actions)
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
    for file in find_files(directory):
        yield _parse(read_text(file), str(file), words, is_shipped=is_shipped)


def find_files(directory: Path) -> list[Path]:
    """Return the files of a directory that are runbooks, sorted; raises InvalidInputError."""
    if not directory.is_dir():
        raise errors.InvalidInputError(
            "is not a directory of runbooks; create it or correct the setting", place=str(directory)
        )
    found = sorted(directory.glob("*.yaml"))
    if len(found) > _MAX_FILES:
        raise errors.InvalidInputError(f"holds {len(found)} runbooks; at most {_MAX_FILES}", place=str(directory))
    return found


def read_text(file: Path) -> str:
    """Return what stands in a file; raises InvalidInputError when it is too much, or no text."""
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
    return make(parsed, document, text, is_shipped=is_shipped), parsed.metadata.override


def make(
    parsed: models.RunbookDocument, document: strictyaml.Document, text: str, *, is_shipped: bool = False
) -> Runbook:
    """Return the runbook of a document that was checked."""
    meta = parsed.metadata
    return Runbook(meta.name, meta.summary, parsed.spec, digest(document.value), text, document.source, is_shipped)


def check_name(book: Runbook, *, is_override: bool, shipped: Mapping[str, Runbook], own: Mapping[str, Runbook]) -> None:
    """Refuse a second runbook of a name, unless it says that it replaces a shipped one."""
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
