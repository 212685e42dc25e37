"""Every write to a run: submit, claim, the one fenced commit, cancel, reclaim.

Called by the run engine only; nothing else writes these tables. Plain functions of a connection, run as units of work
by the store's `Database`, so each is one transaction. The fence: a commit names owner, token and revision, and
changes nothing when any of them has moved on.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import dml

from controlplane.domain import approvals, errors, outcomes, plans, runs
from controlplane.runs import asking, moves, redaction, transitions
from controlplane.store import codec, tables
from controlplane.store import runs as stored

_RUN, _EVENT, _ERRAND, _APPROVAL = tables.RUN, tables.RUN_EVENT, tables.RUN_ERRAND, tables.RUN_APPROVAL
_Kind = runs.RunEventKind
_State = outcomes.RunState
# A parked run looks up at least this often. So a run that seems to sleep for longer was parked before the clock was
# stepped back, and is due; without that it would hold its target until the clock has caught up. One that waits for people
# sleeps to the end of its time: an answer wakes it, and a thousand of them must not look up for nothing.
MAX_WAKE_SECONDS = 300.0


# The fence of every commit: the run is still this owner's, under this token, where this owner left it.
FENCE = {
    "run": _RUN.c.id == sa.bindparam("held_run", type_=sa.String),
    "owner": _RUN.c.owner == sa.bindparam("held_by", type_=sa.String),
    "token": _RUN.c.token == sa.bindparam("held_token", type_=sa.Integer),
    "revision": _RUN.c.revision == sa.bindparam("held_revision", type_=sa.Integer),
    "state": _RUN.c.state == _State.RUNNING.value,
}


def make_commit(fence: Iterable[sa.ColumnElement[bool]]) -> dml.ReturningUpdate[bool, int]:
    """Return the update behind a fence; the columns it sets are named by its parameters."""
    num_events = _RUN.c.num_events + sa.bindparam("num_new", type_=sa.Integer)
    update = _RUN.update().where(*fence).values(num_events=num_events)
    return update.returning(_RUN.c.is_cancel_requested, _RUN.c.num_events)


# Built once: to build them for each step costs as much as to run them.
COMMIT = make_commit(FENCE.values())
OWNS = sa.select(_RUN.c.id).where(*FENCE.values())


def submit(connection: sa.Connection, run_id: str, plan: plans.Plan, now: datetime) -> None:
    """Store a run and take its target; IntegrityError when the dedup key or the target's slot is taken."""
    connection.execute(
        _RUN.insert(),
        {
            "id": run_id,
            "runbook": plan.request.runbook,
            "runbook_digest": plan.runbook_digest,
            "service": plan.request.service,
            "node": plan.request.node,
            "target": plan.target,
            "incident_id": plan.request.incident_id,
            "dedup_key": plan.request.dedup_key,
            "policy": plan.request.policy,
            "plan": codec.to_json(plan),
            "state": _State.QUEUED,
            "step": 0,
            "cursor": codec.to_json(moves.Cursor()),
            "slot": plan.lane.slot,
            "wake_at": now,
            "token": 0,
            "revision": 0,
            "num_events": 0,
            "is_cancel_requested": False,
            "created_at": _born_at(connection, plan, now),
            "sentence": "",
        },
    )
    data = {"plan": plan.id, "hash": plan.hash, "by": plan.request.requested_by, "reason": plan.request.reason}
    _append(connection, run_id, (moves.Entry(_Kind.SUBMITTED, data=data),), token=0, now=now)


def _born_at(connection: sa.Connection, plan: plans.Plan, now: datetime) -> datetime:
    """Return now, or a moment after the incident's newest run: its runs sort by birth, however the clock was set."""
    if plan.request.incident_id is None:
        return now
    same = _RUN.c.incident_id == plan.request.incident_id
    newest = connection.execute(sa.select(sa.func.max(_RUN.c.created_at)).where(same)).scalar()
    return now if newest is None else max(now, newest + timedelta(microseconds=1))


def find_by_dedup_key(connection: sa.Connection, key: str | None) -> str | None:
    """Return the run that was submitted under `key`."""
    if key is None:
        return None
    return connection.execute(sa.select(_RUN.c.id).where(_RUN.c.dedup_key == key)).scalar()


def find_holder(connection: sa.Connection, plan: plans.Plan) -> str | None:
    """Return the run that holds the plan's place: its target, in its lane."""
    query = sa.select(_RUN.c.id).where(_RUN.c.target == plan.target, _RUN.c.slot == plan.lane.slot)
    return connection.execute(query).scalar()


