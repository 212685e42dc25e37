"""Steps that ask people, as decisions: whose answer counts, when it is enough, what becomes of the run."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controlplane.domain import approvals, errors, outcomes, plans, policies
from controlplane.runs import asking, moves
from tests.support import runs as support
from tests.support.clock import START

State = outcomes.RunState
EDGES = (support.edge("undo", "all"), support.edge("run", "restore"), support.edge("escalate", "cache-team"))


def claim(*steps: plans.PlannedStep, **cursor: Any) -> moves.Claim:
    """A run at its first step, asked an hour ago at most."""
    made = support.plan(*(steps or (support.ask(quorum=2), support.act("flush"))), on_failure=EDGES)
    at = moves.Cursor(is_open=True, opened_at=START, deadline_at=START + timedelta(hours=1))
    return moves.Claim("run_1", made, replace(at, **cursor), 1, 0, None, is_cancel_requested=False, is_in_doubt=False)


def said(who: str, *, yes: bool = True, step: str = "agree", **fields: Any) -> approvals.Approval:
    given = approvals.Approval("run_1", step, who, yes, "", "hash", START)
    return replace(given, **fields)


def weigh(answers: list[approvals.Approval], *, at: moves.Claim | None = None, minutes: float = 1.0) -> moves.Move:
    return asking.weigh(at or claim(), answers, START + timedelta(minutes=minutes))


def test_enough_different_people_let_it_go_on() -> None:
    """The log names them; fewer than the quorum are not enough."""
    move = weigh([said("anna"), said("ben")])
    assert (move.state, move.cursor.step, move.entries[0].data) == (
        State.RUNNING,
        1,
        {"sentence": "approved by anna, ben"},
    )
    waiting = weigh([said("anna")])
    assert (waiting.state, waiting.asks, waiting.wake_seconds) == (State.WAITING, 1, 59 * 60.0)


def test_an_answer_to_another_plan_does_not_count() -> None:
    """However it came into the table."""
    assert weigh([said("anna"), said("ben", plan_hash="other")]).state is State.WAITING


def test_people_are_told_once() -> None:
    """When the run begins to wait, not each time it looks up."""
    [told] = weigh([]).errands
    assert (told.argument, told.kind) == ("approvers", plans.EdgeKind.ESCALATE)
    assert told.sentence == (
        "approval wanted by tester: flush-cache on chat/node-1; look and answer with `dsctl runs approve run_1` within 1 h"
    )
    assert weigh([], at=claim(is_told=True)).errands == ()


@pytest.mark.parametrize(("done", "kept"), [((), "nothing was done"), (("flush",), "done and kept: flush")])
def test_one_no_ends_it_with_who_and_why(done: tuple[str, ...], kept: str) -> None:
    """Whatever the others said; nothing is undone, nobody is called, what was done is named."""
    answers = [said("anna"), said("ben"), said("cleo", yes=False, reason="launch day")]
    move = weigh(answers, at=claim(done=done))
    assert (move.state, move.errands) == (State.CANCELLED, ())
    assert move.sentence == f"rejected by cleo: launch day; {kept}"


@pytest.mark.parametrize(("answers", "who"), [([], "nobody"), ([said("anna")], "only 1 of 2")])
def test_time_that_is_over_ends_it_and_tells_whom_the_runbook_names(
    answers: list[approvals.Approval], who: str
) -> None:
    """Nothing follows and nothing is undone; answers that came in time still count, however late they are weighed."""
    move = weigh(answers, minutes=60.0)
    assert (move.state, move.sentence) == (State.CANCELLED, f"{who} approved within 1 h; nothing was done")
    assert [(one.kind, one.argument) for one in move.errands] == [(plans.EdgeKind.ESCALATE, "cache-team")]
    assert weigh([said("anna"), said("ben")], minutes=600.0).state is State.RUNNING


def check(given: approvals.Approval, *answers: approvals.Approval, at: moves.Claim | None = None) -> None:
    held = at or claim()
    asking.check(given, held.plan, held.cursor, answers)


def test_an_answer_that_may_not_count_is_refused_with_its_reason() -> None:
    """Another plan, the own request, a second time, too late; the own request may be rejected."""
    with pytest.raises(errors.ConflictError, match="is hash, not other as answered"):
        check(said("anna", plan_hash="other"))
    with pytest.raises(errors.ConflictError, match=r"tester asked for run_1 .* somebody else has to"):
        check(said("tester"))
    with pytest.raises(errors.ConflictError, match="anna has approved step agree of run_1 already"):
        check(said("anna", yes=False), said("anna"))
    with pytest.raises(errors.ConflictError, match="has expired"):
        check(said("anna", at=START + timedelta(hours=1)))
    check(said("tester", yes=False))
    check(said("ben"), said("anna"))


def test_an_answer_is_for_the_next_question() -> None:
    """One that is left out by its condition asks nobody; behind its steps a run has no question."""
    first, second = support.ask("begin"), support.ask("finish")
    plan = support.plan(first, support.act("flush"), second)
    found = [asking.find_question(plan, moves.Cursor(step=step)) for step in range(4)]
    assert found == [first, second, second, None]
    assert asking.find_question(plan, moves.Cursor(phase=moves.Phase.UNDO)) is None
    skipped = support.plan(replace(first, decided=False), second)
    assert asking.find_question(skipped, moves.Cursor()) == second


def test_a_policy_that_asks_comes_before_everything_else() -> None:
    """With its quorum and its time; a runbook's own step of that name keeps it."""
    rule = policies.ApprovalRule(quorum=2, expires_seconds=600.0)
    request = plans.PlanRequest("flush-cache", "chat", "n1", "policy:cache", policy="cache", approval=rule)
    flush = support.act("flush")
    first, second = asking.ask_first(request, (flush,))
    assert (first.name, first.kind, first.quorum, first.timeout_seconds) == (
        "approval",
        plans.StepKind.APPROVAL,
        2,
        600.0,
    )
    assert (first.prompt, second) == ("May policy cache run flush-cache on chat/n1?", flush)
    assert asking.ask_first(request, (support.ask("approval"),))[0].name == "approval-of-policy"
    assert asking.ask_first(replace(request, approval=None), (flush,)) == (flush,)
