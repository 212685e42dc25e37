"""Carries an incident along with its run: acting, verifying, then closed, open again, or handed to a person.

Called by the tick for each incident that has a run. Pure functions.

When a run ends recovered, alerts still fire for a while: they look back over a window, and their resolved notice waits
for Alertmanager's group interval. So the verdict is set at once, the incident stays `verifying`, and it closes as soon
as its sources are quiet. If they still report it after the grace time, the trouble was not cured: the incident is open
again, with its attempts counted. Where the policy repeats there is no grace time, and a run that did not bring recovery
while the trouble is still reported gives the incident back as well: the load may have grown meanwhile. A run that failed, or that the guard stopped, before it had any effect gives the
incident back too, its attempt spent; every other end is a person's to judge, a cancellation by a person, a refused and a
missing approval included. A run that waits for people is in flight; its question is taken back once the trouble is gone.
"""

import dataclasses
from dataclasses import dataclass
from datetime import datetime

from controlplane import phrases
from controlplane.domain import incidents as inc
from controlplane.domain import outcomes, runs
from controlplane.engine import words

_UNCURED = frozenset({outcomes.Verdict.NOT_RECOVERED, outcomes.Verdict.WORSE})


@dataclass(frozen=True, slots=True)
class Followed:
    """The incident after looking at its run; `note` is empty when nothing is worth keeping."""

    incident: inc.Incident
    sentence: str
    note: str = ""


def adopt(incident: inc.Incident, run_id: str, now: datetime) -> inc.Incident:
    """Return the incident bound to a run that was stored for it: also one from before a crash, or a person's."""
    return dataclasses.replace(
        incident,
        state=inc.IncidentState.ACTING,
        run_id=run_id,
        attempts=incident.attempts + 1,
        verdict=None,
        updated_at=now,
    )


def follow(
    incident: inc.Incident,
    run: runs.Run,
    *,
    now: datetime,
    is_reported: bool,
    grace_seconds: float,
    was_denied: bool = False,
    repeats: bool = False,
) -> Followed:
    """Return what the state of `run` means for `incident`.

    `is_reported` says that some source reports the trouble now; `grace_seconds` is how long alerts may need to
    resolve after the recovery; `was_denied` that the guard, not a person, cancelled the run; `repeats` that its policy
    takes more than one run.
    """
    if not run.state.is_final:
        return _in_flight(incident, run, now)
    is_harmless = run.state is outcomes.RunState.FAILED or (run.state is outcomes.RunState.CANCELLED and was_denied)
    if is_harmless and run.acted_at is None:
        return _give_back(incident, run, now)
    if repeats and is_reported and run.state is outcomes.RunState.FAILED and run.verdict in _UNCURED:
        return _reopen(incident, run, now, _since(run, now))
    if run.state is not outcomes.RunState.SUCCEEDED or run.verdict in {*_UNCURED, outcomes.Verdict.UNKNOWN}:
        return _escalate(incident, run, now)
    if incident.quiet_since is not None:
        return _close(incident, run, now)
    return _settle(incident, run, now, is_reported=is_reported, grace_seconds=0.0 if repeats else grace_seconds)


def is_moot(incident: inc.Incident, run: runs.Run, now: datetime, *, quiet_seconds: float) -> bool:
    """Say whether people are asked about trouble that is over: quiet for as long as ends an incident by itself."""
    if run.question is None or run.acted_at is not None or incident.quiet_since is None:
        return False
    return (now - incident.quiet_since).total_seconds() >= quiet_seconds


def _since(run: runs.Run, now: datetime) -> float:
    return max(0.0, (now - (run.ended_at or now)).total_seconds())


