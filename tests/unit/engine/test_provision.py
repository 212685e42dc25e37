"""Outlooks: forecasts kept fitted, the plan made from what is seen, and what goes wrong named."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest

from controlplane.domain import capacity, errors, forecasts, outcomes, runs, services, windows
from controlplane.engine import provision
from detectors import forecast as forecasting
from tests.support import builders as b
from tests.support import fakes
from tests.support.clock import FakeClock

POOLS = (services.Pool("hot", "local", 2, 4),)
RULES = services.CapacityRules(requests_per_second_per_node=10.0, headroom_ratio=0.0, cold_start_seconds=120.0)
CHAT = b.service(pools=POOLS, capacity=RULES)
PACE = provision.Pace(step_seconds=60, horizon_seconds=600.0, history_seconds=7200.0, refit_seconds=600.0)
NO_FIT = forecasts.NoForecast("chat", forecasts.NoForecastReason.TOO_SHORT, "1 h of 2 h")


class World:
    """The ports, each with a switch for what may go wrong."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.reader = fakes.FakeSignalReader(clock)
        self.runs = fakes.FakeRunStore()
        self.asked: list[tuple[datetime, datetime, int]] = []
        self.requests: list[forecasting.FitRequest] = []
        self.answer: forecasting.Fitted | forecasts.NoForecast | Exception = NO_FIT
        self.is_away = False
        self.started = ("node-a", "node-b")
        self.refusal: errors.DsctlError | None = None

    async def history(self, service: str, start: datetime, end: datetime, step_seconds: int) -> windows.Series:
        self.asked.append((start, end, step_seconds))
        if self.is_away:
            raise errors.RetryLaterError("Prometheus does not answer")
        return b.series([10.0] * 60, start=start, step_seconds=step_seconds)

    async def standing(self, service: str) -> Mapping[str, capacity.PoolStanding]:
        if self.refusal is not None:
            raise self.refusal
        return {"hot": capacity.PoolStanding("hot", self.started, 4)}

    async def fit(self, request: forecasting.FitRequest) -> forecasting.Fitted | forecasts.NoForecast:
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def provisioner(self, service: services.Service = CHAT, *, has_fitter: bool = True) -> provision.Provisioner:
        sources = provision.Sources(self.reader, self, self, self.runs, self if has_fitter else None)
        return provision.Provisioner(sources, {service.name: service}, PACE, self.clock)


def seen(rate: float) -> windows.FleetView:
    return b.view(signals={"request_rate": rate, "queue_depth": 0.0, "gateway_queue_depth": 0.0})


async def look(made: provision.Provisioner, world: World, rate: float = 15.0) -> capacity.Outlook:
    problems: list[str] = []
    found = await made.look(seen(rate), world.clock.now(), problems)
    assert problems == []
    return found["chat"]


def scaled(seconds: Mapping[str, float], *, at: datetime, name: str = "run_1") -> tuple[runs.Run, list[runs.RunEvent]]:
    """A scale-out that ended, and its log: how long each node took."""
    plan = b.plan(b.manual(node="", runbook=provision.GROWS))
    data: dict[str, outcomes.Json] = {"sentence": "grown", "data": {"ready_after_seconds": dict(seconds)}}
    event = runs.RunEvent(1, at, runs.RunEventKind.STEP_FINISHED, "grow", data=data)
    return b.ended_run(name, plan=plan, at=at), [event]


async def test_a_surge_that_is_seen_asks_for_nodes_without_any_forecast(clock: FakeClock) -> None:
    """Reactive planning needs neither a past nor a fit."""
    outlook = await look(World(clock).provisioner(), World(clock), rate=29.0)
    assert isinstance(outlook.plan, capacity.CapacityPlan)
    assert (outlook.plan.desired, outlook.plan.predicted, outlook.plan.gate.is_open) == (3, None, False)
    assert outlook.forecast == forecasts.NoForecast("chat", forecasts.NoForecastReason.NOT_FITTED)


async def test_a_history_that_is_too_short_is_told_and_tried_again(clock: FakeClock) -> None:
    """People see why nothing is foretold; the next try comes before the next regular fit."""
    world = World(clock)
    made = world.provisioner()
    (said,) = await made.refit()
    assert "no forecast: the history is too short (1 h of 2 h)" in said
    assert (await look(made, world)).forecast == NO_FIT
    assert await made.refit() == []
    clock.move(301)
    assert len(await made.refit()) == 1


