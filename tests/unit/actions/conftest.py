"""The fixture that tests of actions share."""

from collections.abc import AsyncGenerator

import pytest

from tests.support import action_house
from tests.support.clock import FakeClock


@pytest.fixture
async def house(clock: FakeClock) -> AsyncGenerator[action_house.House]:
    async with action_house.running(clock) as running:
        yield running
