"""Where a run goes next: a pure function for every situation, from cursor to move.

Called by the drivers of `runs`. Knows neither database nor clock (times are passed in). Read it top to bottom to
know the life of a run: steps in order, then verification, and after a failure undo, follow-up, escalation.
"""

import dataclasses
from collections.abc import Callable
from datetime import datetime, timedelta

from controlplane import phrases
from controlplane.domain import outcomes, plans, runs
from controlplane.runs import moves

_Kind = runs.RunEventKind
_State = outcomes.RunState
# In the argument of an undo edge: every step that took effect and can be undone, newest first.
ALL_STEPS = "all"
# Who is told when a person must decide and the runbook names nobody.
DEFAULT_PERSON = "oncall"


def idempotency_key(run_id: str, step: str) -> str:
    """Return the key under which every try of a step is sent; the target may use it to recognise a repeat."""
    return f"{run_id}:{step}"


def undo_key(run_id: str, step: str) -> str:
    """Return the key of the undo of a step; another key, or the target would take the undo for a repeat."""
    return f"{run_id}:{step}:undo"


def announce(
    run_id: str, plan: plans.Plan, cursor: moves.Cursor, now: datetime
) -> tuple[moves.Cursor, tuple[moves.Entry, ...]]:
    """Open what stands at the cursor, with the events that say so before it happens."""
    if cursor.is_open or is_condition_open(plan, cursor):
        return cursor, ()
    opened = dataclasses.replace(cursor, is_open=True, attempt=cursor.attempt + 1, opened_at=now)
    if cursor.phase is moves.Phase.VERIFY:
        return opened, (moves.Entry(_Kind.VERIFY_STARTED, data={"signals": _signals(plan)}),)
    if cursor.phase is moves.Phase.UNDO:
        key = undo_key(run_id, cursor.undo[0])
        return opened, (moves.Entry(_Kind.UNDO_STARTED, cursor.undo[0], {"key": key, "attempt": opened.attempt}),)
    step = plan.steps[cursor.step]
    at, (started, *others) = _announce_step(run_id, step, opened, now)
    if step.when:
        started = dataclasses.replace(started, data={**started.data, "when": step.when})
    return at, (started, *others)


def is_condition_open(plan: plans.Plan, cursor: moves.Cursor) -> bool:
    """Say whether the step at the cursor has a condition that has not been asked: nothing of it is announced yet."""
    if cursor.phase is not moves.Phase.STEPS or cursor.is_admitted:
        return False
    step = plan.steps[cursor.step]
    return bool(step.when) and step.decided is not True


def admit(claim: moves.Claim) -> moves.Move:
    """Go on with the step whose condition holds: it is announced next, and not asked about again."""
    return moves.Move(_State.RUNNING, dataclasses.replace(claim.cursor, is_admitted=True, deadline_at=None))


def leave_out(claim: moves.Claim) -> moves.Move:
    """Leave a step whose condition does not hold: it is neither done nor failed."""
    step = claim.step
    entry = moves.Entry(
        _Kind.STEP_SKIPPED, step.name, {"when": step.when, "sentence": f"left out: {step.when} is false"}
    )
    claim = dataclasses.replace(
        claim, cursor=dataclasses.replace(claim.cursor, skipped=(*claim.cursor.skipped, step.name))
    )
    return _leave_step(claim, claim.cursor.done, (entry,), None)


def _announce_step(
    run_id: str, step: plans.PlannedStep, opened: moves.Cursor, now: datetime
) -> tuple[moves.Cursor, tuple[moves.Entry, ...]]:
    if step.kind is plans.StepKind.WAIT:
        deadline = now + timedelta(seconds=step.timeout_seconds)
        waiting = moves.Entry(_Kind.WAITING, step.name, {"until": step.until, "deadline": deadline.isoformat()})
        return dataclasses.replace(opened, deadline_at=deadline), (moves.Entry(_Kind.STEP_STARTED, step.name), waiting)
    if step.kind is plans.StepKind.APPROVAL:
        deadline = now + timedelta(seconds=step.timeout_seconds)
        needed = phrases.count(step.quorum, "approval")
        until = deadline.strftime("%Y-%m-%d %H:%M UTC")
        said = f"waits for {needed} until {until}{f': {step.prompt}' if step.prompt else ''}"
        asked = {"sentence": said, "quorum": step.quorum, "deadline": deadline.isoformat()}
        entries = (moves.Entry(_Kind.STEP_STARTED, step.name), moves.Entry(_Kind.APPROVAL_ASKED, step.name, asked))
        return dataclasses.replace(opened, deadline_at=deadline), entries
    data = {
        "attempt": opened.attempt,
        "key": idempotency_key(run_id, step.name),
        "action": step.action,
        "params": step.params,
    }
    return opened, (moves.Entry(_Kind.STEP_STARTED, step.name, data),)