def has_due(connection: sa.Connection, now: datetime) -> bool:
    """Say whether `claim` would find something; a read, so that an idle engine writes nothing."""
    return connection.execute(_due(now).with_only_columns(_RUN.c.id).limit(1)).first() is not None


def claim(connection: sa.Connection, owner: str, now: datetime, limit: int) -> Sequence[moves.Claim]:
    """Take up to `limit` due runs: a higher token for each, and the announcement of what it does next."""
    rows = connection.execute(_due(now).limit(limit).with_for_update(skip_locked=True)).all()
    claims = [_claim_row(connection, row, owner, now) for row in rows]
    return [one for one in claims if one is not None]


def _due(now: datetime) -> sa.Select[Any]:
    is_parked = _RUN.c.state.in_((_State.QUEUED, _State.WAITING))
    is_lost = sa.and_(_RUN.c.wake_at > now + timedelta(seconds=MAX_WAKE_SECONDS), _RUN.c.awaits.is_(None))
    is_due = sa.or_(_RUN.c.wake_at <= now, is_lost)
    return sa.select(_RUN).where(is_parked, is_due).order_by(_RUN.c.wake_at, _RUN.c.id)


def _claim_row(connection: sa.Connection, row: sa.Row[Any], owner: str, now: datetime) -> moves.Claim | None:
    token = row.token + 1
    try:
        plan = codec.from_json(plans.Plan, row.plan)
        cursor = _rebase(codec.from_json(moves.Cursor, row.cursor), now)
    except errors.InvariantBrokenError as error:
        _give_up_unreadable(connection, row, str(error), now)
        return None
    opened, entries = transitions.announce(row.id, plan, cursor, now)
    values = {"state": _State.RUNNING, "owner": owner, "token": token, "cursor": codec.to_json(opened)}
    # The row is locked, so that its count of events is still what was read.
    values["num_events"] = row.num_events + len(entries)
    connection.execute(_RUN.update().where(_RUN.c.id == row.id).values(values))
    _insert_events(connection, row.id, entries, last=row.num_events + len(entries), token=token, now=now)
    return moves.Claim(
        run_id=row.id,
        plan=plan,
        cursor=opened,
        token=token,
        revision=row.revision,
        acted_at=row.acted_at,
        is_cancel_requested=row.is_cancel_requested,
        is_in_doubt=transitions.is_in_doubt(plan, cursor),
    )


def _rebase(cursor: moves.Cursor, now: datetime) -> moves.Cursor:
    """Shift a cursor that was opened in the future to now: the clock was stepped back, and a short wait would last as long."""
    if cursor.opened_at is None or cursor.opened_at <= now:
        return cursor
    ahead = cursor.opened_at - now
    deadline_at = cursor.deadline_at - ahead if cursor.deadline_at is not None else None
    return dataclasses.replace(cursor, opened_at=now, deadline_at=deadline_at)


def _give_up_unreadable(connection: sa.Connection, row: sa.Row[Any], reason: str, now: datetime) -> None:
    """End a run that this version cannot read, so that it does not stop the claiming of all others."""
    sentence = f"{reason}; this dsctl cannot drive the run, look at {row.target} and at the run's events"
    values = _final_values(_State.NEEDS_HUMAN, sentence, now) | {"token": row.token + 1}
    connection.execute(_RUN.update().where(_RUN.c.id == row.id).values(values))
    _append(connection, row.id, (_ended(_State.NEEDS_HUMAN, sentence),), token=row.token + 1, now=now)
    errand = moves.Errand(plans.EdgeKind.ESCALATE, transitions.DEFAULT_PERSON, sentence)
    add_errands(connection, row.id, (errand,), now)


def give_up_unreadable(connection: sa.Connection, now: datetime) -> None:
    """End what asks people and cannot be read here: it sleeps for long, and keeps all other runs from being read."""
    is_parked = _RUN.c.state.in_((_State.QUEUED, _State.WAITING))
    asks = sa.select(_RUN).where(is_parked, _RUN.c.awaits.is_not(None)).with_for_update(skip_locked=True)
    for row in connection.execute(asks).all():
        try:
            codec.from_json(plans.Plan, row.plan)
            codec.from_json(moves.Cursor, row.cursor)
        except errors.InvariantBrokenError as error:
            _give_up_unreadable(connection, row, str(error), now)