@pytest.mark.parametrize("trouble", ["store", "fit"])
async def test_what_does_not_answer_is_asked_again_soon(clock: FakeClock, trouble: str) -> None:
    """Neither a store that is away nor a fit that was ended costs more than ten seconds."""
    world = World(clock)
    world.is_away = trouble == "store"
    world.answer = errors.RetryLaterError("the fit was ended after 60 s")
    made = world.provisioner()
    (said,) = await made.refit()
    assert said.startswith("chat: not fitted: ")
    clock.move(11)
    assert len(await made.refit()) == 1


async def test_a_bug_inside_a_fit_costs_one_try(clock: FakeClock) -> None:
    """Whatever a fit raises is named, and the other services are fitted as before."""
    world = World(clock)
    world.answer = KeyError("yhat")
    made = world.provisioner()
    (said,) = await made.refit()
    assert said == "chat: not fitted: KeyError('yhat'); tried again in 10 s"
    world.answer = NO_FIT
    clock.move(11)
    assert "no forecast" in (await made.refit())[0]


@pytest.mark.parametrize(
    ("reason", "is_kept"),
    [(forecasts.NoForecastReason.FAILED, True), (forecasts.NoForecastReason.TOO_MANY_HOLES, False)],
)
async def test_a_fit_that_failed_leaves_the_one_before(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, reason: forecasts.NoForecastReason, is_kept: bool
) -> None:
    """A shape reaches further than one refit; a history that no longer carries one takes it back."""
    asked: list[object] = []
    stale = forecasts.NoForecast("chat", forecasts.NoForecastReason.STALE)
    monkeypatch.setattr(provision.forecasting, "forecast", lambda fitted, *_: asked.append(fitted) or stale)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    world, fitted = World(clock), object.__new__(forecasting.Fitted)
    world.answer = fitted
    made = world.provisioner()
    await made.refit()
    world.answer = forecasts.NoForecast("chat", reason)
    clock.move(PACE.refit_seconds + 1)
    await made.refit()
    await look(made, world)
    assert asked == ([fitted] if is_kept else [])


async def test_the_fit_is_asked_for_what_the_settings_and_the_service_say(clock: FakeClock) -> None:
    """Step, horizon, history, events, and the cold start at which forecasts are judged."""
    world = World(clock)
    event = services.CalendarEvent("market-open", 34_200, 1200.0)
    await world.provisioner(dataclasses.replace(CHAT, events=(event,))).refit()
    (request,) = world.requests
    assert (request.step_seconds, request.horizon_steps, request.lead_seconds) == (60, 10, 120.0)
    assert request.events == (event,)
    ((start, end, step),) = world.asked
    assert ((end - start).total_seconds(), step) == (7200.0, 60)


async def test_measured_cold_starts_replace_the_stated_one(clock: FakeClock) -> None:
    """Three starts are enough; the slowest of so few counts."""
    world = World(clock)
    for number, seconds in enumerate(({"node-c": 30.0, "node-d": 41.0}, {"node-c": 35.0}), start=1):
        run, events = scaled(seconds, at=clock.now() + timedelta(seconds=number), name=f"run_{number}")
        world.runs.put(run, *events)
    made = world.provisioner()
    outlook = await look(made, world)
    assert isinstance(outlook.plan, capacity.CapacityPlan)
    assert outlook.plan.horizon_seconds == 41.0
    await made.refit()
    assert world.requests[0].lead_seconds == 41.0


async def test_a_service_whose_nodes_nobody_starts_has_no_outlook(clock: FakeClock) -> None:
    """Neither one without pools, nor one whose actuator knows nothing of it."""
    world = World(clock)
    problems: list[str] = []
    assert await world.provisioner(b.service(pools=())).look(seen(1.0), clock.now(), problems) == {}
    world.refusal = errors.NotFoundError("no fleet")
    assert await world.provisioner().look(seen(1.0), clock.now(), problems) == {}
    assert problems == []


async def test_what_fails_costs_one_service_its_plan_and_is_named(clock: FakeClock) -> None:
    """The tick goes on; the incident of that service holds."""
    world = World(clock)
    world.refusal = errors.InvalidInputError("fleet.yaml: line 3")
    problems: list[str] = []
    found = await world.provisioner().look(seen(1.0), clock.now(), problems)
    assert "fleet.yaml: line 3" in found["chat"].plan.sentence
    assert isinstance(found["chat"].plan, capacity.NoPlan)
    assert len(problems) == 1


async def test_without_a_fitter_nothing_is_foretold_and_nodes_are_learned(clock: FakeClock) -> None:
    """The setting that switches forecasts off leaves the rest as it is."""
    world = World(clock)
    (said,) = await world.provisioner(has_fitter=False).refit()
    assert "nothing is foretold (forecast.is_enabled)" in said
    assert world.asked == []