def is_in_doubt(plan: plans.Plan, cursor: moves.Cursor) -> bool:
    """Say whether an owner that died at this cursor may have changed the world without a record of the outcome."""
    if not cursor.is_open or cursor.phase is moves.Phase.VERIFY:
        return False
    return cursor.phase is moves.Phase.UNDO or plan.steps[cursor.step].kind is plans.StepKind.ACTION


def step_finished(claim: moves.Claim, entries: tuple[moves.Entry, ...], acted_at: datetime | None = None) -> moves.Move:
    """Leave a step that is done: to the next one, to verification, or to the end."""
    step = claim.step
    done = (*claim.cursor.done, step.name) if step.kind is plans.StepKind.ACTION else claim.cursor.done
    return _leave_step(claim, done, entries, acted_at)


def pass_over(claim: moves.Claim, entries: tuple[moves.Entry, ...], acted_at: datetime | None = None) -> moves.Move:
    """Leave a step that failed and may: the run goes on, the log says so, and the step does not count as done."""
    said = tuple(
        dataclasses.replace(one, data={**one.data, "continues": True}) if one.kind is _Kind.STEP_FAILED else one
        for one in entries
    )
    return _leave_step(claim, claim.cursor.done, said, acted_at)


def _leave_step(
    claim: moves.Claim, done: tuple[str, ...], entries: tuple[moves.Entry, ...], acted_at: datetime | None
) -> moves.Move:
    at = moves.Cursor(
        step=claim.cursor.step + 1,
        done=done,
        began_at=claim.cursor.began_at or acted_at,
        skipped=claim.cursor.skipped,
    )
    if at.step < len(claim.plan.steps):
        return moves.Move(_State.RUNNING, at, entries, acted_at=acted_at)
    if claim.plan.verify is not None:
        at = dataclasses.replace(at, phase=moves.Phase.VERIFY)
        return moves.Move(_State.RUNNING, at, entries, acted_at=acted_at)
    return end(_State.SUCCEEDED, at, f"{_what_was_done(claim.plan, at)}; nothing is verified", entries, acted_at)


def _what_was_done(plan: plans.Plan, at: moves.Cursor) -> str:
    actions = [step.name for step in plan.steps if step.kind is plans.StepKind.ACTION]
    failed = [name for name in actions if name not in at.done and name not in at.skipped]
    parts = [f"{', '.join(failed)}, which failed and may"] if failed else []
    parts += [f"{', '.join(at.skipped)}, left out by condition"] if at.skipped else []
    return f"done but for {' and for '.join(parts)}" if parts else "every step is done"


def announce_again(
    claim: moves.Claim, entries: tuple[moves.Entry, ...] = (), *, is_doubtful: bool = False
) -> moves.Move:
    """Announce what is in doubt once more, at once; no try is ever made without a record of its own."""
    closed = dataclasses.replace(claim.cursor, is_open=False, is_doubtful=is_doubtful, deadline_at=None)
    return moves.Move(_State.RUNNING, closed, entries)


def try_again(
    claim: moves.Claim,
    entries: tuple[moves.Entry, ...],
    seconds: float,
    *,
    is_doubtful: bool = False,
    acted_at: datetime | None = None,
) -> moves.Move:
    """Park the run and announce the same thing again after `seconds`."""
    closed = dataclasses.replace(claim.cursor, is_open=False, is_doubtful=is_doubtful)
    return moves.Move(_State.WAITING, closed, entries, wake_seconds=seconds, acted_at=acted_at)


def keep_waiting(claim: moves.Claim, seconds: float, *, deadline_at: datetime | None = None) -> moves.Move:
    """Look again after `seconds`, without announcing anything anew; `deadline_at` replaces the stored one."""
    cursor = dataclasses.replace(claim.cursor, deadline_at=deadline_at or claim.cursor.deadline_at)
    return moves.Move(_State.WAITING, cursor, wake_seconds=seconds)


