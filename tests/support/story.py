"""The language acceptance tests are written in, a scripted fleet to try it on, and what is printed when a story fails.

story.told(
    story.at(0).inject("poison_cache", on="node-1"),
    story.by(15).expect_incident("cache", on="node-1"),
    story.by(60).expect_verdict("recovered", on="node-1", modes=["auto"]),
)
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from controlplane.domain import errors, outcomes, policies
from controlplane.scenarios import judging, runner, stories
from controlplane.scenarios import samples as smp
from tests.support.clock import FakeClock

Entry = dict[str, Any]


@dataclass(frozen=True)
class at:  # noqa: N801 - reads as a sentence
    """At this second ..."""

    seconds: float

    def inject(self, fault: str, *, on: str, **params: outcomes.Json) -> Entry:
        return {"at_seconds": self.seconds, "inject": {"fault": fault, "node": on, "params": params}}

    def load(self, **rates: float) -> Entry:
        return {"at_seconds": self.seconds, "load": load(**rates)}


@dataclass(frozen=True)
class by:  # noqa: N801 - reads as a sentence
    """By this second ..."""

    seconds: float

    def expect_incident(
        self, kind: str, *, on: str, opened_by: str | None = None, modes: Sequence[str] = ("auto", "observe")
    ) -> Entry:
        return self._expect({"incident": kind, "node": on, "opened_by": opened_by}, modes)

    def expect_runbook(self, name: str, *, on: str, modes: Sequence[str] = ("auto",)) -> Entry:
        return self._expect({"runbook": name, "node": on}, modes)

    def expect_verdict(self, verdict: str, *, on: str, modes: Sequence[str] = ("auto",)) -> Entry:
        return self._expect({"verdict": verdict, "node": on}, modes)

    def expect_rung(self, rung: int, *, modes: Sequence[str] = ("auto",)) -> Entry:
        return self._expect({"rung": rung}, modes)

    def _expect(self, what: Entry, modes: Sequence[str]) -> Entry:
        return {"by_seconds": self.seconds, "expect": what, "modes": list(modes)}


def load(**rates: float) -> Entry:
    """Return the load of these requests per second, by level."""
    return {"levels": {level: {"rate": rate} for level, rate in rates.items()}}


def told(*timeline: Entry, name: str = "T1", window_seconds: float = 75.0, **spec: Any) -> stories.Story:
    """Return a story with this timeline; everything else has a default."""
    defaults: Entry = {
        "fleet": {"nodes": 2},
        "load": load(standard=10),
        "limits": {"error_ratio": 0.005, "latency_p99_seconds": 1.5},
        "window_seconds": window_seconds,
        "timeline": list(timeline),
    }
    document = {"apiVersion": "dsctl/v1", "kind": "Story", "metadata": {"id": name, "title": "A test's story"}}
    return stories.Story.model_validate({**document, "spec": {**defaults, **spec}})


def explain(result: runner.ScenarioResult) -> str:
    """Return expected against seen, for an assertion's message."""
    lines = [f"{result.story.id} in mode {result.mode}: {result.clients.verdict}", *result.complaints]
    for one in result.met:
        seen = f"at {one.at_seconds:.1f} s ({one.by})" if isinstance(one, judging.Met) else f"never; {one.seen}"
        lines.append(f"  by {one.entry.by_seconds:g} s expected {one.entry.expect}: {seen}")
    return "\n".join(lines)


def assert_as_expected(result: runner.ScenarioResult) -> None:
    """Fail with expected against seen when the story did not end as it should."""
    assert result.is_as_expected, explain(result)


