"""Rehearses test files: finds them and the runbooks they are about, plays every case, and says how each went.

Called by `dsctl runbooks test` and by our own tests. Blocks; everything it writes is a database in a temporary folder,
which is gone at the end.
"""

import asyncio
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from controlplane.domain import errors
from controlplane.rehearsal import files, judging, jumping, play, stores, words
from controlplane.runs.language import checks, library

SHIPPED = library.SHIPPED / "tests"
# Where tests of runbooks stand: in a folder of this name beside them.
_FOLDER = "tests"


@dataclass(frozen=True, slots=True)
class Result:
    """How one case went. `seconds` are those of the run's own clock."""

    file: str
    name: str
    differences: tuple[str, ...]
    seconds: float
    log: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """True when everything went as expected."""
        return not self.differences


def find(paths: Sequence[Path]) -> list[Path]:
    """Return the test files that are meant: files as named, and of a folder all `*.yaml`. Raises InvalidInputError."""
    return [found for path in paths for found in (library.find_files(path) if path.is_dir() else [path])]


def rehearse(paths: Sequence[Path], *, runbooks: Path | None = None) -> list[Result]:
    """Play every case of every file.

    `runbooks` is the folder of the user's runbooks; None takes the one around a test's folder when that is called
    `tests`. Raises InvalidInputError for the first file or runbook that cannot be read.
    """
    vocabulary, clock = words.shipped(), jumping.JumpingClock()
    parsed = [(path, files.read(path, vocabulary.signals)) for path in find(paths)]
    with stores.opened(clock) as store:
        return asyncio.run(_play_all(parsed, runbooks, vocabulary, store, clock))


async def _play_all(
    parsed: Sequence[tuple[Path, files.TestFile]],
    runbooks: Path | None,
    vocabulary: checks.Vocabulary,
    store: stores.Store,
    clock: jumping.JumpingClock,
) -> list[Result]:
    @functools.cache
    def load(folder: Path | None) -> library.Library:
        return library.load(vocabulary, user=folder)

    results: list[Result] = []
    for path, tests in parsed:
        books = load(runbooks or beside(path))
        theatre = play.Theatre(books, vocabulary, store, clock)
        results += [await rehearse_case(theatre, tests, case) for case in tests.cases]
    return results


def beside(test: Path) -> Path | None:
    """Return the folder of the runbooks that a test file is about; None where only shipped ones can be meant."""
    folder = test.resolve().parent
    is_tests = folder.name == _FOLDER and folder.parent != library.SHIPPED.resolve()
    return folder.parent if is_tests else None


async def rehearse_case(theatre: play.Theatre, tests: files.TestFile, case: files.Case) -> Result:
    """Play one case and compare; a runbook that is not there is a difference, too."""
    try:
        played = await theatre.play(case)
    except errors.NotFoundError as error:
        return Result(tests.path, case.name, (str(error),), 0.0, ())
    differences = tuple(judging.differences(case, played))
    return Result(tests.path, case.name, differences, played.seconds, tuple(_log(played)))


def _log(played: play.Played) -> Iterator[str]:
    """Yield the run's log, with times from its start."""
    for event in played.events:
        passed = (event.at - played.events[0].at).total_seconds()
        said = event.data.get("sentence") or event.data.get("error") or ""
        yield f"+{passed:>7.0f} s  {event.kind:<15}  {event.step}  {said}".rstrip()
