"""Servers that the integration tests share: each is started once, when the first test asks for it."""

from collections.abc import Iterator

import pytest

from benchmarks import postgres
from tests.support import postgres as support


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    with support.served() as server:
        yield server
