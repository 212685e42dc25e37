"""The values the run engine thinks in: where a run stands, what one commit writes, what a claim hands out.

Used by every module of `runs`. Pure values; nothing here decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from actions import api as actions
from controlplane.domain import outcomes, plans, runs


class Phase(StrEnum):
    """The three parts of a run's life."""

    STEPS = "steps"
    VERIFY = "verify"
    UNDO = "undo"


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a run stands, as stored.

    `is_open` is true while the thing at the cursor is announced and not ended; if the process dies then, its
    outcome is in doubt. `is_doubtful`: an earlier try of it may have taken effect. `attempt` counts announcements of
    the thing at the cursor, `opened_at` is the time of the newest. `done` are the action steps that took effect, in
    order; `undo` what is still to be undone, next first; `cause` why the failure edges are walked. `began_at` is the
    time of the run's first effect. `is_admitted`: the condition of the step at the cursor was asked, and holds;
    `skipped` are the steps whose condition did not. `is_told`: people were told that the approval at the cursor is wanted.
    """

    phase: Phase = Phase.STEPS
    step: int = 0
    attempt: int = 0
    is_open: bool = False
    is_doubtful: bool = False
    opened_at: datetime | None = None
    deadline_at: datetime | None = None
    done: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()
    not_undone: tuple[str, ...] = ()
    is_undecided: bool = False
    cause: str = ""
    began_at: datetime | None = None
    is_told: bool = False
    is_admitted: bool = False
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One event to be written."""

    kind: runs.RunEventKind
    step: str = ""
    data: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class Errand:
    """What a run owes, at its end or while it asks: a runbook to run, or people to tell."""

    kind: plans.EdgeKind
    argument: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Move:
    """Everything one fenced commit writes. None leaves a column as it is.

    RUNNING goes on at `cursor` at once, WAITING after `wake_seconds`; a final state ends the run. `asks` is set when the
    run waits for people: how many had answered when that was decided, so that nobody's answer is slept through.
    """

    state: outcomes.RunState
    cursor: Cursor
    entries: tuple[Entry, ...] = ()
    wake_seconds: float = 0.0
    acted_at: datetime | None = None
    verdict: outcomes.Verdict | None = None
    sentence: str = ""
    errands: tuple[Errand, ...] = ()
    asks: int | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A run in the hands of this replica; `token` and `revision` fence every write to it.

    `is_in_doubt`: the thing at the cursor was announced by an earlier owner, and nobody knows whether it happened.
    """

    run_id: str
    plan: plans.Plan
    cursor: Cursor
    token: int
    revision: int
    acted_at: datetime | None
    is_cancel_requested: bool
    is_in_doubt: bool

    @property
    def step(self) -> plans.PlannedStep:
        """The step at the cursor, while steps are run."""
        return self.plan.steps[self.cursor.step]


@dataclass(frozen=True, slots=True)
class Done:
    """A try took effect."""

    result: actions.ActionResult
    data: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class NotDone:
    """Certainly nothing happened; `retry_seconds` is None when trying again is pointless."""

    sentence: str
    retry_seconds: float | None


@dataclass(frozen=True, slots=True)
class InDoubt:
    """It may have happened."""

    sentence: str


@dataclass(frozen=True, slots=True)
class PartlyDone:
    """It took effect on some of several targets, and the others refused: no use in trying again."""

    sentence: str


Outcome = Done | NotDone | InDoubt | PartlyDone
