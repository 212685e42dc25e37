"""The degradation ladder: how hard a service is pressed, and whether to climb a rung, stay, or come down one.

Called by `climb` once a tick for each service whose incident a policy with a ladder answers. It proposes single steps
only: up after pressure has lasted and the rung before had time to show its effect, down after relief has lasted.
Between the two marks, and while anything it asks for is unknown, it stays. Coming down too early brings the pressure
back, so each relapse doubles the time of relief asked for next. Pure functions over values; the memory is passed in.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane import phrases
from controlplane.domain import policies, rungs, services, windows
from controlplane.domain import signals as sig

MAX_RELAPSES = 3
# A climb this many waits after coming down is a new surge, not a relapse.
RELAPSE_WAITS = 4


@dataclass(frozen=True, slots=True)
class Term:
    """One measure of pressure: a signal, the value at which it counts as 1, and how people read it."""

    signal: str
    limit: float
    name: str
    unit: str = ""

    def said(self, value: float) -> str:
        """Return the reading against its limit, as in `premium P99 0.31 s of 1.5 s`."""
        return f"{self.name} {value:.3g}{self.unit} of {self.limit:g}{self.unit}"


@dataclass(frozen=True, slots=True)
class Pressure:
    """The largest of all terms; 1 is the mark of overload. None while any of them is unknown, and then why."""

    value: float | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What the pace of the ladder needs; times are monotonic seconds. Lost with the process, which only costs time.

    `high_since` and `low_since` are set while pressure is above or below its mark without a break.
    """

    rung: int
    changed_at: float
    high_since: float | None = None
    low_since: float | None = None
    came_down_at: float | None = None
    relapses: int = 0


@dataclass(frozen=True, slots=True)
class Stay:
    """No step now, and why."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Step:
    """One rung up or down, and why."""

    rung: int
    sentence: str


def terms(service: services.Service) -> tuple[Term, ...]:
    """Return what presses on a service, against what it promises and tolerates."""
    limits = service.thresholds
    return (
        Term("premium_latency_p99", service.objectives.latency_p99_seconds, "premium P99", " s"),
        Term("premium_rejected_ratio", limits.premium_rejected_ratio, "premium refused"),
        Term("gateway_queue_depth", limits.pending_requests, "waiting in front"),
        Term("queue_depth", limits.pending_requests, "waiting at nodes"),
        Term("gateway_load_ratio", limits.gateway_load_ratio, "gateway load"),
    )


def pressure(asked: Sequence[Term], view: windows.ServiceView | None) -> Pressure:
    """Return the pressure on a service; a signal its profile does not map is left out."""
    if view is None:
        return Pressure(None, "the service is not in the fleet view")
    worst: tuple[float, str] | None = None
    for term in asked:
        reading = view.signals.get(term.signal, sig.Unknown(sig.UnknownReason.NOT_IN_PROFILE))
        if isinstance(reading, sig.Value):
            share = (reading.value / term.limit, term.said(reading.value))
            worst = share if worst is None or share[0] > worst[0] else worst
        elif reading.reason is not sig.UnknownReason.NOT_IN_PROFILE:
            return Pressure(None, f"{term.signal} is unknown: {reading}")
    return Pressure(None, "the service tells nothing of its load") if worst is None else Pressure(*worst)


def remember(before: Memory | None, rung: int, pressed: Pressure, now: float, pace: policies.Ladder) -> Memory:
    """Return what is known after this look; `rung` is read from the gateway, not remembered."""
    memory = before or Memory(rung, now)
    if rung != memory.rung:
        memory = _moved(memory, rung, now, pace)
    value = pressed.value
    is_high, is_low = value is not None and value >= pace.up_above, value is not None and value < pace.down_below
    return dataclasses.replace(
        memory,
        high_since=(now if memory.high_since is None else memory.high_since) if is_high else None,
        low_since=(now if memory.low_since is None else memory.low_since) if is_low else None,
    )


def propose(memory: Memory, pressed: Pressure, now: float, pace: policies.Ladder) -> Step | Stay:
    """Return the next step, one rung at most."""
    if pressed.value is None:
        return Stay(f"stays here: {pressed.sentence}")
    if memory.high_since is not None:
        return _up(memory, pressed, now, memory.high_since, pace)
    if memory.rung == 0:
        return Stay(f"pressure {pressed.value:.2f}, {pressed.sentence}; climbs from {pace.up_above:g} on")
    wait = relief_seconds(memory, pace)
    if memory.low_since is None:
        said = f"comes down when pressure stays below {pace.down_below:g} for {phrases.duration(wait)}"
        return Stay(f"{pressed.sentence}; {said}")
    lasted = now - memory.low_since
    if lasted < wait:
        return Stay(f"{pressed.sentence}; comes down in {phrases.duration(wait - lasted)} if pressure stays away")
    return Step(memory.rung - 1, f"pressure was below {pace.down_below:g} for {phrases.duration(lasted)}")


def relief_seconds(memory: Memory, pace: policies.Ladder) -> float:
    """Return how long relief must last before the next step down."""
    return pace.down_after_seconds * 2**memory.relapses


def _up(memory: Memory, pressed: Pressure, now: float, since: float, pace: policies.Ladder) -> Step | Stay:
    if memory.rung >= pace.top:
        return Stay(f"{pressed.sentence}; this is the highest rung allowed, premium is never shed")
    settle = pace.settle_seconds if memory.rung else 0.0
    left = max(since + pace.up_after_seconds, memory.changed_at + settle) - now
    if left > 0:
        return Stay(f"{pressed.sentence}; climbs in {phrases.duration(left)} if that lasts")
    return Step(memory.rung + 1, f"{pressed.sentence} for {phrases.duration(now - since)}")


def _moved(memory: Memory, rung: int, now: float, pace: policies.Ladder) -> Memory:
    """Start anew on another rung; count a climb soon after coming down as a relapse."""
    if rung < memory.rung:
        return Memory(rung, now, came_down_at=now, relapses=memory.relapses)
    came_down = memory.came_down_at
    is_relapse = came_down is not None and now - came_down < RELAPSE_WAITS * relief_seconds(memory, pace)
    relapses = min(MAX_RELAPSES, memory.relapses + 1) if is_relapse else 0
    return Memory(rung, now, relapses=relapses if came_down is not None else memory.relapses)


def describe(standing: rungs.Standing, memory: Memory, now: float, said: str) -> str:
    """Return the sentence of a service that stands on a rung."""
    return f"degrading: {rungs.describe(standing.rung)} for {phrases.duration(now - memory.changed_at)}; {said}"