@dataclass
class ScriptedFleet:
    """A fleet whose answers are wrong from the first deed on, until `heals_after` seconds later (None: never).

    It is the fleet, the clients and the control plane at once; the latter shows what `script` says, each line with the
    second after the injection from which it is shown. `limits` are stretches of those seconds in which the fleet is not
    whole; `unsettled_for` is for how long after the story's end the control plane still has something to do.
    """

    clock: FakeClock
    heals_after: float | None = None
    script: list[tuple[float, judging.SeenIncident | judging.SeenRun]] = field(default_factory=list)
    injected: list[tuple[str, str, float]] = field(default_factory=list)
    withdrawn: list[tuple[str, str]] = field(default_factory=list)
    switched: list[stories.Traffic] = field(default_factory=list)
    limits: list[tuple[float, float, judging.SeenFleet]] = field(default_factory=list)
    unsettled_for: float = 0.0
    is_felt: bool = True
    injected_at: datetime | None = None
    outage: tuple[float, float] | None = None
    prepared: stories.FleetNeeds | None = None
    told: list[runner.Progress] = field(default_factory=list)
    traffic: stories.Traffic = field(default_factory=lambda: stories.Traffic.model_validate(load(standard=10)))
    _start: float | None = None
    _ended: float = 0.0

    async def prepare(self, needs: stories.FleetNeeds) -> None:
        self.prepared = needs

    async def inject(self, node: str, fault: str, params: dict[str, outcomes.Json], ttl_seconds: float) -> None:
        self.injected_at = self.clock.now()
        self.injected.append((node, fault, ttl_seconds))

    async def withdraw(self, node: str, fault: str) -> None:
        self.withdrawn.append((node, fault))

    async def look(self) -> judging.SeenFleet:
        seen = [fleet for start, end, fleet in self.limits if start <= self._since() < end]
        return seen[0] if seen else judging.SeenFleet()

    def switch(self, traffic: stories.Traffic) -> None:
        self._ended = self.clock.monotonic()
        if traffic.levels != self.traffic.levels:
            self.injected_at = self.injected_at or self.clock.now()
        self.traffic = traffic
        self.switched.append(traffic)

    async def unsettled(self) -> Sequence[str]:
        return ["run run_1 is running"] if self.clock.monotonic() - self._ended < self.unsettled_for else []

    def _since(self) -> float:
        return -1.0 if self.injected_at is None else (self.clock.now() - self.injected_at).total_seconds()

    async def seen(self, since: datetime) -> judging.Seen:
        now = self._since()
        if self.outage is not None and self.outage[0] <= now < self.outage[1]:
            raise errors.RetryLaterError("connection refused")
        shown = [what for second, what in self.script if second <= now]
        return judging.Seen(
            tuple(one for one in shown if isinstance(one, judging.SeenIncident)),
            tuple(one for one in shown if isinstance(one, judging.SeenRun)),
        )

    def samples(self) -> list[smp.Sample]:
        """Ten requests a second since the first call."""
        now = self.clock.now().timestamp()
        if self._start is None:
            self._start = now
        count = int((now - self._start) * 10) + 1
        return [self.sample(self._start + number / 10) for number in range(count)]

    def sample(self, when: float) -> smp.Sample:
        """One request of that instant."""
        return smp.Sample(at=when, latency_seconds=0.1, code=200, is_wrong=self._is_wrong(when))

    def _is_wrong(self, when: float) -> bool:
        if self.injected_at is None or not self.is_felt:
            return False
        since = when - self.injected_at.timestamp()
        return since >= 0 and (self.heals_after is None or since < self.heals_after)


async def play(
    story: stories.Story, fleet: ScriptedFleet, mode: policies.Mode = policies.Mode.AUTO
) -> runner.ScenarioResult:
    """Play on a scripted fleet with its fake clock, as fast as it goes."""
    clock = fleet.clock
    player = runner.Runner(fleet=fleet, control=fleet, load=fleet, clock=clock, tell=fleet.told.append)
    playing = asyncio.ensure_future(player.play(story, mode))
    while not playing.done():
        await clock.sleep(0)
        clock.move(0.25)
    return await playing


def seconds_after(start: datetime) -> Callable[[float], datetime]:
    """Return a function from seconds to instants."""
    return lambda seconds: start + timedelta(seconds=seconds)