@dataclass(frozen=True, slots=True)
class Committed:
    """What the owner holds after its commit; `cursor` has the next thing announced."""

    cursor: moves.Cursor
    revision: int
    is_cancel_requested: bool


def commit(
    connection: sa.Connection,
    owner: str,
    held: moves.Claim,
    move: moves.Move,
    now: datetime,
) -> Committed:
    """Write one move, and announce what comes next if the run goes on; raises LostLeaseError.

    May be called again with the same move when it is not known whether the first commit arrived.
    """
    cursor, entries = _announce_next(held, move, now)
    awaits = None if move.asks is None else held.step.name
    entries = (*move.entries, *entries)
    revision = held.revision + 1
    values = {"awaits": awaits, "num_new": len(entries), **_values(move, cursor, revision, now)}
    row = connection.execute(COMMIT, {**values, **_fence_values(owner, held)}).first()
    if row is None:
        return _find_arrived(connection, held, revision)
    if row.is_cancel_requested and move.state is _State.WAITING:
        # Whoever asked for the end must not wait for as long as the run would have slept.
        connection.execute(_RUN.update().where(_RUN.c.id == held.run_id).values(wake_at=now))
    _insert_events(connection, held.run_id, entries, last=row.num_events, token=held.token, now=now)
    if move.asks is not None:
        _wake_if_answered(connection, held, move.asks, now)
    elif held.cursor.is_told and move.state is not _State.WAITING:
        _settle_calls(connection, held.run_id, now)
    add_errands(connection, held.run_id, move.errands, now)
    return Committed(cursor, revision, row.is_cancel_requested)


def _fence_values(owner: str, held: moves.Claim) -> dict[str, object]:
    return {"held_run": held.run_id, "held_by": owner, "held_token": held.token, "held_revision": held.revision}


def owns(connection: sa.Connection, owner: str, held: moves.Claim) -> bool:
    """Say whether a commit for this claim would pass its fence now; a read."""
    return connection.execute(OWNS, _fence_values(owner, held)).first() is not None


def _announce_next(held: moves.Claim, move: moves.Move, now: datetime) -> tuple[moves.Cursor, tuple[moves.Entry, ...]]:
    if move.state is not _State.RUNNING:
        return move.cursor, ()
    return transitions.announce(held.run_id, held.plan, move.cursor, now)


def _find_arrived(connection: sa.Connection, held: moves.Claim, revision: int) -> Committed:
    """Tell a lost lease from a commit of ours whose answer was lost on the way."""
    row = connection.execute(
        sa.select(_RUN.c.cursor, _RUN.c.is_cancel_requested).where(
            _RUN.c.id == held.run_id, _RUN.c.token == held.token, _RUN.c.revision == revision
        )
    ).first()
    if row is None:
        raise errors.LostLeaseError(f"run {held.run_id} is no longer driven with token {held.token}")
    cursor = codec.from_json(moves.Cursor, row.cursor)
    return Committed(cursor, revision, row.is_cancel_requested)


def _values(move: moves.Move, cursor: moves.Cursor, revision: int, now: datetime) -> Mapping[str, object]:
    values: dict[str, object] = {"cursor": codec.to_json(cursor), "step": cursor.step, "revision": revision}
    if move.acted_at is not None:
        values["acted_at"] = move.acted_at
    if move.verdict is not None:
        values["verdict"] = move.verdict
    if move.state.is_final:
        return values | _final_values(move.state, move.sentence, now)
    if move.state is not _State.RUNNING:
        seconds = move.wake_seconds if move.asks is not None else min(move.wake_seconds, MAX_WAKE_SECONDS)
        values |= {"owner": None, "wake_at": now + timedelta(seconds=seconds)}
    return values | {"state": move.state}


def _final_values(state: outcomes.RunState, sentence: str, now: datetime) -> dict[str, object]:
    return {"state": state, "slot": None, "owner": None, "awaits": None, "sentence": sentence, "ended_at": now}


def _ended(state: outcomes.RunState, sentence: str) -> moves.Entry:
    return moves.Entry(_Kind.ENDED, data={"state": state, "sentence": sentence})


