"""Fixtures every test may use."""

import os

import hypothesis
import pytest

from tests.support.clock import FakeClock

# Few examples for each commit, many where there is time: HYPOTHESIS_PROFILE=long.
hypothesis.settings.register_profile("quick", max_examples=50, deadline=None)
hypothesis.settings.register_profile("long", max_examples=1000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as the product does."""
    return "asyncio"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
