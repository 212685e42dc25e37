"""Reads YAML that people write: services, profiles, policies, runbooks, stories, settings.

Called by every room that loads such a file. Stricter than YAML on purpose, because what it reads decides what
is done to a fleet: a key given twice, an anchor, a tag, a second document, a number that is not finite and
nesting beyond reason are refused with the file and the line. Scalars follow YAML 1.2 (`yes` and `on` are text,
`010` is ten, `1:30` is text), so that the result is plain JSON. Never reads files itself. Pure functions.
"""

import difflib
import math
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

import pydantic
import pydantic_core
import yaml

from controlplane.domain import errors, outcomes

# The longest runbook we ship has 3,000 characters. The parser reads about 200,000 a second, so that a hostile
# document costs its reader two seconds at most.
MAX_CHARACTERS = 262_144
# Runbooks nest seven deep; far below the interpreter's recursion limit.
MAX_DEPTH = 40

# A place inside a document: ("services", 0, "name").
Path = tuple[str | int, ...]

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_Model = TypeVar("_Model", bound=pydantic.BaseModel)


@dataclass(frozen=True, slots=True)
class Document:
    """A document as plain JSON, and the line on which each part of it begins; the column, where asked for."""

    value: outcomes.Json
    source: str
    lines: Mapping[Path, int] = field(default_factory=dict[Path, int])
    columns: Mapping[Path, int] = field(default_factory=dict[Path, int])

    def place(self, path: Path) -> str:
        """Return `file:line` of `path`, or of the nearest part around it that exists; with columns `file:line:column`."""
        while path and path not in self.lines:
            path = path[:-1]
        line = f"{self.source}:{self.lines.get(path, 1)}"
        return f"{line}:{self.columns.get(path, 1)}" if self.columns else line


def load(text: str, *, source: str) -> outcomes.Json:
    r"""Return the one document in `text` as plain JSON (None when it is empty).

    `source` is the name people know the text by, usually its path. Raises InvalidInputError, whose place is
    `source:line`.

    >>> load("a: 1\na: 2", source="policy.yaml")
    Traceback (most recent call last):
    ...
    controlplane.domain.errors.InvalidInputError: policy.yaml:2: key 'a' is given twice; the first is on line 1
    """
    return read(text, source=source).value


def parse(model: type[_Model], text: str, *, source: str) -> _Model:
    """Return the document in `text` as an instance of a pydantic model.

    Raises InvalidInputError with `source:line` and the path of the first part that does not fit; an unknown
    field is answered with the nearest known one.
    """
    return check(model, read(text, source=source))


def read(text: str, *, source: str, with_columns: bool = False) -> Document:
    """Return the one document in `text` together with its line numbers; raises InvalidInputError.

    `with_columns` is for editors and their like: places, also those in errors, then are `file:line:column`.
    """
    if len(text) > MAX_CHARACTERS:
        raise errors.InvalidInputError(f"has {len(text)} characters, at most {MAX_CHARACTERS} are read", place=source)
    reader = _Reader(text, source, with_columns=with_columns)
    try:
        value = reader.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1 if mark else 1}"
        if with_columns:
            place += f":{mark.column + 1 if mark else 1}"
        raise errors.InvalidInputError(f"not YAML: {error.problem}", place=place) from error
    except yaml.YAMLError as error:
        raise errors.InvalidInputError(f"not YAML: {error}", place=source) from error
    return Document(value, source, reader.lines, reader.columns)


def check(model: type[_Model], document: Document) -> _Model:
    """Return a document that was read before as an instance of a pydantic model; raises InvalidInputError."""
    try:
        return model.model_validate(document.value)
    except pydantic.ValidationError as error:
        raise _refusal(model, document, error) from error


def complaints(model: type[pydantic.BaseModel], document: Document) -> list[errors.InvalidInputError]:
    """Return everything that keeps a document from being an instance of a model, for whoever writes it."""
    try:
        model.model_validate(document.value)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        return [_spell(model, document, one, "") for one in found if not _is_aftermath(one, found)]
    return []


def _is_aftermath(one: pydantic_core.ErrorDetails, found: list[pydantic_core.ErrorDetails]) -> bool:
    """Say whether a list is called too short only because its items were refused."""
    path = one["loc"]
    return one["type"] == "too_short" and any(other["loc"][: len(path)] == path for other in found if other is not one)


def _refusal(
    model: type[pydantic.BaseModel], document: Document, error: pydantic.ValidationError
) -> errors.InvalidInputError:
    """Say the first complaint of pydantic in terms of the file; the others mostly follow from it."""
    first, *others = error.errors(include_url=False, include_input=False, include_context=False)
    return _spell(model, document, first, f" (and {len(others)} more)" if others else "")


