"""Runs as the rest of the house sees them: records and events, never the machinery that drives them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from controlplane.domain import outcomes, plans


class RunEventKind(StrEnum):
    """What an append-only event of a run says."""

    SUBMITTED = "submitted"
    STEP_STARTED = "step_started"
    STEP_FINISHED = "step_finished"
    STEP_FAILED = "step_failed"
    STEP_PROBED = "step_probed"
    STEP_SKIPPED = "step_skipped"
    GUARD_DENIED = "guard_denied"
    WAITING = "waiting"
    APPROVAL_ASKED = "approval_asked"
    APPROVED = "approved"
    REJECTED = "rejected"
    VERIFY_STARTED = "verify_started"
    VERIFIED = "verified"
    UNDO_STARTED = "undo_started"
    UNDO_FINISHED = "undo_finished"
    UNDO_FAILED = "undo_failed"
    FOLLOW_UP = "follow_up"
    ESCALATED = "escalated"
    CANCEL_REQUESTED = "cancel_requested"
    RECLAIMED = "reclaimed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One entry of the log that is audit, timeline and debugger in one; `number` grows within a run."""

    number: int
    at: datetime
    kind: RunEventKind
    step: str = ""
    token: int = 0
    data: Mapping[str, outcomes.Json] = field(default_factory=dict[str, outcomes.Json])


@dataclass(frozen=True, slots=True)
class Run:
    """A run: its plan, where it stands, and how it ended. `deadline_at` is until when its step waits at most."""

    id: str
    plan: plans.Plan
    state: outcomes.RunState
    step: int
    created_at: datetime
    acted_at: datetime | None = None
    ended_at: datetime | None = None
    verdict: outcomes.Verdict | None = None
    sentence: str = ""
    deadline_at: datetime | None = None

    @property
    def question(self) -> plans.PlannedStep | None:
        """The step that asks people, while the run stands at it."""
        if self.state.is_final or self.step >= len(self.plan.steps):
            return None
        step = self.plan.steps[self.step]
        return step if step.kind is plans.StepKind.APPROVAL else None