def fail(
    claim: moves.Claim,
    cause: str,
    entries: tuple[moves.Entry, ...],
    is_reversible: Callable[[str], bool],
    *,
    verdict: outcomes.Verdict | None = None,
    acted_at: datetime | None = None,
) -> moves.Move:
    """Walk the failure edges: first whatever is to be undone, then the end with its errands."""
    agenda = undo_agenda(claim.plan, claim.cursor, is_reversible)
    cursor = moves.Cursor(
        phase=moves.Phase.UNDO, step=claim.cursor.step, done=claim.cursor.done, undo=agenda, cause=cause
    )
    return dataclasses.replace(_next_undo(claim.plan, cursor, entries), verdict=verdict, acted_at=acted_at)


def undo_agenda(plan: plans.Plan, cursor: moves.Cursor, is_reversible: Callable[[str], bool]) -> tuple[str, ...]:
    """Return the steps to undo in order: as the edges name them, and of those only what took effect, each once."""
    actions, done = {step.name: step.action for step in plan.steps}, cursor.done
    agenda: list[str] = []
    for edge in plan.edges_at(cursor.step):
        if edge.kind is plans.EdgeKind.UNDO:
            is_all = edge.argument == ALL_STEPS and ALL_STEPS not in actions
            named = [one for one in reversed(done) if is_reversible(actions[one])] if is_all else [edge.argument]
            agenda += [one for one in named if one in done and one not in agenda]
    return tuple(agenda)


def undo_ended(claim: moves.Claim, entry: moves.Entry, *, is_undone: bool, is_undecided: bool = False) -> moves.Move:
    """Leave an undo, done or not, for the next one or for the end."""
    cursor = claim.cursor
    name, *rest = cursor.undo
    after = dataclasses.replace(
        cursor,
        attempt=0,
        is_open=False,
        is_doubtful=False,
        undo=tuple(rest),
        undone=(*cursor.undone, name) if is_undone else cursor.undone,
        not_undone=cursor.not_undone if is_undone else (*cursor.not_undone, name),
        is_undecided=cursor.is_undecided or is_undecided,
    )
    return _next_undo(claim.plan, after, (entry,))


def _next_undo(plan: plans.Plan, cursor: moves.Cursor, entries: tuple[moves.Entry, ...]) -> moves.Move:
    if cursor.undo:
        return moves.Move(_State.RUNNING, cursor, entries)
    state = _failed_state(cursor)
    sentence = _undo_sentence(cursor)
    needs_human = state is _State.NEEDS_HUMAN
    edges = plan.edges_at(cursor.step)
    errands = people_to_tell(edges, sentence) if needs_human else all_errands(edges, sentence)
    return end(state, cursor, sentence, entries, errands=errands)


def _failed_state(cursor: moves.Cursor) -> outcomes.RunState:
    if cursor.is_undecided:
        return _State.NEEDS_HUMAN
    return _State.ROLLED_BACK if cursor.undone and not cursor.not_undone else _State.FAILED


def _undo_sentence(cursor: moves.Cursor) -> str:
    parts = [cursor.cause]
    if cursor.undone:
        parts.append(f"undone: {', '.join(cursor.undone)}")
    if cursor.not_undone:
        parts.append(f"not undone: {', '.join(cursor.not_undone)}, look at the target")
    return "; ".join(parts)


_Edges = tuple[plans.FailureEdge, ...]


def all_errands(edges: _Edges, sentence: str) -> tuple[moves.Errand, ...]:
    """Return the follow-ups and escalations of the failure edges, in their order."""
    return tuple(
        moves.Errand(edge.kind, edge.argument, sentence) for edge in edges if edge.kind is not plans.EdgeKind.UNDO
    )


def people_to_tell(edges: _Edges, sentence: str) -> tuple[moves.Errand, ...]:
    """Return the escalations alone; somebody is always told."""
    named = named_people(edges, sentence)
    return named or (moves.Errand(plans.EdgeKind.ESCALATE, DEFAULT_PERSON, sentence),)


def named_people(edges: _Edges, sentence: str) -> tuple[moves.Errand, ...]:
    """Return the escalations that the edges name."""
    return tuple(one for one in all_errands(edges, sentence) if one.kind is plans.EdgeKind.ESCALATE)


