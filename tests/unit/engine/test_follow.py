"""Follow: what the state of a run means for its incident."""

from datetime import timedelta
from typing import Any

import pytest

from controlplane.domain import incidents, outcomes, plans
from controlplane.engine import follow
from tests.support import builders as b
from tests.support.clock import START

State, RunState, Verdict = incidents.IncidentState, outcomes.RunState, outcomes.Verdict
ACTING = b.incident(state=State.ACTING, run_id="run_1", attempts=1)


def after(run: Any, incident: incidents.Incident = ACTING, *, seconds: float = 10.0, **fields: Any) -> follow.Followed:
    defaults: dict[str, Any] = {"is_reported": True, "grace_seconds": 300.0}
    return follow.follow(incident, run, now=START + timedelta(seconds=seconds), **defaults | fields)


def test_adopting_a_run_spends_an_attempt() -> None:
    """Whoever asked for it, it is one try at this incident."""
    adopted = follow.adopt(b.incident(attempts=1, verdict=Verdict.WORSE), "run_2", START)
    assert (adopted.state, adopted.run_id, adopted.attempts, adopted.verdict) == (State.ACTING, "run_2", 2, None)


def test_a_run_in_its_steps_is_acting() -> None:
    """The sentence names the step; nothing new is put on the timeline."""
    steps = tuple(plans.PlannedStep(name, plans.StepKind.ACTION, 1.0) for name in ("drain", "flush"))
    found = after(b.run(plan=b.plan(steps=steps), step=1, sentence="sent"))
    assert found == follow.Followed(ACTING, "acting: run run_1 (flush-cache on chat/node-a), step flush (2 of 2); sent")


ASKING = b.plan(steps=(plans.PlannedStep("approval", plans.StepKind.APPROVAL, 3600.0), *b.plan().steps))


def test_a_run_that_asks_people_says_how_to_answer() -> None:
    """It is in flight; a person reads the command off the incident."""
    found = after(b.run(plan=ASKING, state=RunState.WAITING))
    assert found.incident.state is State.ACTING
    assert found.sentence == (
        "waits for approval: run run_1 (flush-cache on chat/node-a); look and answer with `dsctl runs approve run_1`"
    )


@pytest.mark.parametrize(
    ("seconds", "fields", "is_moot"),
    [(60.0, {}, True), (59.0, {}, False), (60.0, {"acted_at": START}, False), (60.0, {"step": 1}, False)],
)
def test_a_question_is_moot_once_its_trouble_is_over(seconds: float, fields: dict[str, Any], is_moot: bool) -> None:
    """Quiet for as long as ends an incident, nothing done, nobody has decided; while it is reported it is asked."""
    changed: dict[str, Any] = {"plan": ASKING, "state": RunState.WAITING} | fields
    run = b.run(**changed)
    now, quiet = START + timedelta(seconds=seconds), b.incident(quiet_since=START)
    assert follow.is_moot(quiet, run, now, quiet_seconds=60.0) is is_moot
    assert not follow.is_moot(b.incident(), run, now, quiet_seconds=60.0)


def test_a_run_behind_its_steps_is_verifying() -> None:
    """That change is worth a line."""
    found = after(b.run(state=RunState.WAITING, step=1))
    assert found.incident.state is State.VERIFYING
    assert found.note == found.sentence == "verifying: run run_1 (flush-cache on chat/node-a) has acted"


def test_a_recovered_run_whose_alerts_still_fire_waits_for_them() -> None:
    """The verdict is set at once; nothing is opened again within the resolve delay."""
    found = after(b.ended_run())
    assert (found.incident.state, found.incident.verdict) == (State.VERIFYING, Verdict.RECOVERED)
    assert found.sentence.endswith("waits up to 4 min 50 s for alert:CacheWrongAnswers to resolve")
    again = after(b.ended_run(), found.incident, seconds=299.0)
    assert (again.incident, again.note) == (found.incident, "")


def test_it_closes_as_soon_as_its_sources_are_quiet() -> None:
    """No second quiet time: the verification has held already."""
    quiet = b.incident(state=State.VERIFYING, run_id="run_1", quiet_since=START, verdict=Verdict.RECOVERED)
    found = after(b.ended_run(), quiet, is_reported=False)
    assert (found.incident.state, found.incident.verdict) == (State.CLOSED, Verdict.RECOVERED)
    assert found.incident.closed_at == START + timedelta(seconds=10)
    assert found.note == (
        "closed: run run_1 (flush-cache on chat/node-a) answered it; recovered: cache_wrong_ratio is 0"
    )


