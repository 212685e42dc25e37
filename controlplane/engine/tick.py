"""One tick of the loop, top to bottom: this is what the product does to a fleet.

    observe → detectors, capacity → correlate → follow runs → decide → guard → submit → close or escalate

Called every few seconds and on a wake. It reads the level, never events: a tick that was missed is made up for by the
next one, and a tick that is repeated does nothing twice. Each incident gets one plain sentence. Nothing that goes wrong
with one incident keeps the others from being handled, and no tick raises.

Why this is safe: an incident acts only while a source reports it; a policy has to ask, in mode auto, or people have to
agree to what it asks; every gate of `guard` has to agree, here and again at the moment of acting; the run is stored before it acts, at most once per attempt;
and it is judged afterwards. Concurrency: async; one tick at a time, under a lock; within it some incidents are handled side
by side, beginning in order, and only `dispatch` lets one at a time through the guard.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from controlplane.domain import capacity, ids, ports, ticks, windows
from controlplane.domain import incidents as inc
from controlplane.engine import correlate, handle, look

# The schedule ends a tick after a minute, looking takes up to half of that. One incident may take ten seconds, when its
# node hangs; those that get no turn are first in the next tick, so that a dozen hanging nodes do not starve the rest.
_HANDLING_SECONDS = 25.0
# Handling an incident is mostly waiting, for commits and for nodes. What waits for a commit side by side shares it.
_AT_ONCE = 32
# As many runs as can be unfinished at once; a target holds one, so this is the size of the fleet.
_MAX_UNFINISHED = 1000


class Tick:
    """The loop's body, and what it last saw and said."""

    def __init__(
        self,
        *,
        eyes: look.Eyes,
        hands: handle.Hands,
        pace: handle.Pace,
        clock: ports.Clock,
        is_leader: Callable[[], bool] = lambda: True,
    ) -> None:
        self._eyes = eyes
        self._hands = hands
        self._pace = pace
        self._clock = clock
        self._is_leader = is_leader
        self._handler = handle.Handler(hands, pace, clock)
        self._lock = asyncio.Lock()
        self._view: windows.FleetView | None = None
        self._report: ticks.TickReport | None = None
        self._outlooks: Mapping[str, capacity.Outlook] = {}
        self._good_at: float | None = None
        self._next_turn: inc.IncidentKey | None = None

    def view(self) -> windows.FleetView | None:
        """Return the newest fleet view, or None before the first tick."""
        return self._view

    def report(self) -> ticks.TickReport | None:
        """Return the newest report, or None before the first tick."""
        return self._report

    def outlooks(self) -> Mapping[str, capacity.Outlook]:
        """Return what is foretold and planned for each service, by name, as of the newest tick."""
        return self._outlooks

    def seconds_since_good(self) -> float | None:
        """Return seconds since the last good tick ended, or None before the first."""
        return None if self._good_at is None else self._clock.monotonic() - self._good_at

    async def run(self) -> ticks.TickReport:
        """Do one tick; never raises but for cancellation."""
        async with self._lock:
            started, now = self._clock.monotonic(), self._clock.now()
            try:
                lines, problems = await self._rooms(now)
            except asyncio.CancelledError:
                stopped = "tick: it was stopped before its end; what was not handled is left to the next one"
                self._report = ticks.TickReport(now, self._clock.monotonic() - started, (), (stopped,))
                raise
            except Exception as error:  # noqa: BLE001 - the loop must go on; the report says what failed
                lines, problems = (), (f"tick: {error!r}; nothing was decided, the next tick tries again",)
            ended = self._clock.monotonic()
            self._report = ticks.TickReport(now, ended - started, tuple(lines), tuple(problems))
            self._good_at = ended if self._report.is_good else self._good_at
            return self._report

    async def watch(self) -> None:
        """Look at the fleet and decide nothing: a replica that does not lead drives runs, and must find the nodes."""
        async with self._lock:
            problems: list[str] = []
            self._view = await look.see(self._eyes, problems) or self._view
            self._good_at = self._good_at if problems else self._clock.monotonic()

    async def _rooms(self, now: datetime) -> tuple[list[ticks.IncidentLine], list[str]]:
        looked = await look.look(self._eyes, now)
        self._view = looked.level.view or self._view
        self._outlooks = looked.outlooks
        correlated = correlate.correlate(
            looked.level,
            await self._hands.incidents.unclosed(),
            quiet_seconds=self._pace.quiet_seconds,
            new_id=lambda at: ids.new_id(ids.IdKind.INCIDENT, at),
        )
        unfinished = await self._hands.runs.find(state="unfinished", limit=_MAX_UNFINISHED)
        newest = await self._hands.runs.newest()
        offered = await handle.read_offered(self._hands)
        moment = handle.Moment(now, looked.level.view, correlated, unfinished, newest, looked.outlooks, offered)
        problems = list(looked.problems)
        notes = {change.incident.id: change.note for change in correlated.changes}
        lines = [ticks.IncidentLine("", f"alert:{stray.name}", stray.sentence) for stray in looked.strays]
        turns = self._in_turn(correlated.incidents)
        said = await self._all(turns, notes, moment, problems)
        lines += [
            ticks.IncidentLine(incident.id, str(incident.key), said[incident.id])
            for incident in turns
            if incident.id in said
        ]
        self._handler.forget_all_but({incident.id for incident in correlated.incidents if not incident.is_final})
        return lines, problems

    async def _all(
        self, incidents: Sequence[inc.Incident], notes: Mapping[str, str], moment: handle.Moment, problems: list[str]
    ) -> Mapping[str, str]:
        """Handle incidents in order, some of them at once, and return the sentence of each that got a turn."""
        said: dict[str, str] = {}
        waiting, until = deque(incidents), self._clock.monotonic() + _HANDLING_SECONDS

        async def take_turns() -> None:
            while waiting:
                if why := self._why_stop(waiting[0], until):
                    problems.append(why)
                    waiting.clear()
                    return
                incident = waiting.popleft()
                said[incident.id] = await self._one(incident, notes.get(incident.id, ""), moment, problems)
                await self._clock.sleep(0)  # thousands that need no port must not keep the event loop from others

        async with asyncio.TaskGroup() as group:
            for number in range(min(_AT_ONCE, len(waiting))):
                group.create_task(take_turns(), name=f"tick-{number}")
        return said

    def _why_stop(self, following: inc.Incident, until: float) -> str:
        """Say why no further incident is handled in this tick, or nothing."""
        if not self._is_leader():
            return "tick: another replica leads now; the rest of this tick is left to it"
        if self._clock.monotonic() < until:
            return ""
        self._next_turn = following.key
        return f"tick: no time was left for {following.key} and those behind it; the next begins there"

    def _in_turn(self, incidents: Sequence[inc.Incident]) -> Sequence[inc.Incident]:
        """Return the incidents in order, beginning with the one that got no turn last time."""
        keys = [incident.key for incident in incidents]
        first = keys.index(self._next_turn) if self._next_turn in keys else 0
        self._next_turn = None
        return (*incidents[first:], *incidents[:first])

    async def _one(self, incident: inc.Incident, note: str, moment: handle.Moment, problems: list[str]) -> str:
        """Save what correlate found about one incident, then handle it; whatever fails stays with this one."""
        try:
            if note:
                await self._hands.incidents.save(incident, note)
            if incident.is_final:
                return incident.sentence
            handled = await self._handler.handle(incident, moment)
        except Exception as error:  # noqa: BLE001 - recorded, and the other incidents go on
            problems.append(f"incident {incident.id}: {error!r}")
            return f"held: handling it failed: {error!r}; the next tick tries again"
        problems.extend([handled.problem] if handled.problem else [])
        return handled.sentence