def hand_over(
    claim: moves.Claim, sentence: str, entries: tuple[moves.Entry, ...], acted_at: datetime | None = None
) -> moves.Move:
    """End at a person's feet: nothing more is done, not even undone, because nobody knows what is true."""
    errands = people_to_tell(claim.plan.edges_at(claim.cursor.step), sentence)
    at = acted_at or _perhaps_acted_at(claim.plan, claim.cursor)
    return end(_State.NEEDS_HUMAN, claim.cursor, sentence, entries, at, errands=errands)


def _perhaps_acted_at(plan: plans.Plan, cursor: moves.Cursor) -> datetime | None:
    """Return when the thing at the cursor may have taken effect: for cooldowns, what may have happened has."""
    return cursor.opened_at if may_have_happened(plan, cursor) else None


def may_have_happened(plan: plans.Plan, cursor: moves.Cursor) -> bool:
    """Say whether the thing at the cursor may have taken effect without a record of it: now, or in an earlier try."""
    return cursor.is_doubtful or is_in_doubt(plan, cursor)


def cancel(claim: moves.Claim) -> moves.Move:
    """End on request, with what is done left as it is. The newest try was announced and not begun."""
    is_in_doubt = claim.is_in_doubt or claim.cursor.is_doubtful
    sentence = cancel_sentence(claim.plan, claim.cursor, is_in_doubt=is_in_doubt)
    acted_at = claim.cursor.opened_at if is_in_doubt else None
    return end(_State.CANCELLED, claim.cursor, sentence, (), acted_at)


def cancel_sentence(plan: plans.Plan, cursor: moves.Cursor, *, is_in_doubt: bool) -> str:
    """Say what a cancelled run leaves behind."""
    if not is_in_doubt:
        return f"cancelled on request; {what_is_kept(cursor)}"
    name = cursor.undo[0] if cursor.phase is moves.Phase.UNDO else plan.steps[cursor.step].name
    return f"cancelled on request while {name} was in flight: it may have happened, look at {plan.target}"


def what_is_kept(cursor: moves.Cursor) -> str:
    """Name what stays of a run that ends before its time."""
    return f"done and kept: {', '.join(cursor.done)}" if cursor.done else "nothing was done"


def deny(claim: moves.Claim, denied: outcomes.Denied) -> moves.Move:
    """End because the guard refused the step at the cursor, which has not been sent.

    What earlier steps did stays: undoing would be acting too, which is what the guard has just refused.
    """
    entry = moves.Entry(_Kind.GUARD_DENIED, claim.step.name, {"gate": denied.gate, "sentence": denied.sentence})
    if not claim.cursor.done and claim.acted_at is None:
        return end(_State.CANCELLED, claim.cursor, f"nothing was done: {denied.sentence}", (entry,))
    kept = ", ".join(claim.cursor.done) or "nothing for certain"
    sentence = f"stopped before {claim.step.name}: {denied.sentence}; done and kept: {kept}"
    errands = people_to_tell(claim.plan.edges_at(claim.cursor.step), sentence)
    return end(_State.FAILED, claim.cursor, sentence, (entry,), errands=errands)


def verified(claim: moves.Claim, judged: outcomes.Judged, is_reversible: Callable[[str], bool]) -> moves.Move:
    """Take the verdict: the end when recovered, else the failure edges."""
    data = {"verdict": judged.verdict, "sentence": judged.sentence, "has_control": judged.has_control}
    entry = moves.Entry(_Kind.VERIFIED, data=data | {"evidence": judged.evidence})
    if judged.verdict is outcomes.Verdict.RECOVERED:
        ended = end(_State.SUCCEEDED, claim.cursor, judged.sentence, (entry,))
        return dataclasses.replace(ended, verdict=judged.verdict)
    cause = f"verdict {judged.verdict}: {judged.sentence}"
    return fail(claim, cause, (entry,), is_reversible, verdict=judged.verdict)


def end(
    state: outcomes.RunState,
    cursor: moves.Cursor,
    sentence: str,
    entries: tuple[moves.Entry, ...],
    acted_at: datetime | None = None,
    errands: tuple[moves.Errand, ...] = (),
) -> moves.Move:
    """Build the last move of a run."""
    ended = moves.Entry(_Kind.ENDED, data={"state": state, "sentence": sentence})
    closed = dataclasses.replace(cursor, is_open=False)
    return moves.Move(state, closed, (*entries, ended), acted_at=acted_at, sentence=sentence, errands=errands)


def _signals(plan: plans.Plan) -> list[str]:
    return list(plan.verify.signals) if plan.verify is not None else []
