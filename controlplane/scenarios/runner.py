"""Plays a story: waits, injects, watches the control plane and the clients, and says how it ended.

Called by the demo and by acceptance tests, which pass the fleet, the control plane and the load as small ports. It never
acts on the fleet other than by the story's deeds, and never tells the control plane anything: what is detected is
detected from metrics and alerts alone. Async; one story at a time; all time through the clock.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from controlplane.domain import errors, outcomes, policies, ports
from controlplane.scenarios import judging, stories
from controlplane.scenarios import samples as smp

# How often the control plane is asked; the times that are reported come from its own records.
_POLL_SECONDS = 0.5
# How long the load may take to know its reference answers and send its first requests.
_LOAD_READY_SECONDS = 120.0
# How long everything may take to be at rest after a story: alerts resolve, incidents close, leases are given back.
_SETTLE_SECONDS = 150.0
# An injection that outlives its story would be trouble without a cause; one cut short would heal by itself.
_TTL_MARGIN_SECONDS = 60.0


Say = Callable[[str], None]


class Fleet(Protocol):
    """Where faults are injected, and which shows whether it is whole."""

    async def prepare(self, needs: stories.FleetNeeds) -> None:
        """Offer the spare nodes that a story may use, and no others."""
        ...

    async def inject(self, node: str, fault: str, params: dict[str, outcomes.Json], ttl_seconds: float) -> None:
        """Switch a fault on; raises DsctlError when the node refuses or does not answer."""
        ...

    async def withdraw(self, node: str, fault: str) -> None:
        """Switch it off and remove what it left behind; it is not an error when it is off already."""
        ...

    async def look(self) -> judging.SeenFleet:
        """Return its state; a node that does not answer is part of that."""
        ...


class ControlPlane(Protocol):
    """What the control plane shows to anybody who may read."""

    async def seen(self, since: datetime) -> judging.Seen:
        """Return the incidents and runs since then; raises RetryLaterError when it does not answer."""
        ...

    async def unsettled(self) -> Sequence[str]:
        """Return what it has still to do with incidents and runs, in words; raises as `seen` does."""
        ...


class Load(Protocol):
    """The clients."""

    def samples(self) -> Sequence[smp.Sample]:
        """Return every request made so far; raises GiveUpError when the generator died."""
        ...

    def switch(self, traffic: stories.Traffic) -> None:
        """Let clients do something else from now on."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """One line for whoever watches; `at_seconds` counts from the first injection, and is negative before it."""

    scenario: str
    at_seconds: float
    text: str


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """How a story ended. `complaints` say why it did not end as it should; empty when it did."""

    story: stories.Story
    mode: policies.Mode
    clients: judging.Clients
    met: tuple[judging.Met | judging.Missed, ...]
    opened_by: str | None
    detected_seconds: float | None
    acted_seconds: float | None
    runs: tuple[str, ...]
    complaints: tuple[str, ...]
    num_lost: int | None = None

    @property
    def is_as_expected(self) -> bool:
        """True when it ended as it should in its mode."""
        return not self.complaints

    def with_complaints(self, more: Sequence[str]) -> "ScenarioResult":
        """Return it with what was found wrong afterwards."""
        return dataclasses.replace(self, complaints=(*self.complaints, *more))


@dataclass(slots=True)
class _Playing:
    """What is known while a story plays; incidents and runs from `since` on belong to it."""

    story: stories.Story
    mode: policies.Mode
    injected_at: datetime
    since: datetime
    seen: judging.Seen = field(default_factory=judging.Seen)
    met: dict[stories.By, judging.Met] = field(default_factory=dict[stories.By, judging.Met])
    told: set[str] = field(default_factory=set[str])
    rung_at: dict[int, datetime] = field(default_factory=dict[int, datetime])
    in_service_at: dict[int, datetime] = field(default_factory=dict[int, datetime])
    waiting: list[stories.At] = field(default_factory=list[stories.At])

    @property
    def awaited(self) -> tuple[stories.By, ...]:
        return tuple(e for e in self.story.expectations(self.mode) if e not in self.met)


class Runner:
    """Plays stories on one fleet."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        control: ControlPlane,
        load: Load,
        clock: ports.Clock,
        tell: Callable[[Progress], None],
    ) -> None:
        self._fleet = fleet
        self._control = control
        self._load = load
        self._clock = clock
        self._tell = tell

    async def play(
        self, story: stories.Story, mode: policies.Mode, *, peak_at: datetime | None = None
    ) -> ScenarioResult:
        """Play one story to its end and judge it; whatever was injected is withdrawn, also on cancellation.

        In auto mode it ends early once everything expected has happened, the fleet is whole and clients have been well
        for `after_seconds`; in observe mode it always takes the whole window, since the trouble has to stay. With
        `peak_at` the first deed is done then, and what was done before it counts.
        """
        spec = story.spec
        await self._fleet.prepare(spec.fleet)
        self._tell(
            Progress(story.id, -spec.warm_seconds - spec.before_seconds, "waiting for the clients' first answers")
        )
        await self._wait_for_load(story)
        now = self._clock.now()
        begin_at = peak_at or now + timedelta(seconds=spec.warm_seconds + spec.before_seconds)
        playing = _Playing(story, mode, begin_at, since=now, waiting=list(story.deeds()))
        watched = None if peak_at is None else playing
        await self._pass_until(begin_at - timedelta(seconds=spec.before_seconds), watched)
        self._tell(Progress(story.id, -spec.before_seconds, "measuring what clients see before"))
        started = self._clock.now()
        await self._pass_until(begin_at, watched)
        playing.injected_at = self._clock.now()
        playing.since = playing.injected_at if peak_at is None else playing.since
        try:
            await self._play_timeline(playing)
            ended = self._clock.now()
            await self._look(playing)
        finally:
            await self._withdraw(story)
        return self._result(playing, started, ended)

    async def settle(self, story: stories.Story) -> tuple[str, ...]:
        """Wait until every incident is closed, no run is under way and the fleet is whole.

        Returns what was left when the time for that was over; empty when all is at rest. The load goes on meanwhile,
        because what clients see is what ends incidents.
        """
        give_up = self._clock.monotonic() + _SETTLE_SECONDS
        while left := await self._unsettled():
            self._load.samples()
            if self._clock.monotonic() >= give_up:
                return tuple(f"{_SETTLE_SECONDS:g} s after {story.id}: {text}" for text in left)
            await self._clock.sleep(_POLL_SECONDS)
        return ()

    async def _unsettled(self) -> tuple[str, ...]:
        try:
            at_work = await self._control.unsettled()
        except errors.RetryLaterError as error:
            return (f"the control plane does not answer: {error}",)
        return (*at_work, *(await self._fleet.look()).complaints())

    async def _wait_for_load(self, story: stories.Story) -> None:
        give_up = self._clock.monotonic() + _LOAD_READY_SECONDS
        while not self._load.samples():
            if self._clock.monotonic() >= give_up:
                raise errors.GiveUpError(
                    f"{story.id}: no client was answered within {_LOAD_READY_SECONDS:g} s; look at the logs of the nodes"
                )
            await self._clock.sleep(_POLL_SECONDS)

    async def _pass_until(self, until: datetime, watched: _Playing | None) -> None:
        """Wait, and notice when the clients die meanwhile; look at what happens where that belongs to the story."""
        while (missing := (until - self._clock.now()).total_seconds()) > 0:
            self._load.samples()
            if watched is not None:
                await self._look(watched)
            await self._clock.sleep(min(missing, _POLL_SECONDS))

    async def _play_timeline(self, playing: _Playing) -> None:
        while not self._is_over(playing):
            while playing.waiting and playing.waiting[0].at_seconds <= self._elapsed(playing):
                await self._do(playing, playing.waiting.pop(0))
            await self._look(playing)
            await self._clock.sleep(_POLL_SECONDS)

    async def _do(self, playing: _Playing, entry: stories.At) -> None:
        if entry.inject is not None:
            what, ttl = entry.inject, playing.story.spec.window_seconds + _TTL_MARGIN_SECONDS
            await self._fleet.inject(what.node, what.fault, what.params, ttl)
        if entry.load is not None:
            self._load.switch(entry.load)
        self._say(playing, f"from now on: {entry}")

    async def _withdraw(self, story: stories.Story) -> None:
        self._load.switch(story.spec.load)
        for fault in story.injections():
            await self._fleet.withdraw(fault.node, fault.fault)

    async def _look(self, playing: _Playing) -> None:
        """Look at fleet and control plane, and tell what is new; without an answer the last one stands."""
        fleet = await self._fleet.look()
        for rung in range(1, fleet.rung + 1):
            playing.rung_at.setdefault(rung, self._clock.now())
        for number in range(1, fleet.in_service + 1):
            playing.in_service_at.setdefault(number, self._clock.now())
        playing.seen = dataclasses.replace(
            playing.seen, fleet=fleet, rung_at=playing.rung_at, in_service_at=playing.in_service_at
        )
        try:
            shown = await self._control.seen(playing.since)
        except errors.RetryLaterError as error:
            self._say(playing, f"the control plane does not answer: {error}")
        else:
            playing.seen = dataclasses.replace(playing.seen, incidents=shown.incidents, runs=shown.runs)
        self._tell_news(playing)
        for entry in playing.awaited:
            now = self._clock.now()
            answer = judging.meet(entry, playing.seen, injected_at=playing.injected_at, now=now)
            if isinstance(answer, judging.Met):
                playing.met[entry] = answer

    def _tell_news(self, playing: _Playing) -> None:
        for incident in playing.seen.incidents:
            place = incident.node or "the service"
            self._say(playing, f"incident: {incident.fault} on {place}, opened by {incident.opened_by}")
            if incident.sentence:
                self._say(playing, f"  {incident.sentence}")
        for run in playing.seen.runs:
            verdict = f", verdict {run.verdict}" if run.verdict else ""
            self._say(playing, f"run {run.runbook} on {run.node or 'the service'}: {run.state}{verdict}")
        for text in playing.seen.fleet.complaints():
            self._say(playing, text)

    def _say(self, playing: _Playing, text: str) -> None:
        """Tell a line once for each story."""
        if text not in playing.told:
            playing.told.add(text)
            self._tell(Progress(playing.story.id, self._elapsed(playing), text))

    def _elapsed(self, playing: _Playing) -> float:
        return (self._clock.now() - playing.injected_at).total_seconds()

    def _is_over(self, playing: _Playing) -> bool:
        spec = playing.story.spec
        if self._elapsed(playing) >= spec.window_seconds:
            return True
        if playing.mode is policies.Mode.OBSERVE or playing.waiting or playing.awaited:
            return False
        if self._elapsed(playing) < spec.earliest_end_seconds or playing.seen.fleet.complaints():
            return False
        calm_from = self._clock.now().timestamp() - spec.after_seconds
        calm = smp.between(self._load.samples(), calm_from, float("inf"))
        return bool(calm) and not any(judging.is_bad(spec.limits, sample) for sample in calm)

    def _result(self, playing: _Playing, started: datetime, ended: datetime) -> ScenarioResult:
        clients = judging.judge_clients(
            playing.story,
            self._load.samples(),
            started=started.timestamp(),
            injected=playing.injected_at.timestamp(),
            ended=ended.timestamp(),
        )
        met = tuple(
            playing.met.get(entry) or judging.meet(entry, playing.seen, injected_at=playing.injected_at, now=ended)
            for entry in playing.story.expectations(playing.mode)
        )
        first = _expected_incident(playing) or min(playing.seen.incidents, key=_opened_at, default=None)
        acts = [run.acted_at for run in playing.seen.runs if run.acted_at is not None]
        return ScenarioResult(
            story=playing.story,
            mode=playing.mode,
            clients=clients,
            met=met,
            opened_by=first.opened_by if first else None,
            detected_seconds=_seconds(playing.injected_at, first.opened_at if first else None),
            acted_seconds=_seconds(playing.injected_at, min(acts, default=None)),
            runs=tuple(run.id for run in playing.seen.runs),
            num_lost=playing.seen.num_lost,
            complaints=judging.complaints(
                playing.mode, clients, met, playing.seen, is_prevented=playing.story.spec.is_prevented
            ),
        )


def _opened_at(incident: judging.SeenIncident) -> datetime:
    return incident.opened_at


def _expected_incident(playing: _Playing) -> judging.SeenIncident | None:
    """Return the incident that the story is about: beside it there may be its symptoms, which others noticed."""
    wanted = [entry.expect for entry in playing.story.expectations(playing.mode) if entry.expect.incident]
    meant = [one for one in playing.seen.incidents if any(judging.is_meant(expect, one) for expect in wanted)]
    return min(meant, key=_opened_at, default=None)


def _seconds(start: datetime, instant: datetime | None) -> float | None:
    return None if instant is None else round((instant - start).total_seconds(), 3)
