"""A daily peak that only the past and the calendar know of: the real fit, the gate and the plan, before its minute."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.domain import capacity, forecasts, services, windows
from controlplane.engine import provision
from detectors import forecast as forecasting
from tests.support import builders as b
from tests.support import fakes
from tests.support.clock import FakeClock

# Prophet uses what a later pandas will not know any more; in the product it runs in a process of its own.
PANDAS = pytest.mark.filterwarnings("ignore:The inplace keyword")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(180), PANDAS]

STEP, DAYS = 60, 4
PEAK = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
OPENING = services.CalendarEvent("market-open", (9 * 60 + 30) * 60, 1200.0)
RULES = services.CapacityRules(requests_per_second_per_node=11.0, headroom_ratio=0.15, cold_start_seconds=60.0)
CHAT = b.service(pools=(services.Pool("hot", "local", 3, 6),), capacity=RULES, events=(OPENING,))


def rate_at(time: float) -> float:
    """Ten requests a second, forty for twenty minutes from half past nine on, and noise."""
    since = (time - PEAK.timestamp()) % 86_400
    noise = random.Random(int(time) // STEP).gauss(0, 0.05)  # noqa: S311 - the same minute is always the same
    return (40.0 if since < 1200 else 10.0) * (1 + noise)


class Past:
    """Arrivals by minutes, read at any time up to it; and a fleet of three nodes; fits are real."""

    async def history(self, service: str, start: datetime, end: datetime, step_seconds: int) -> windows.Series:
        first, last = int(start.timestamp()) // STEP * STEP + STEP, int(end.timestamp()) // STEP * STEP
        times = tuple(float(time) for time in range(first, last, STEP))
        return windows.Series(times, tuple(rate_at(time) for time in times))

    async def standing(self, service: str) -> Mapping[str, capacity.PoolStanding]:
        return {"hot": capacity.PoolStanding("hot", ("node-1", "node-2", "node-3"), 6)}

    async def fit(self, request: forecasting.FitRequest) -> forecasting.Fitted | forecasts.NoForecast:
        return await asyncio.to_thread(forecasting.fit, request)


async def outlook(before_peak: timedelta) -> capacity.Outlook:
    """Return what is foretold and planned so long before the peak, while ten requests a second arrive."""
    clock = FakeClock(PEAK - timedelta(minutes=10))
    past = Past()
    sources = provision.Sources(fakes.FakeSignalReader(clock), past, past, fakes.FakeRunStore(), past)
    pace = provision.Pace(STEP, 1800.0, DAYS * 86_400.0, 3600.0)
    made = provision.Provisioner(sources, {"chat": CHAT}, pace, clock)
    (said,) = await made.refit()
    assert "fitted on" in said, said
    clock.move((PEAK - before_peak - clock.now()).total_seconds())
    nodes = [b.node(name, in_service=1.0) for name in ("node-1", "node-2", "node-3")]
    quiet = {"request_rate": 10.0, "queue_depth": 0.0, "gateway_queue_depth": 0.0}
    view = replace(b.view(*nodes, signals=quiet), at=clock.now())
    problems: list[str] = []
    found = await made.look(view, clock.now(), problems)
    assert problems == []
    return found["chat"]


async def test_nodes_are_asked_for_one_cold_start_before_the_peak_and_not_earlier() -> None:
    """A minute ahead the plan grows because of the forecast alone; five minutes ahead it does not yet."""
    early, late = await outlook(timedelta(minutes=5)), await outlook(timedelta(seconds=55))
    assert isinstance(early.plan, capacity.CapacityPlan)
    assert isinstance(late.plan, capacity.CapacityPlan)
    assert late.plan.gate.is_open, late.plan.gate.sentence
    assert (early.plan.desired, late.plan.reactive) == (3, 3), (early.plan.sentence, late.plan.sentence)
    assert late.plan.is_predicted
    assert late.plan.desired >= 5, late.plan.sentence