def test_trouble_that_outlasts_the_grace_time_is_open_again() -> None:
    """The attempt stays counted, so this cannot go on for ever."""
    found = after(b.ended_run(), seconds=300.0)
    assert (found.incident.state, found.incident.verdict, found.incident.attempts) == (State.OPEN, None, 1)
    assert found.note.startswith("open again: alert:CacheWrongAnswers still reports it 5 min after run run_1")


def test_unknown_quiet_neither_closes_nor_opens_again() -> None:
    """While nobody can tell, it waits, however long."""
    found = after(b.ended_run(), is_reported=False, seconds=9999.0)
    assert found.incident.state is State.VERIFYING
    assert found.sentence.endswith("waits until it is known whether its sources are quiet")


def test_a_runbook_without_verification_proves_nothing() -> None:
    """Quiet afterwards closes with the verdict unknown."""
    run = b.ended_run(verdict=None, sentence="")
    waiting = after(run)
    assert waiting.sentence.startswith("done: run run_1 (flush-cache on chat/node-a); no verdict; waits")
    quiet = b.incident(state=State.VERIFYING, run_id="run_1", quiet_since=START)
    found = after(run, quiet, is_reported=False)
    assert (found.incident.state, found.incident.verdict) == (State.CLOSED, Verdict.UNKNOWN)
    assert "which verifies nothing" in found.note


@pytest.mark.parametrize("verdict", [Verdict.NOT_RECOVERED, Verdict.WORSE, Verdict.UNKNOWN])
@pytest.mark.parametrize("state", [RunState.SUCCEEDED, RunState.FAILED, RunState.ROLLED_BACK])
def test_every_other_verdict_is_a_persons(state: outcomes.RunState, verdict: outcomes.Verdict) -> None:
    """Also when the sources went quiet: the signals said otherwise."""
    quiet = b.incident(state=State.VERIFYING, run_id="run_1", quiet_since=START)
    found = after(b.ended_run(state=state, verdict=verdict, sentence=""), quiet, is_reported=False)
    assert (found.incident.state, found.incident.verdict) == (State.ESCALATED, verdict)
    assert found.note == f"escalated: run run_1 (flush-cache on chat/node-a) ended {state}; verdict {verdict}"


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED, RunState.NEEDS_HUMAN, RunState.ROLLED_BACK])
def test_a_run_that_acted_and_did_not_succeed_is_a_persons(state: outcomes.RunState) -> None:
    """Its effect may be half there."""
    found = after(b.ended_run(state=state, verdict=None), was_denied=True)
    assert found.incident.state is State.ESCALATED


@pytest.mark.parametrize(
    ("state", "was_denied", "expected"),
    [
        (RunState.FAILED, False, State.OPEN),
        (RunState.CANCELLED, True, State.OPEN),
        (RunState.CANCELLED, False, State.ESCALATED),
        (RunState.NEEDS_HUMAN, False, State.ESCALATED),
    ],
)
def test_a_run_without_any_effect_gives_the_incident_back(
    state: outcomes.RunState, was_denied: bool, expected: incidents.IncidentState
) -> None:
    """The guard's refusal is temporary, a person's cancellation is not."""
    run = b.ended_run(state=state, acted_at=None, verdict=None, sentence="nothing was done: silence")
    found = after(run, was_denied=was_denied)
    assert found.incident.state is expected
    assert "nothing was done: silence" in found.note


@pytest.mark.parametrize("verdict", [Verdict.NOT_RECOVERED, Verdict.WORSE])
def test_where_the_policy_repeats_an_uncured_run_is_a_step_on_the_way(verdict: outcomes.Verdict) -> None:
    """The load may have grown meanwhile: while trouble is reported the policy is asked again, and nobody is woken."""
    run = b.ended_run(state=RunState.FAILED, verdict=verdict)
    found = after(run, repeats=True)
    assert (found.incident.state, found.incident.attempts) == (State.OPEN, 1)
    assert "still reports it" in found.note
    assert after(run, repeats=True, is_reported=False).incident.state is State.ESCALATED
    assert after(run).incident.state is State.ESCALATED


def test_where_the_policy_repeats_there_is_no_grace_time() -> None:
    """A recovered service that needs more nodes already must not wait minutes for them."""
    assert after(b.ended_run(), repeats=True).incident.state is State.OPEN
    unknown = b.ended_run(verdict=Verdict.UNKNOWN)
    assert after(unknown, repeats=True).incident.state is State.ESCALATED
