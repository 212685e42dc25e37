"""Approvals over HTTP: who may answer, what is refused and why, what can be read."""

import pytest

from controlplane.domain import outcomes, plans
from tests.support import api
from tests.support.clock import FakeClock


@pytest.fixture
def fakes(clock: FakeClock) -> api.Fakes:
    return api.Fakes(clock)


def ask(fakes: api.Fakes, by: str = "policy:cache", *, quorum: int = 1) -> tuple[str, str]:
    """Let a run wait for people; return its path and the hash of its plan."""
    request = plans.PlanRequest("flush-cache", "chat", "n1", by, reason="wrong answers", incident_id="inc_1")
    run = fakes.runs.ask(fakes.remediator.plan(request), quorum=quorum)
    return f"/api/v1/runs/{run.id}", run.plan.hash


async def test_an_approval_is_kept_under_the_name_of_the_token(fakes: api.Fakes) -> None:
    """The run shows its question before, and who answered what afterwards."""
    path, of = ask(fakes, quorum=2)
    async with fakes.http("approver") as http:
        before = (await http.get(path)).json()["approvals"]
        answer = await http.post(f"{path}/approval", json={"approve": True, "plan_hash": of, "reason": " seen "})
        [listed] = (await http.get("/api/v1/approvals")).json()["items"]
    [asked] = before
    assert (asked["step"], asked["prompt"], asked["quorum"]) == ("approval", "May the cache be flushed?", 2)
    assert (asked["is_pending"], asked["plan_hash"], asked["answers"]) == (True, of, [])
    assert asked["expires_at"] == "2026-03-02T10:00:00Z"
    [given] = answer.json()["approvals"][0]["answers"]
    assert (answer.status_code, given["who"], given["is_approved"], given["reason"]) == (200, "approver", True, "seen")
    assert (listed["run_id"], listed["target"], listed["reason"]) == (path.split("/")[-1], "chat/n1", "wrong answers")
    assert (listed["requested_by"], listed["answers"][0]["who"]) == ("policy:cache", "approver")


@pytest.mark.parametrize("role", ["operator", "viewer", "events", None])
async def test_only_approvers_answer(fakes: api.Fakes, role: str | None) -> None:
    """An operator may order runs, and not agree to them."""
    path, of = ask(fakes)
    async with fakes.http(role) as http:
        answer = await http.post(f"{path}/approval", json={"approve": True, "plan_hash": of})
    assert answer.status_code in {401, 403}
    assert fakes.runs.answers == []


async def test_an_answer_that_does_not_count_says_why(fakes: api.Fakes) -> None:
    """Own request, another plan, a second answer, a run that is over, one that is not there, no reason for a no."""
    path, of = ask(fakes, "approver")
    other, _ = ask(fakes)
    over, _ = ask(fakes)
    fakes.runs.end(over.split("/")[-1], outcomes.RunState.CANCELLED)
    yes = {"approve": True, "plan_hash": of}
    async with fakes.http("approver") as http:

        async def say(to: str, **changes: object) -> tuple[int, str]:
            answer = await http.post(f"{to}/approval", json=yes | changes)
            return answer.status_code, answer.json().get("detail", "")

        own, wrong = await say(path), await say(other, plan_hash="old")
        first, second = await say(other), await say(other)
        ended, unknown = await say(over), await say("/api/v1/runs/run_0")
        silent = await say(other, approve=False)
    assert (own[0], wrong[0], first[0], second[0], ended[0], unknown[0], silent[0]) == (
        409,
        409,
        200,
        409,
        409,
        404,
        422,
    )
    assert "asked for" in own[1]
    assert "not old as answered" in wrong[1]
    assert "approver has approved step approval" in second[1]
    assert "asks nobody any more" in ended[1]
    assert "say in `reason` why" in silent[1]


async def test_a_list_of_what_waits_can_be_narrowed_and_cut(fakes: api.Fakes) -> None:
    """Newest first; runs that ask nobody are not in it."""
    paths = [ask(fakes)[0] for _ in range(3)]
    fakes.runs.add(fakes.remediator.plan(plans.PlanRequest("flush-cache", "chat", "n2", "ada")))
    async with fakes.http("viewer") as http:
        cut = (await http.get("/api/v1/approvals", params={"limit": 2})).json()
        elsewhere = (await http.get("/api/v1/approvals", params={"service": "search"})).json()
    assert [one["run_id"] for one in cut["items"]] == [path.split("/")[-1] for path in paths[:0:-1]]
    assert (cut["truncated"], elsewhere["items"]) == (True, [])
