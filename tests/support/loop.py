"""The whole loop over in-memory ports: tick, dispatch, guard, recheck, with every fake within reach."""

import dataclasses
from collections.abc import Callable, Sequence

from controlplane import expressions
from controlplane.domain import capacity, policies, ports, runs, services, trust
from controlplane.engine import autonomy, climb, dispatch, facts, handle, keeping, look, recheck, tick
from tests.support import builders, fakes
from tests.support.clock import FakeClock


class Loop:
    """Wires the engine as `wiring` does; one service `chat` with node-a and node-b, one policy in mode auto."""

    def __init__(
        self,
        clock: FakeClock,
        *,
        offered: Sequence[policies.Policy] | None = None,
        pace: handle.Pace | None = None,
        managed: Sequence[services.Service] | None = None,
        is_leader: Callable[[], bool] = lambda: True,
        conditions: ports.Conditions | None = None,
        trusts: trust.TrustStore | None = None,
    ) -> None:
        self.clock = clock
        self.reader = fakes.FakeSignalReader(clock)
        self.alerts = fakes.FakeAlertStore()
        self.incidents = fakes.FakeIncidentStore(clock)
        self.runs = fakes.FakeRunStore()
        self.decisions = fakes.FakeDecisionStore()
        self.automation = fakes.FakeAutomationStore()
        self.silences = fakes.FakeSilenceReader(clock)
        self.notifier = fakes.FakeNotifier()
        self.planner = fakes.FakePlanner()
        self.submitter = fakes.FakeRunSubmitter(self.runs, clock)
        self.detector = fakes.FakeDetector()
        self.rungs = fakes.FakeRungControl(clock)
        self.services = {one.name: one for one in managed or (builders.service(),)}
        self.owners = fakes.FakeOwners()
        self.outlooks: dict[str, capacity.Outlook] = {}
        sources = facts.Sources(
            self.reader, self.alerts, self.incidents, self.runs, self.automation, self.silences, self.owners
        )
        self.gatherer = facts.Gatherer(sources, self.services, clock, outlooks=lambda: self.outlooks)
        self.remediator = dispatch.Dispatch(
            planner=self.planner,
            gatherer=self.gatherer,
            keeper=keeping.Keeper(self.decisions, self.automation, clock),
            submitter=self.submitter,
        )
        self.policies = tuple(offered if offered is not None else (builders.policy(),))
        self.trusts = trusts
        self.guard = recheck.Recheck(
            self.gatherer, trusts, keeper=keeping.Keeper(self.decisions, self.automation, clock)
        )
        self.pace = pace or handle.Pace()
        self.hands = handle.Hands(
            incidents=self.incidents,
            runs=self.runs,
            decisions=self.decisions,
            remediator=self.remediator,
            notifier=self.notifier,
            conditions=conditions or expressions.Conditions(),
            services=self.services,
            policies=self.policies,
            climber=climb.Climber(self.rungs, self.automation, self.runs, clock),
        )
        self.is_leader = is_leader
        self.tick = self.restarted()

    def restarted(self) -> tick.Tick:
        """A tick without any memory, as after a restart of the process."""
        if self.trusts is not None:
            reviewer = autonomy.Autonomy(self.trusts, self.policies, trust.Thresholds(), self.clock)
            self.hands = dataclasses.replace(self.hands, reviewer=reviewer)
        self.tick = tick.Tick(
            eyes=look.Eyes(
                self.reader, self.alerts, (self.detector,), self.services, fakes.FakeBench(), look.Recent(self.clock)
            ),
            hands=self.hands,
            pace=self.pace,
            clock=self.clock,
            is_leader=self.is_leader,
        )
        return self.tick

    async def sentence(self) -> str:
        """Do one tick and return the only sentence of its report."""
        (line,) = (await self.tick.run()).lines
        return line.sentence

    @property
    def run(self) -> runs.Run:
        """The newest run."""
        return self.runs.runs[max(self.runs.runs)]
