"""Fixtures every test may use."""

import pytest

from tests.support.clock import FakeClock


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as the product does."""
    return "asyncio"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
