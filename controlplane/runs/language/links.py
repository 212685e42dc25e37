"""What runbooks say about each other: which they run after a failure, and whose steps they include.

Called by `library` once every runbook of a set has passed `checks`. Refuses names that are not there, follow-ups that
would never end, and includes that could only fail at planning. Pure.
"""

import graphlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, cast

from actions import api
from controlplane import strictyaml
from controlplane.domain import errors
from controlplane.runs.language import models, schemas

# Between the name of an including step and those of the steps it includes; no name that people write holds it.
DOT = "."


class Book(Protocol):
    """A runbook that was read; `library.Runbook` is one."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def spec(self) -> models.Spec:
        """What it says."""
        ...

    @property
    def source(self) -> str:
        """Its text."""
        ...

    @property
    def path(self) -> str:
        """Where the text came from."""
        ...


def included_by(spec: models.Spec) -> models.Step | None:
    """Return the step of a runbook that includes another one."""
    return spec.steps[-1] if spec.steps[-1].include is not None else None


def check(books: Mapping[str, Book], actions: Mapping[str, api.Action]) -> None:
    """Raise InvalidInputError, with file, line and path, for the first link that leads nowhere or in a circle."""
    for complaint in complaints(books, actions):
        raise complaint


def complaints(
    books: Mapping[str, Book], actions: Mapping[str, api.Action], *, with_columns: bool = False
) -> Iterator[errors.InvalidInputError]:
    """Yield what is wrong between runbooks; circles only where every name leads somewhere."""
    checker = _Checker(books, actions, with_columns=with_columns)
    found = [complaint for book in books.values() for complaint in checker.links(book)]
    yield from found
    if not found:
        yield from checker.circles()


class _Checker:
    """A set of runbooks being checked."""

    def __init__(
        self, books: Mapping[str, Book], actions: Mapping[str, api.Action], *, with_columns: bool = False
    ) -> None:
        self._books = books
        self._actions = actions
        self._with_columns = with_columns

    def links(self, book: Book) -> Iterator[errors.InvalidInputError]:
        for path, name in _follow_ups(book.spec):
            if name not in self._books:
                yield self._unknown(book, path, name)
        step = included_by(book.spec)
        if step is not None:
            yield from self._include(book, step, ("spec", "steps", len(book.spec.steps) - 1))

    def _unknown(self, book: Book, path: strictyaml.Path, name: str) -> errors.InvalidInputError:
        near = strictyaml.suggest(name, list(self._books))
        return self._refuse(book, path, f"no runbook is named {name!r}{near}")

    def _include(self, book: Book, step: models.Step, place: strictyaml.Path) -> Iterator[errors.InvalidInputError]:
        other = self._books.get(step.include or "")
        if other is None:
            yield self._unknown(book, (*place, "include"), step.include or "")
            return
        if included_by(other.spec) is not None:
            said = "itself" if other is book else f"{other.name}, which includes another one"
            yield self._refuse(book, (*place, "include"), f"{book.name} includes {said}; includes go one level deep")
            return
        if other.spec.lane is not book.spec.lane:
            lanes = f"{other.name} works on lane {other.spec.lane}, {book.name} on {book.spec.lane}"
            yield self._refuse(book, (*place, "include"), f"{lanes}; a run has one lane")
        yield from self._inputs(book, step, other, (*place, "with"))
        yield from self._undos(book, step, other)

    def _inputs(
        self, book: Book, step: models.Step, other: Book, place: strictyaml.Path
    ) -> Iterator[errors.InvalidInputError]:
        declared = other.spec.inputs
        for name, value in step.params.items():
            if name not in declared:
                near = strictyaml.suggest(name, list(declared))
                yield self._refuse(book, (*place, name), f"runbook {other.name} has no input {name!r}{near}")
            elif not schemas.has_template(value):
                try:
                    declared[name].check(value)
                except ValueError as error:
                    yield self._refuse(book, (*place, name), str(error))
        # A node may be the run's, whether or not the including runbook has an input for it.
        missing = [n for n, one in declared.items() if one.is_required and one.type not in {"service", "node"}]
        for name in missing:
            if name not in step.params:
                yield self._refuse(book, place, f"runbook {other.name} needs the input {name!r}")

    def _undos(self, book: Book, step: models.Step, other: Book) -> Iterator[errors.InvalidInputError]:
        """Refuse undo edges into the included runbook that lead to nothing, or to what cannot be undone."""
        steps = {f"{step.name}{DOT}{one.name}": one for one in other.spec.steps}
        for path, name in _undos(book.spec):
            if not name.startswith(f"{step.name}{DOT}"):
                continue
            found = steps.get(name)
            if found is None:
                yield self._refuse(book, path, f"no step is named {name!r}{strictyaml.suggest(name, list(steps))}")
            elif found.action is None or not self._can_undo(found.action):
                yield self._refuse(book, path, f"step {name!r} cannot be undone")

    def _can_undo(self, name: str) -> bool:
        action = self._actions.get(name)
        return action is not None and action.spec.is_reversible

    def circles(self) -> Iterator[errors.InvalidInputError]:
        """Refuse runbooks that run each other in a circle: remediation would never end."""
        follow_ups = {book.name: self._all_follow_ups(book) for book in self._books.values()}
        try:
            graphlib.TopologicalSorter(follow_ups).prepare()
        except graphlib.CycleError as error:
            circle = cast("list[str]", error.args[1])[::-1]
            yield errors.InvalidInputError(
                f"spec.on_failure: runbooks run each other in a circle: {' -> '.join(circle)}",
                place=self._books[circle[0]].path,
            )

    def _all_follow_ups(self, book: Book) -> list[str]:
        """Return what a runbook may run: as it says itself, and as the steps say that it includes."""
        own = [name for _, name in _follow_ups(book.spec)]
        step = included_by(book.spec)
        if step is None:
            return own
        return own + [name for path, name in _follow_ups(self._books[step.include or ""].spec) if "steps" in path]

    def _refuse(self, book: Book, path: strictyaml.Path, message: str) -> errors.InvalidInputError:
        document = strictyaml.read(book.source, source=book.path, with_columns=self._with_columns)
        return errors.InvalidInputError(f"{strictyaml.dotted(path)}: {message}", place=document.place(path))


_Edges = Sequence[models.FailureEdge]


def _edges(spec: models.Spec) -> Iterator[tuple[strictyaml.Path, models.FailureEdge]]:
    """Yield every failure edge of a runbook with its place."""
    ladders: list[tuple[strictyaml.Path, _Edges]] = [(("spec", "on_failure"), spec.on_failure)]
    for number, step in enumerate(spec.steps):
        ladders.append((("spec", "steps", number, "on_failure"), step.on_failure or ()))
    for place, edges in ladders:
        yield from (((*place, number), edge) for number, edge in enumerate(edges))


def _follow_ups(spec: models.Spec) -> list[tuple[strictyaml.Path, str]]:
    return [((*path, "run"), edge.run) for path, edge in _edges(spec) if edge.run is not None]


def _undos(spec: models.Spec) -> list[tuple[strictyaml.Path, str]]:
    return [((*path, "undo"), edge.undo) for path, edge in _edges(spec) if edge.undo is not None]
