"""The runner's view of the control plane, read from the real API application."""

from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from controlplane.domain import errors, findings, outcomes, runs
from controlplane.domain import incidents as inc
from controlplane.scenarios import remote
from tests.support import api, builders
from tests.support.clock import START, FakeClock


async def test_incidents_and_runs_since_an_instant_are_read(clock: FakeClock):
    """What was there before the injection does not belong to the story."""
    fakes = api.Fakes(clock)
    old = replace(api.incident(1), opened_at=START - timedelta(seconds=1))
    fakes.incidents.rows = {"inc_1": old, "inc_2": api.incident(2)}
    acted = replace(builders.run("run_2"), acted_at=START, verdict=outcomes.Verdict.RECOVERED, created_at=START)
    before = replace(builders.run("run_1"), created_at=START - timedelta(minutes=1))
    fakes.runs.rows = {"run_1": before, "run_2": acted}
    async with fakes.http("viewer") as http:
        seen = await remote.Api(http).seen(START)
    (incident,) = seen.incidents
    assert (incident.id, incident.fault, incident.node) == ("inc_2", findings.FaultClass.CACHE, "n1")
    assert (incident.opened_at, incident.opened_by, incident.sentence) == (START, "alert:CacheWrong", "acting soon")
    (run,) = seen.runs
    assert (run.id, run.acted_at, run.verdict) == ("run_2", START, outcomes.Verdict.RECOVERED)
    assert (run.runbook, run.node) == (acted.plan.request.runbook, acted.plan.request.node)


async def test_a_run_has_acted_since_its_first_step(clock: FakeClock):
    """Ejecting is an act, minutes before the last step of the same run; a run without an effect has not acted."""
    fakes = api.Fakes(clock)
    ended = START + timedelta(minutes=2)
    fakes.runs.rows = {
        "run_1": replace(builders.run("run_1"), created_at=START, acted_at=ended),
        "run_2": replace(builders.run("run_2"), created_at=START),
    }
    kinds = (runs.RunEventKind.STEP_STARTED, runs.RunEventKind.STEP_FINISHED, runs.RunEventKind.STEP_FINISHED)
    fakes.runs.log["run_1"] = [
        runs.RunEvent(number, START + timedelta(seconds=7 * number), kind) for number, kind in enumerate(kinds, start=1)
    ]
    async with fakes.http("viewer") as http:
        seen = await remote.Api(http).seen(START)
    assert {run.id: run.acted_at for run in seen.runs} == {"run_1": START + timedelta(seconds=14), "run_2": None}


async def test_what_the_control_plane_has_still_to_do_is_told_in_words(clock: FakeClock):
    """Closed incidents and ended runs are done with, however they ended."""
    fakes = api.Fakes(clock)
    closed = replace(api.incident(1), state=inc.IncidentState.CLOSED)
    fakes.incidents.rows = {"inc_1": closed, "inc_2": api.incident(2)}
    ended = replace(builders.run("run_1"), state=outcomes.RunState.SUCCEEDED)
    fakes.runs.rows = {"run_1": ended, "run_2": builders.run("run_2")}
    async with fakes.http("viewer") as http:
        left = await remote.Api(http).unsettled()
    assert left == (
        f"incident inc_2 (cache on n1) is {api.incident(2).state}",
        f"run run_2 of flush-cache is {builders.run('run_2').state}",
    )


async def test_a_token_for_the_webhook_is_made(clock: FakeClock):
    """Alertmanager gets a token that may post events and nothing else."""
    fakes = api.Fakes(clock)
    async with fakes.http("admin") as http:
        assert await remote.Api(http).create_token("alertmanager", "events")
    assert fakes.tokens.rows["alertmanager"].role == "events"


async def test_a_refusal_is_not_tried_again(clock: FakeClock):
    """A wrong token stays wrong."""
    async with api.Fakes(clock).http("events") as http:
        with pytest.raises(errors.GiveUpError, match="/api/v1/incidents answered 403"):
            await remote.Api(http).seen(START)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_answer_of_overload_is_asked_for_again_later(status: int):
    """The story goes on with what was seen last."""
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text="busy"))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as http:
        with pytest.raises(errors.RetryLaterError, match="busy"):
            await remote.Api(http).seen(START)


async def test_no_answer_at_all_is_asked_for_again_later():
    """A control plane that restarts is away for a moment."""
    async with remote.client("http://127.0.0.1:9", "secret") as http:
        with pytest.raises(errors.RetryLaterError, match="does not answer"):
            await remote.Api(http).seen(START)
