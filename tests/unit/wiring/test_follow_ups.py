"""Follow-ups of failed runs: through the one door, and once."""

import pytest

from controlplane.domain import errors
from controlplane.wiring import rooms
from tests.support import builders as b
from tests.support.clock import FakeClock
from tests.support.loop import Loop


@pytest.fixture
def loop(clock: FakeClock) -> Loop:
    made = Loop(clock)
    made.incidents.incidents["inc_1"] = b.incident()
    made.alerts.fire(b.alert())
    return made


async def test_a_follow_up_that_was_stored_before_a_crash_is_found_and_not_refused(loop: Loop) -> None:
    """Asked again it is the same run, though by now the guard finds one in flight: the log must not say refused."""
    failed = b.plan()
    first = await rooms._follow_up(loop.remediator, loop.runs, failed, "restart-node", "run_1:follow-up:1")
    again = await rooms._follow_up(loop.remediator, loop.runs, failed, "restart-node", "run_1:follow-up:1")
    assert first == again
    assert len(loop.runs.runs) == 1
    assert loop.run.plan.request.is_follow_up


async def test_a_follow_up_passes_the_guard_like_everything_else(loop: Loop) -> None:
    """A held brake stops it, with the guard's sentence."""
    loop.automation.brakes["ada"] = "release"
    with pytest.raises(errors.GiveUpError, match="automation is paused"):
        await rooms._follow_up(loop.remediator, loop.runs, b.plan(), "restart-node", "run_1:follow-up:1")
    assert loop.runs.runs == {}
