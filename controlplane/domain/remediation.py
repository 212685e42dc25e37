"""The one door to acting: what comes back when somebody, a policy or a person, asks for a runbook."""

from dataclasses import dataclass
from typing import Protocol

from controlplane.domain import outcomes, plans


@dataclass(frozen=True, slots=True)
class Preview:
    """A dry run: the plan with its difference, and what the guard says at this moment."""

    plan: plans.Plan
    guard: outcomes.Allowed | outcomes.Denied


@dataclass(frozen=True, slots=True)
class Submitted:
    """The guard allowed it and the run is stored durably."""

    plan: plans.Plan
    run_id: str
    guard: outcomes.Allowed


@dataclass(frozen=True, slots=True)
class Refused:
    """The guard refused; the refusal is stored as decision `decision_id`."""

    plan: plans.Plan
    guard: outcomes.Denied
    decision_id: str


class Remediator(Protocol):
    """Draft, guard, submit: used by the tick for policies and by the API for people."""

    async def preview(self, request: plans.PlanRequest) -> Preview:
        """Dry run. Raises what `Planner.draft` raises."""
        ...

    async def remediate(self, request: plans.PlanRequest, *, expected_hash: str | None = None) -> Submitted | Refused:
        """Draft, guard and submit. Raises what `Planner.draft` raises, and ConflictError when the drafted plan's
        hash differs from `expected_hash` (what the person approved is no longer what would run).
        """
        ...

    async def withdraw(self, run_id: str, why: str) -> bool:
        """Take a request back that waits for people; False when it does not, or has been answered meanwhile."""
        ...
