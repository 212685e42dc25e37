"""What the pages show of a run, as values ready for a template: steps with where they stand, events as sentences.

Used by `pages` and `stream`. Pure: domain values in, plain values out. Nothing is escaped here; templates do that.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane import phrases
from controlplane.domain import approvals, outcomes, plans, runs
from controlplane.engine import words
from controlplane.runs import redaction

_Kind = runs.RunEventKind
# What the newest event of a step says about it. A probe looks at a step and does not move it.
_STANDING: Mapping[runs.RunEventKind, str] = {
    _Kind.STEP_STARTED: "running",
    _Kind.WAITING: "waiting",
    _Kind.APPROVAL_ASKED: "waiting",
    _Kind.STEP_FINISHED: "done",
    _Kind.STEP_FAILED: "failed",
    _Kind.STEP_SKIPPED: "left out",
    _Kind.GUARD_DENIED: "refused",
    _Kind.UNDO_STARTED: "undoing",
    _Kind.UNDO_FINISHED: "undone",
    _Kind.UNDO_FAILED: "not undone",
}
_DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the plan: what it does, how far it is, since when, and what was said about it last."""

    name: str
    does: str
    standing: str
    since: datetime | None
    said: str

    @property
    def mark(self) -> str:
        """The standing as a word without blanks, for the style sheet."""
        return self.standing.replace(" ", "-")


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of the log."""

    number: int
    at: datetime
    kind: str
    step: str
    said: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a run asks people while it waits for them, and what they have said."""

    prompt: str
    needed: str
    expires_at: datetime | None
    answers: tuple[approvals.Approval, ...]


@dataclass(frozen=True, slots=True)
class State:
    """Everything about a run that changes while it goes on, as of one moment."""

    run: runs.Run
    age: str
    took: str
    steps: tuple[Step, ...]
    awaited: str
    judged: str
    refusals: tuple[outcomes.Decision, ...]
    question: Question | None = None


def state(
    run: runs.Run,
    events: Sequence[runs.RunEvent],
    decisions: Sequence[outcomes.Decision],
    answers: Sequence[approvals.Approval],
    now: datetime,
) -> State:
    """Return where a run stands; `decisions` are those about its incident, `answers` what people said to it."""
    judged = [event for event in events if event.kind is _Kind.VERIFIED]
    return State(
        run=run,
        age=age(run.created_at, now),
        took=phrases.duration(max(0.0, (run.ended_at - run.created_at).total_seconds())) if run.ended_at else "",
        steps=tuple(_step(step, events) for step in run.plan.steps),
        awaited=_awaited(run.plan.verify),
        judged=_said(judged[-1]) if judged else "",
        refusals=tuple(one for one in decisions if one.outcome == _DENIED),
        question=_question(run, answers),
    )


def _question(run: runs.Run, answers: Sequence[approvals.Approval]) -> Question | None:
    step = run.question
    if step is None:
        return None
    given = tuple(one for one in answers if one.step == step.name)
    num_agreed = sum(one.is_approved for one in given)
    needed = f"{num_agreed} of {phrases.count(step.quorum, 'approval')}"
    return Question(step.prompt or f"{step.name}: may the run go on?", needed, run.deadline_at, given)


def may_answer(run: runs.Run, answers: Sequence[approvals.Approval], who: str) -> bool:
    """Say whether `who`, having the role, could still answer what the run asks now."""
    step = run.question
    return step is not None and not any(one.who == who and one.step == step.name for one in answers)


def age(since: datetime, now: datetime) -> str:
    """Return how long ago something was; a clock that stepped back makes it now."""
    return phrases.duration(float(max(0, int((now - since).total_seconds()))))


def _step(step: plans.PlannedStep, events: Sequence[runs.RunEvent]) -> Step:
    told = [event for event in events if event.step == step.name and event.kind in _STANDING]
    does = _does(step)
    if not told:
        return Step(step.name, does, "planned", None, "")
    return Step(step.name, does, _STANDING[told[-1].kind], told[-1].at, _said(told[-1]))


def _does(step: plans.PlannedStep) -> str:
    if step.kind is plans.StepKind.ACTION:
        return _call(step.action, step.params)
    if step.kind is plans.StepKind.APPROVAL:
        return f"ask for {phrases.count(step.quorum, 'approval')}"
    return f"wait until {step.until}" if step.until else f"wait {phrases.duration(step.timeout_seconds)}"


def _call(action: str, params: Mapping[str, outcomes.Json]) -> str:
    """Return an action with its parameters; what looks like a secret is hidden, as in the log."""
    return " ".join([action, *(f"{name}={value}" for name, value in redaction.redact_mapping(params).items())])


def _awaited(verify: plans.VerifySpec | None) -> str:
    if verify is None:
        return "Nothing is verified afterwards: the runbook names no signals."
    within, hold = phrases.duration(verify.within_seconds), phrases.duration(verify.hold_seconds)
    return f"{', '.join(verify.signals)} must recover within {within} and hold for {hold}."


def line(event: runs.RunEvent) -> Line:
    """Return one event for people."""
    return Line(event.number, event.at, event.kind.replace("_", " "), event.step, _said(event))


def _said(event: runs.RunEvent) -> str:
    """Return the sentence of an event, or its data as `name: value` where it has none."""
    for name in ("sentence", "error"):
        if isinstance(said := event.data.get(name), str) and said:
            return said
    return ", ".join(f"{name}: {value}" for name, value in event.data.items() if value not in (None, ""))


def commands(run: runs.Run) -> tuple[tuple[str, str], ...]:
    """Return what a person would type: label and command line, quoted for a shell."""
    request = run.plan.request
    asked = words.command(
        request.runbook, request.service, request.node, redaction.redact_mapping(dict(request.inputs))
    )
    reason = f" --reason {shlex.quote(request.reason)}" if request.reason else ""
    listed = [("Ask for the same again", asked + reason), ("Look at this run", f"dsctl runs get {shlex.quote(run.id)}")]
    if run.question is not None:
        listed += [("Look at its plan and agree to it", words.approval(run.id))]
    if not run.state.is_final:
        listed += [
            ("Follow it", f"dsctl runs watch {shlex.quote(run.id)}"),
            ("Stop it after its current step", f"dsctl runs cancel {shlex.quote(run.id)}"),
        ]
    return tuple(listed)