def cancel(connection: sa.Connection, run_id: str, who: str, now: datetime) -> outcomes.RunState:
    """Ask a run to stop and return its state afterwards.

    A run that is parked ends here; one that is being driven ends at its next commit. A final run stays as it is.
    Raises NotFoundError.
    """
    row = connection.execute(sa.select(_RUN).where(_RUN.c.id == run_id).with_for_update()).first()
    if row is None:
        raise errors.NotFoundError(f"there is no run {run_id}; list them with: dsctl runs list")
    state = outcomes.RunState(row.state)
    if state.is_final or row.is_cancel_requested:
        return state
    requested = moves.Entry(_Kind.CANCEL_REQUESTED, data={"by": who})
    if state is _State.RUNNING:
        connection.execute(_RUN.update().where(_RUN.c.id == run_id).values(is_cancel_requested=True))
        _append(connection, run_id, (requested,), token=row.token, now=now)
        return state
    try:
        plan, cursor = codec.from_json(plans.Plan, row.plan), codec.from_json(moves.Cursor, row.cursor)
    except errors.InvariantBrokenError as error:
        _give_up_unreadable(connection, row, str(error), now)
        return _State.NEEDS_HUMAN
    is_in_doubt = transitions.may_have_happened(plan, cursor)
    sentence = transitions.cancel_sentence(plan, cursor, is_in_doubt=is_in_doubt)
    acted_at = cursor.opened_at if is_in_doubt else row.acted_at
    values = _final_values(_State.CANCELLED, sentence, now) | {"token": row.token + 1, "acted_at": acted_at}
    connection.execute(_RUN.update().where(_RUN.c.id == run_id).values(values))
    _append(connection, run_id, (requested, _ended(_State.CANCELLED, sentence)), token=row.token, now=now)
    _settle_calls(connection, run_id, now)
    return _State.CANCELLED


def answer(connection: sa.Connection, given: approvals.Approval) -> None:
    """Keep what a person answered, whether the run asks already or will, and wake it if it waits for that.

    `given` names the question that was looked at, and counts for no other; without a name it is for the next one that
    asks. Raises NotFoundError, and ConflictError for an answer that may not count.
    """
    row = connection.execute(sa.select(_RUN).where(_RUN.c.id == given.run_id).with_for_update()).first()
    if row is None:
        raise errors.NotFoundError(f"there is no run {given.run_id}; list them with: dsctl runs list")
    plan, cursor = codec.from_json(plans.Plan, row.plan), codec.from_json(moves.Cursor, row.cursor)
    step = asking.find_question(plan, cursor)
    if outcomes.RunState(row.state).is_final or step is None:
        raise errors.ConflictError(f"{given.run_id} is {row.state} and asks nobody any more; nothing was kept")
    given = dataclasses.replace(given, step=asking.settle_step(given, step))
    asking.check(given, plan, cursor, stored.read_approvals(connection, given.run_id, step.name))
    connection.execute(_APPROVAL.insert(), dataclasses.asdict(given))
    _append(connection, given.run_id, (asking.make_entry(given),), token=row.token, now=given.at)
    if row.awaits == step.name:
        connection.execute(_RUN.update().where(_RUN.c.id == given.run_id).values(wake_at=given.at))


def withdraw(connection: sa.Connection, run_id: str, why: str, now: datetime) -> bool:
    """Cancel a run that waits for people and has had no effect; False where it is not so, or not any more."""
    is_parked = _RUN.c.state.in_((_State.QUEUED, _State.WAITING))
    asks = sa.and_(_RUN.c.id == run_id, is_parked, _RUN.c.awaits.is_not(None), _RUN.c.acted_at.is_(None))
    row = connection.execute(sa.select(_RUN.c.awaits, _RUN.c.token).where(asks).with_for_update()).first()
    if row is None:
        return False
    sentence = f"nothing was done: {why}"
    denied = moves.Entry(_Kind.GUARD_DENIED, row.awaits, {"gate": outcomes.Gate.RESOLVED, "sentence": why})
    values = _final_values(_State.CANCELLED, sentence, now) | {"token": row.token + 1}
    connection.execute(_RUN.update().where(_RUN.c.id == run_id).values(values))
    _append(connection, run_id, (denied, _ended(_State.CANCELLED, sentence)), token=row.token, now=now)
    _settle_calls(connection, run_id, now)
    return True


def _wake_if_answered(connection: sa.Connection, held: moves.Claim, num_weighed: int, now: datetime) -> None:
    """Let a run that goes to sleep wake at once when somebody answered while that was decided.

    The run's row is locked by now: an answer either is seen here, or finds the run asleep and wakes it.
    """
    if len(stored.read_approvals(connection, held.run_id, held.step.name)) > num_weighed:
        connection.execute(_RUN.update().where(_RUN.c.id == held.run_id).values(wake_at=now))