def _spell(
    model: type[pydantic.BaseModel], document: Document, complaint: pydantic_core.ErrorDetails, rest: str
) -> errors.InvalidInputError:
    path = complaint["loc"]
    spoken = dotted(path)
    if complaint["type"] == "extra_forbidden":
        text = f"unknown field {path[-1]!r}{suggest(str(path[-1]), _fields(model, path[:-1]))}"
        spoken = dotted(path[:-1])
    elif complaint["type"] == "missing":
        text = f"field {path[-1]!r} is missing"
        spoken = dotted(path[:-1])
    elif complaint["type"] == "model_type":  # pydantic names the Python class
        text = "expects a mapping of fields"
    else:
        text = complaint["msg"].removeprefix("Value error, ")
    return errors.InvalidInputError(
        f"{spoken}: {text}{rest}" if spoken else f"{text}{rest}", place=document.place(path)
    )


def dotted(path: Path) -> str:
    """Return a path as people write it.

    >>> dotted(("services", 0, "pools", 1, "min"))
    'services[0].pools[1].min'
    """
    spoken = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return spoken.removeprefix(".")


def suggest(wrong: str, known: Iterator[str] | list[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known word, else the known words, else nothing.

    >>> suggest("selectr", ["name", "selector"])
    "; did you mean 'selector'?"
    """
    words = sorted(known)
    near = difflib.get_close_matches(wrong, words, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known are {', '.join(words)}" if words else ""


def _fields(model: type[pydantic.BaseModel], path: Path) -> list[str]:
    """Return the field names of the model that sits at `path` below `model`, or none when it cannot be told."""
    here: list[type[pydantic.BaseModel]] = [model]
    for part in path:
        if isinstance(part, int):
            continue
        here = [found for one in here for found in _models_of(one, part)]
    return [info.alias or name for one in here for name, info in one.model_fields.items()]


def _models_of(model: type[pydantic.BaseModel], name: str) -> list[type[pydantic.BaseModel]]:
    for field_name, info in model.model_fields.items():
        if name in {field_name, info.alias}:
            return list(_models_in(info.annotation))
    return []


def _models_in(annotation: object) -> Iterator[type[pydantic.BaseModel]]:
    """Yield the models inside an annotation such as `list[Pool] | None`."""
    if isinstance(annotation, type) and issubclass(cast("type[object]", annotation), pydantic.BaseModel):
        yield cast("type[pydantic.BaseModel]", annotation)
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


class _Reader:
    """Builds plain JSON out of the parser's events, one after the other, so that every node knows its line."""

    def __init__(self, text: str, source: str, *, with_columns: bool) -> None:
        self._source = source
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        self._with_columns = with_columns
        self.lines: dict[Path, int] = {}
        self.columns: dict[Path, int] = {}

    def document(self) -> outcomes.Json:
        """Return the only document."""
        next(self._events)  # the stream starts
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._node(next(self._events), ())
        next(self._events)  # the document ends
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._refuse(after, "a second document begins here; put it in a file of its own")
        return value

    def _node(self, event: yaml.Event, path: Path) -> outcomes.Json:
        self._check(event, path)
        self._note(path, event)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        raise self._refuse(event, "unexpected content")

    def _note(self, path: Path, event: yaml.Event) -> None:
        """Remember where a part begins: at its key, where it has one."""
        self.lines.setdefault(path, _line(event))
        if self._with_columns:
            self.columns.setdefault(path, _column(event))

    def _check(self, event: yaml.Event, path: Path) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._refuse(event, "anchors and aliases (& and *) are not accepted; write the value out")
        if getattr(event, "tag", None) is not None:
            raise self._refuse(event, "tags (!) are not accepted; write the plain value")
        if len(path) > MAX_DEPTH:
            raise self._refuse(event, f"nested deeper than {MAX_DEPTH} levels")

    def _mapping(self, path: Path) -> dict[str, outcomes.Json]:
        found: dict[str, outcomes.Json] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, path)
            if key in found:
                raise self._refuse(event, f"key {key!r} is given twice; the first is on line {self.lines[*path, key]}")
            self._note((*path, key), event)
            found[key] = self._node(next(self._events), (*path, key))
        return found

    def _key(self, event: yaml.Event, path: Path) -> str:
        self._check(event, path)
        if not isinstance(event, yaml.ScalarEvent):
            raise self._refuse(event, "a key must be text")
        return str(event.value)

    def _sequence(self, path: Path) -> list[outcomes.Json]:
        found: list[outcomes.Json] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            found.append(self._node(event, (*path, len(found))))
        return found

    def _scalar(self, event: yaml.ScalarEvent) -> outcomes.Json:
        text = str(event.value)
        if event.style is not None:  # quoted or a block: text, whatever it looks like
            return text
        if text in _NULL:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        return self._number(event, text) if _NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text) else text

    def _number(self, event: yaml.ScalarEvent, text: str) -> float:
        number = math.inf if _NOT_FINITE.fullmatch(text) else float(text)
        if not math.isfinite(number):
            raise self._refuse(event, f"{text} is not a finite number; quote it if it is text")
        return number

    def _refuse(self, event: yaml.Event, message: str) -> errors.InvalidInputError:
        place = f"{self._source}:{_line(event)}"
        return errors.InvalidInputError(message, place=f"{place}:{_column(event)}" if self._with_columns else place)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _column(event: yaml.Event) -> int:
    return event.start_mark.column + 1 if event.start_mark else 1
