"""Answering a run on its page: who is offered it, what it does, and that no other site can."""

import re

import pytest

from controlplane.domain import plans, runs
from tests.support import api, console
from tests.support.clock import FakeClock

HOSTILE = console.HOSTILE


@pytest.fixture
def fakes(clock: FakeClock) -> api.Fakes:
    return api.Fakes(clock)


def ask(fakes: api.Fakes, by: str = "policy:cache") -> runs.Run:
    request = plans.PlanRequest("flush-cache", "chat", "n1", by, reason="wrong answers", incident_id="inc_1")
    return fakes.runs.ask(fakes.remediator.plan(request), quorum=2)


def buttons(html: str) -> list[str]:
    return re.findall(r'name="answer" value="(\w+)"', html)


@pytest.mark.parametrize(
    ("role", "by", "offered"),
    [
        ("viewer", "policy:cache", []),
        ("operator", "policy:cache", []),
        ("approver", "policy:cache", ["approve", "reject"]),
        ("approver", "approver", ["reject"]),
        ("admin", "policy:cache", ["approve", "reject"]),
    ],
)
async def test_a_button_is_there_for_who_may_press_it(fakes: api.Fakes, role: str, by: str, offered: list[str]) -> None:
    """Everybody sees the question and its state; whoever asked for the run is not offered to approve it."""
    run = ask(fakes, by)
    async with console.http(fakes, role) as browser:
        page = (await browser.get(f"/runs/{run.id}")).text
    assert buttons(page) == offered
    assert "May the cache be flushed?" in page
    assert "0 of 2 approvals" in page
    assert "2026-03-02 10:00" in page
    assert f"dsctl runs approve {run.id}" in page


async def test_an_answer_is_kept_for_the_plan_that_was_shown_and_shows_on_the_page(fakes: api.Fakes) -> None:
    """The form leads back to the page, where the same person is asked no more; reasons are text and nothing else."""
    run = ask(fakes)
    async with console.http(fakes) as browser:
        await console.signed_in(browser, "approver")
        page = (await browser.get(f"/runs/{run.id}")).text
        assert f'name="plan_hash" value="{run.plan.hash.replace(chr(34), "&#34;")}"' in page
        form = {"answer": "approve", "reason": f" {HOSTILE}\r\n", "plan_hash": run.plan.hash}
        answer = await browser.post(f"/runs/{run.id}/approval", data=form)
        after = (await browser.get(answer.headers["location"])).text
        again = await browser.post(f"/runs/{run.id}/approval", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{run.id}")
    assert (buttons(after), "<strong>approver</strong>" in after, HOSTILE in after) == ([], True, False)
    assert "1 of 2 approvals" in after
    assert again.status_code == 409
    assert "approver has approved step approval" in again.text
    [kept] = fakes.runs.answers
    assert (kept.who, kept.is_approved, kept.reason, kept.plan_hash) == ("approver", True, HOSTILE, run.plan.hash)


@pytest.mark.parametrize(
    ("role", "form", "headers", "status"),
    [
        ("approver", {"answer": "reject"}, {}, 422),
        ("approver", {"answer": "maybe"}, {}, 422),
        ("approver", {"answer": "approve", "plan_hash": "old"}, {}, 409),
        ("operator", {"answer": "approve"}, {}, 403),
        (None, {"answer": "approve"}, {}, 401),
        ("approver", {"answer": "approve"}, {"Sec-Fetch-Site": "cross-site"}, 403),
        ("approver", {"answer": "approve"}, {"Origin": "https://evil.example"}, 403),
    ],
)
async def test_what_does_not_count_is_a_page_that_says_why(
    fakes: api.Fakes, role: str | None, form: dict[str, str], headers: dict[str, str], status: int
) -> None:
    """A no without a reason, no answer at all, another plan, a role that may not, a page of another site."""
    run = ask(fakes)
    async with console.http(fakes) as browser:
        if role is not None:
            await console.signed_in(browser, role)
        sent = {"plan_hash": run.plan.hash, "reason": ""} | form
        answer = await browser.post(f"/runs/{run.id}/approval", data=sent, headers=headers)
    assert answer.status_code == status
    assert fakes.runs.answers == []
