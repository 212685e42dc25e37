"""The console over the API's house of fakes, and a run with a story to look at."""

import functools
from typing import Any

import fastapi
import httpx

from controlplane.api import app
from controlplane.console import pages, rendering
from controlplane.domain import outcomes, plans, runs
from tests.support import api

HOSTILE = "</script><img src=x onerror=alert(1)>'\"&{{7*7}}"


def served(fakes: api.Fakes) -> fastapi.FastAPI:
    made = app.create_app(fakes.house())
    pages.add(made, rendered())
    return made


@functools.cache
def rendered() -> rendering.Rendering:
    """The templates, compiled once for all tests; nothing in them changes."""
    return rendering.Rendering()


def http(
    fakes: api.Fakes,
    role: str | None = None,
    *,
    base_url: str = "http://dsctl",
    application: fastapi.FastAPI | None = None,
) -> httpx.AsyncClient:
    """Return a client without a network; with a role it sends that token as a header."""
    transport = httpx.ASGITransport(application or served(fakes), raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer token-{role}"} if role else {}
    return httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers)


async def signed_in(browser: httpx.AsyncClient, role: str = "viewer", **fields: str) -> httpx.Response:
    return await browser.post("/sign-in", data={"token": f"token-{role}", **fields})


def run(fakes: api.Fakes, **request: Any) -> runs.Run:
    """A run of flush-cache on chat/n1 that has begun its only step."""
    asked: dict[str, Any] = {"requested_by": "alex", "reason": "wrong answers", "incident_id": "inc_1"}
    asked |= {"runbook": "flush-cache", "service": "chat", "node": "n1"} | request
    found = fakes.runs.add(fakes.remediator.plan(plans.PlanRequest(**asked)))
    fakes.runs.event(found.id, runs.RunEventKind.STEP_STARTED, "flush", key="k1")
    return found


def finish(fakes: api.Fakes, run_id: str) -> None:
    kinds = runs.RunEventKind
    fakes.runs.event(run_id, kinds.STEP_FINISHED, "flush", sentence="flushed 12 entries")
    fakes.runs.event(run_id, kinds.VERIFY_STARTED, signals=["cache_wrong_ratio"])
    fakes.runs.event(run_id, kinds.VERIFIED, sentence="cache_wrong_ratio is 0, at most 0.01, held for 10 s")
    fakes.runs.end(run_id, outcomes.RunState.SUCCEEDED, outcomes.Verdict.RECOVERED, "recovered after 4 s")
