"""The engine under test, stepped by hand on a fake clock and a real SQLite file."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from controlplane.runs import engine
from controlplane.store import house
from tests.support import runs as support
from tests.support import store as stores
from tests.support.clock import FakeClock


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[house.House]:
    with stores.opened(tmp_path, clock) as opened:
        yield opened


@pytest.fixture
def stage() -> support.Stage:
    return support.Stage()


@pytest.fixture
def note() -> support.NotingAction:
    return support.NotingAction()


@pytest.fixture
async def driven(
    store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> AsyncIterator[engine.RunEngine]:
    engine_ = support.make_engine(store, clock, stage, {"note": note})
    await engine_._member.join()
    yield engine_
    await engine_.stop()
