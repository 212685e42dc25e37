"""How many nodes each service should have, tick by tick: keeps forecasts fitted and asks the planner.

Called by the tick for the outlooks and by the schedule for fits, which take seconds and run beside the loop, in a process
of their own. It reads through ports and decides nothing itself: what arrives is foretold by `detectors.forecast`, whether
that may act is said by `capacity.gate`, and what is needed by `capacity.planner`. Services whose nodes dsctl cannot start
have no outlook. Concurrency: async, under the tick's lock but for `refit`, whose results are swapped in whole. Its memory
(fits, forecasts to compare with what came, the planner's) costs only time when it is lost.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from controlplane import phrases
from controlplane.capacity import cold_start, gate, node_capacity, planner, track
from controlplane.domain import capacity, errors, forecasts, outcomes, ports, runs, services, windows
from detectors import forecast as forecasting

# The runbook whose steps say how long nodes took until they were ready.
GROWS = "scale-out"
# Residuals are corrected by the newest bins; more of them say no more.
_NEWEST_BINS = 36
# What a node carries is learned from this much of the past.
_LEARNED_SECONDS = 86_400.0
# A store that does not answer is asked again soon, a history that is too short later: it grows by itself.
_RETRY_SECONDS, _UNFIT_RETRY_SECONDS = 10.0, 300.0
_COLD_STARTS_RUNS = 20
_STARTS_KEY = "ready_after_seconds"


class Fitter(Protocol):
    """Fits a forecast in a process that can be ended."""

    async def fit(self, request: forecasting.FitRequest) -> forecasting.Fitted | forecasts.NoForecast:
        """Return the fit, or why there is none; raises RetryLaterError when it took too long or died."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """What is foretold, how far, from how much of the past, and how often the model is fitted anew; in seconds."""

    step_seconds: int = 300
    horizon_seconds: float = 7200.0
    history_seconds: float = 28 * 86_400.0
    refit_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Sources:
    """The ports it looks through; without a fitter nothing is foretold."""

    reader: ports.SignalReader
    demand: ports.DemandReader
    actuator: ports.Actuator
    runs: ports.RunStore
    fitter: Fitter | None = None


@dataclass(slots=True)
class _Memory:
    """What is kept of one service."""

    plan: planner.Memory = field(default_factory=planner.Memory)
    fitted: forecasting.Fitted | None = None
    unfitted: forecasts.NoForecast | None = None
    live: track.Track = field(default_factory=track.Track)
    newest: windows.Series | None = None
    newest_bin: int = -1
    learned: node_capacity.Estimate | node_capacity.NoEstimate | None = None
    starts: tuple[float, ...] = ()
    starts_of: str = ""
    due_at: float = 0.0


class Provisioner:
    """The outlooks of every service whose nodes dsctl may start."""

    def __init__(
        self, sources: Sources, managed: Mapping[str, services.Service], pace: Pace, clock: ports.Clock
    ) -> None:
        self._sources = sources
        self._managed = {name: one for name, one in managed.items() if one.pools}
        self._pace = pace
        self._clock = clock
        self._memories = {name: _Memory() for name in self._managed}

    async def look(
        self, view: windows.FleetView | None, now: datetime, problems: list[str]
    ) -> Mapping[str, capacity.Outlook]:
        """Return the outlook of each service; what went wrong with one is added to `problems` and costs it its plan."""
        found: dict[str, capacity.Outlook] = {}
        for name in self._managed:
            try:
                outlook = await self._outlook(name, view, now)
            except errors.NotFoundError:
                continue  # nobody starts nodes for this service
            except Exception as error:  # noqa: BLE001 - one service must not cost the others their plans
                problems.append(f"capacity of {name}: {error!r}")
                said = f"held: the capacity of {name} could not be planned: {error}"
                unknown = forecasts.NoForecast(name, forecasts.NoForecastReason.FAILED, str(error))
                outlook = capacity.Outlook(name, capacity.NoPlan(name, now, said), unknown)
            found[name] = outlook
        return found

    async def refit(self) -> Sequence[str]:
        """Fit the forecasts that are due, and learn what nodes carry; return one sentence for each."""
        said: list[str] = []
        for name, memory in self._memories.items():
            if self._clock.monotonic() < memory.due_at:
                continue
            try:
                said.append(await self._refit(self._managed[name], memory))
            except Exception as error:  # noqa: BLE001 - one service's fit must not cost the others theirs
                reason = str(error) if isinstance(error, errors.DsctlError) else repr(error)
                memory.due_at = self._clock.monotonic() + _RETRY_SECONDS
                said.append(f"{name}: not fitted: {reason}; tried again in {phrases.duration(_RETRY_SECONDS)}")
        return said

    async def _outlook(self, name: str, view: windows.FleetView | None, now: datetime) -> capacity.Outlook:
        service, memory = self._managed[name], self._memories[name]
        standings = await self._sources.actuator.standing(name)
        start = await self._cold_start(service, memory)
        foretold = await self._forecast(service, memory, now)
        opened = gate.gate(foretold, memory.live.skill())
        seen = planner.look(
            None if view is None else view.services.get(name),
            standings,
            memory.learned or node_capacity.estimate(service, None),
            cold_start_seconds=start.measured_seconds,
        )
        planned, memory.plan = planner.plan(service, seen, foretold, opened, memory.plan, now, self._clock.monotonic())
        return capacity.Outlook(name, planned, foretold)

    async def _forecast(
        self, service: services.Service, memory: _Memory, now: datetime
    ) -> forecasts.Forecast | forecasts.NoForecast:
        """Return the forecast of the newest complete bins; the store is asked once for each bin."""
        if memory.fitted is None:
            return memory.unfitted or forecasts.NoForecast(service.name, forecasts.NoForecastReason.NOT_FITTED)
        step = self._pace.step_seconds
        number = int(now.timestamp() // step)
        if memory.newest is None or number != memory.newest_bin:
            start = now - timedelta(seconds=step * (_NEWEST_BINS + 1))
            try:
                memory.newest = await self._sources.demand.history(service.name, start, now, step)
            except errors.RetryLaterError as error:
                return forecasts.NoForecast(service.name, forecasts.NoForecastReason.STALE, str(error))
            memory.newest_bin = number
            memory.live = memory.live.observed(memory.newest)
        made = forecasting.forecast(memory.fitted, memory.newest, now)
        if isinstance(made, forecasts.Forecast):
            memory.live = memory.live.promised(_promise(made, memory.fitted, memory.newest))
        return made

    async def _refit(self, service: services.Service, memory: _Memory) -> str:
        memory.learned = await self._learn(service)
        if self._sources.fitter is None:
            memory.due_at = self._clock.monotonic() + self._pace.refit_seconds
            return f"{service.name}: {_learned(memory.learned)}; nothing is foretold (forecast.is_enabled)"
        now, step = self._clock.now(), self._pace.step_seconds
        start = now - timedelta(seconds=self._pace.history_seconds)
        history = await self._sources.demand.history(service.name, start, now, step)
        fitted = await self._sources.fitter.fit(self._request(service, memory, history, now))
        if isinstance(fitted, forecasts.NoForecast):
            # A fit that failed takes nothing from the one before, whose shape reaches further than one refit.
            if fitted.reason is not forecasts.NoForecastReason.FAILED:
                memory.fitted = None
            memory.unfitted = fitted
            memory.due_at = self._clock.monotonic() + min(_UNFIT_RETRY_SECONDS, self._pace.refit_seconds)
            return f"{service.name}: {_learned(memory.learned)}; no forecast: {fitted}"
        memory.fitted, memory.unfitted = fitted, None
        memory.due_at = self._clock.monotonic() + self._pace.refit_seconds
        return f"{service.name}: {_learned(memory.learned)}; fitted on {len(history.times)} steps of {step} s"

    def _request(
        self, service: services.Service, memory: _Memory, history: windows.Series, now: datetime
    ) -> forecasting.FitRequest:
        start = cold_start.p90(memory.starts, service.capacity)
        return forecasting.FitRequest(
            service=service.name,
            history=history,
            step_seconds=self._pace.step_seconds,
            horizon_steps=max(1, round(self._pace.horizon_seconds / self._pace.step_seconds)),
            lead_seconds=start.seconds,
            refit_seconds=self._pace.refit_seconds,
            events=service.events,
            now=now,
        )

    async def _learn(self, service: services.Service) -> node_capacity.Estimate | node_capacity.NoEstimate:
        """Return what a node carries; the past is read only where the service does not state it."""
        if service.capacity.requests_per_second_per_node is not None:
            return node_capacity.estimate(service, None)
        now = self._clock.now()
        start = now - timedelta(seconds=_LEARNED_SECONDS)
        window = await self._sources.reader.read_window(service.name, node_capacity.SIGNALS, start, now)
        return await asyncio.to_thread(node_capacity.estimate, service, window)

    async def _cold_start(self, service: services.Service, memory: _Memory) -> cold_start.ColdStart:
        """Return how long a node takes to serve; the log is read again when another run has ended."""
        found = await self._sources.runs.find(service=service.name, runbook=GROWS, limit=_COLD_STARTS_RUNS)
        ended = [run for run in found if run.state.is_final]
        if ended and ended[0].id != memory.starts_of:
            seconds = [await self._starts(run) for run in reversed(ended)]
            memory.starts = tuple(one for of_run in seconds for one in of_run)
            memory.starts_of = ended[0].id
        return cold_start.p90(memory.starts, service.capacity)

    async def _starts(self, run: runs.Run) -> Sequence[float]:
        events = await self._sources.runs.events(run.id)
        done = [event.data.get("data") for event in events if event.kind is runs.RunEventKind.STEP_FINISHED]
        return [one for data in done for one in _seconds(data)]


def _promise(made: forecasts.Forecast, fitted: forecasting.Fitted, newest: windows.Series) -> track.Promise:
    """Return what is to be kept of a forecast until its time has come."""
    lead = made.accuracy.horizon_seconds
    target = made.start + track.place(made, lead) * made.step_seconds
    return track.promise(made, lead, forecasting.same_time_yesterday(fitted, newest, target))


def _seconds(data: outcomes.Json) -> Sequence[float]:
    """Return the cold starts that a step's result names, by node."""
    starts = data.get(_STARTS_KEY) if isinstance(data, dict) else None
    values = starts.values() if isinstance(starts, dict) else ()
    return [float(one) for one in values if isinstance(one, int | float)]


def _learned(estimate: node_capacity.Estimate | node_capacity.NoEstimate) -> str:
    if isinstance(estimate, node_capacity.Estimate):
        return estimate.sentence
    return f"what a node carries is unknown: {estimate}"