def _settle_calls(connection: sa.Connection, run_id: str, now: datetime) -> None:
    """Leave out what people have not been told of a question that is answered or over; only that is owed before the end."""
    is_owed = sa.and_(_ERRAND.c.run_id == run_id, _ERRAND.c.done_at.is_(None))
    connection.execute(_ERRAND.update().where(is_owed).values(done_at=now))


def find_owned(connection: sa.Connection, owner: str) -> Collection[tuple[str, int]]:
    """Return (run, token) of everything `owner` drives according to the database."""
    query = sa.select(_RUN.c.id, _RUN.c.token).where(_RUN.c.state == _State.RUNNING, _RUN.c.owner == owner)
    return {(row.id, row.token) for row in connection.execute(query)}


def reclaim(connection: sa.Connection, condition: sa.ColumnElement[bool], reason: str, now: datetime) -> int:
    """Put running runs that nobody drives back into the queue, their place kept; return how many."""
    query = sa.select(_RUN.c.id, _RUN.c.owner, _RUN.c.token).where(_RUN.c.state == _State.RUNNING, condition)
    rows = connection.execute(query.with_for_update(skip_locked=True)).all()
    for row in rows:
        values = {"state": _State.QUEUED, "owner": None, "wake_at": now}
        connection.execute(_RUN.update().where(_RUN.c.id == row.id).values(values))
        entry = moves.Entry(_Kind.RECLAIMED, data={"from": row.owner, "reason": reason})
        _append(connection, row.id, (entry,), token=row.token, now=now)
    return len(rows)


def results(connection: sa.Connection, run_id: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the stored data of every finished step: name to `sentence` and `result`."""
    query = sa.select(_EVENT.c.step, _EVENT.c.data).where(
        _EVENT.c.run_id == run_id, _EVENT.c.kind == _Kind.STEP_FINISHED
    )
    return {row.step: row.data for row in connection.execute(query)}


def append(connection: sa.Connection, run_id: str, entry: moves.Entry, now: datetime) -> None:
    """Add an event to a run: what became of its errands."""
    token = connection.execute(sa.select(_RUN.c.token).where(_RUN.c.id == run_id).with_for_update()).scalar_one()
    _append(connection, run_id, (entry,), token=token, now=now)


def _append(
    connection: sa.Connection, run_id: str, entries: Sequence[moves.Entry], *, token: int, now: datetime
) -> None:
    if not entries:
        return
    # Counting on the run's row also makes concurrent writers of one log wait for each other.
    last = connection.execute(
        _RUN.update()
        .where(_RUN.c.id == run_id)
        .values(num_events=_RUN.c.num_events + len(entries))
        .returning(_RUN.c.num_events)
    ).scalar_one()
    _insert_events(connection, run_id, entries, last=last, token=token, now=now)


def _insert_events(
    connection: sa.Connection,
    run_id: str,
    entries: Sequence[moves.Entry],
    *,
    last: int,
    token: int,
    now: datetime,
) -> None:
    """Write the events up to number `last`, which the run's row already counts."""
    if not entries:
        return
    first = last - len(entries) + 1
    connection.execute(
        _EVENT.insert(),
        [
            {
                "run_id": run_id,
                "number": first + index,
                "at": now,
                "kind": entry.kind,
                "step": entry.step,
                "token": token,
                "data": redaction.redact_mapping(entry.data),
            }
            for index, entry in enumerate(entries)
        ],
    )


def add_errands(connection: sa.Connection, run_id: str, errands: Sequence[moves.Errand], now: datetime) -> None:
    """Store what a run owes, in the transaction of its end or of its question."""
    if not errands:
        return
    last = sa.select(sa.func.coalesce(sa.func.max(_ERRAND.c.number), 0)).where(_ERRAND.c.run_id == run_id)
    first = connection.execute(last).scalar_one() + 1
    rows: list[dict[str, object]] = [
        {
            "run_id": run_id,
            "number": index,
            "kind": errand.kind,
            "argument": errand.argument,
            "sentence": errand.sentence,
            "attempts": 0,
            "due_at": now,
        }
        for index, errand in enumerate(errands, start=first)
    ]
    connection.execute(_ERRAND.insert(), rows)