def _in_flight(incident: inc.Incident, run: runs.Run, now: datetime) -> Followed:
    steps = len(run.plan.steps)
    if run.question is not None:
        answer = words.approval(run.id)
        state, said = inc.IncidentState.ACTING, f"waits for approval: {_name(run)}; look and answer with `{answer}`"
    elif run.step >= steps:
        state, said = inc.IncidentState.VERIFYING, f"verifying: {_name(run)} has acted"
    else:
        step = run.plan.steps[run.step].name
        state, said = inc.IncidentState.ACTING, f"acting: {_name(run)}, step {step} ({run.step + 1} of {steps})"
    sentence = f"{said}; {run.sentence}" if run.sentence else said
    return _moved(incident, state, sentence, now, verdict=None)


def _give_back(incident: inc.Incident, run: runs.Run, now: datetime) -> Followed:
    sentence = f"open again: {_name(run)} ended before it had any effect; {_ending(run)}"
    return _moved(incident, inc.IncidentState.OPEN, sentence, now, verdict=None)


def _escalate(incident: inc.Incident, run: runs.Run, now: datetime) -> Followed:
    sentence = f"escalated: {_name(run)} ended {run.state}; {_ending(run)}"
    return _moved(incident, inc.IncidentState.ESCALATED, sentence, now, verdict=run.verdict)


def _close(incident: inc.Incident, run: runs.Run, now: datetime) -> Followed:
    proven = run.verdict is outcomes.Verdict.RECOVERED
    how = f"{_name(run)} answered it" if proven else f"quiet after {_name(run)}, which verifies nothing"
    verdict = outcomes.Verdict.RECOVERED if proven else outcomes.Verdict.UNKNOWN
    return _moved(incident, inc.IncidentState.CLOSED, f"closed: {how}; {_ending(run)}", now, verdict=verdict)


def _settle(
    incident: inc.Incident, run: runs.Run, now: datetime, *, is_reported: bool, grace_seconds: float
) -> Followed:
    """Give the sources of a cured incident their grace time; after it they are believed again."""
    lasted = _since(run, now)
    if is_reported and lasted >= grace_seconds:
        return _reopen(incident, run, now, lasted)
    return _await_quiet(incident, run, now, is_reported=is_reported, left=grace_seconds - lasted)


def _reopen(incident: inc.Incident, run: runs.Run, now: datetime, lasted: float) -> Followed:
    still = f"{', '.join(incident.sources)} still reports it {phrases.duration(lasted)} after {_name(run)} ended"
    return _moved(incident, inc.IncidentState.OPEN, f"open again: {still}", now, verdict=None)


def _await_quiet(incident: inc.Incident, run: runs.Run, now: datetime, *, is_reported: bool, left: float) -> Followed:
    done = "verified" if run.verdict is outcomes.Verdict.RECOVERED else "done"
    waiting = (
        f"waits up to {phrases.duration(left)} for {', '.join(incident.sources)} to resolve"
        if is_reported
        else "waits until it is known whether its sources are quiet"
    )
    sentence = f"{done}: {_name(run)}; {_ending(run)}; {waiting}"
    return _moved(incident, inc.IncidentState.VERIFYING, sentence, now, verdict=run.verdict)


def _moved(
    incident: inc.Incident,
    state: inc.IncidentState,
    sentence: str,
    now: datetime,
    *,
    verdict: outcomes.Verdict | None,
) -> Followed:
    """Return the incident in `state`; the timeline gets a line only when state or verdict changed."""
    if (state, verdict) == (incident.state, incident.verdict):
        return Followed(incident, sentence)
    is_closed = state is inc.IncidentState.CLOSED
    after = dataclasses.replace(
        incident,
        state=state,
        verdict=verdict,
        sentence=sentence,
        updated_at=now,
        closed_at=now if is_closed else None,
    )
    return Followed(after, sentence, note=sentence)


def _name(run: runs.Run) -> str:
    return f"run {run.id} ({run.plan.request.runbook} on {run.plan.target})"


def _ending(run: runs.Run) -> str:
    return run.sentence or (f"verdict {run.verdict}" if run.verdict else "no verdict")
