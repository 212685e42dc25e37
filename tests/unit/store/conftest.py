"""The store under test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.store import house
from tests.support import store as support
from tests.support.clock import FakeClock


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[house.House]:
    with support.opened(tmp_path, clock) as opened:
        yield opened
