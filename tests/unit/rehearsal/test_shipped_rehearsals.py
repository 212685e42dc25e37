"""Every runbook we ship does what its own tests promise, on the real planner, engine, verifier and conditions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.rehearsal import files, jumping, play, rehearse, stores, words
from controlplane.runs.language import checks, library

TESTS = sorted(rehearse.SHIPPED.glob("*.yaml"))


@pytest.fixture(scope="module")
def vocabulary() -> checks.Vocabulary:
    return words.shipped()


@pytest.fixture(scope="module")
def theatre(vocabulary: checks.Vocabulary) -> Iterator[play.Theatre]:
    clock = jumping.JumpingClock()
    with stores.opened(clock) as store:
        yield play.Theatre(library.load(vocabulary), vocabulary, store, clock)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
async def test_a_shipped_runbook_does_what_its_tests_promise(
    path: Path, theatre: play.Theatre, vocabulary: checks.Vocabulary
) -> None:
    """On failure the difference is shown with the log of the run."""
    tests = files.read(path, vocabulary.signals)
    assert (tests.name, tests.runbook) == (path.stem, path.stem)
    for case in tests.cases:
        result = await rehearse.rehearse_case(theatre, tests, case)
        assert result.is_good, "\n".join([case.name, *result.differences, *result.log])


def test_every_shipped_runbook_has_tests() -> None:
    """Beside the library, under the same name."""
    assert [path.name for path in TESTS] == sorted(path.name for path in library.SHIPPED.glob("*.yaml"))
