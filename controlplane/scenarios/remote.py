"""What the control plane shows, read over its HTTP API like any other client: incidents and runs since an instant.

Called by the demo. Reads only. Async; each call has a timeout; the client is closed by whoever opened it.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, cast

import httpx

from controlplane.domain import errors, findings, outcomes, runs
from controlplane.domain import incidents as inc
from controlplane.scenarios import judging

_LIMIT = 100
_TIMEOUT_SECONDS = 5.0
_SHED = 429
# The runbook whose steps say how many requests they cut off.
_SHRINKS = "scale-in"


def client(base_url: str, token: str) -> httpx.AsyncClient:
    """Return an HTTP client for the API; close it after use."""
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=base_url, headers=headers, timeout=_TIMEOUT_SECONDS, trust_env=False)


class Api:
    """The runner's view of the control plane."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._first_effects: dict[str, dt.datetime] = {}
        self._lost: dict[str, int] = {}

    async def seen(self, since: dt.datetime) -> judging.Seen:
        """Return incidents opened and runs submitted at or after `since`.

        Raises RetryLaterError when it does not answer now, GiveUpError when it refuses.
        """
        incidents = [_incident(item) for item in await self._items("/api/v1/incidents")]
        submitted = [item for item in await self._items("/api/v1/runs") if _instant(item["created_at"]) >= since]
        return judging.Seen(
            tuple(one for one in incidents if one.opened_at >= since),
            tuple([_run(item, await self._first_effect(item), await self._num_lost(item)) for item in submitted]),
        )

    async def unsettled(self) -> tuple[str, ...]:
        """Return the incidents that are not closed and the runs that have not ended; raises as `seen` does."""
        incidents = await self._items("/api/v1/incidents")
        at_work = await self._items("/api/v1/runs", unfinished=True)
        return (
            *(
                f"incident {item['id']} ({item['fault']} on {item['node'] or 'the service'}) is {item['state']}"
                for item in incidents
                if item["state"] != inc.IncidentState.CLOSED
            ),
            *(f"run {item['id']} of {item['runbook']} is {item['state']}" for item in at_work),
        )

    async def _first_effect(self, item: Mapping[str, Any]) -> dt.datetime | None:
        """Return when a run's first step was done; its `acted_at` is that of its newest one, and None before any."""
        if item["acted_at"] is None:
            return None
        name = str(item["id"])
        if name not in self._first_effects:
            events = await self._items(f"/api/v1/runs/{name}/events")
            done = [_instant(event["at"]) for event in events if event["kind"] == runs.RunEventKind.STEP_FINISHED]
            self._first_effects[name] = min(done, default=_instant(item["acted_at"]))
        return self._first_effects[name]

    async def _num_lost(self, item: Mapping[str, Any]) -> int | None:
        """Return how many requests a run that shrank the fleet has cut off; None for others, and before it acted."""
        if item["runbook"] != _SHRINKS or item["acted_at"] is None:
            return None
        name = str(item["id"])
        if name not in self._lost:
            events = await self._items(f"/api/v1/runs/{name}/events")
            done = [event["data"] for event in events if event["kind"] == runs.RunEventKind.STEP_FINISHED]
            self._lost[name] = sum(int(said.get("data", {}).get("requests_lost", 0)) for said in done)
        return self._lost[name]

    async def create_token(self, name: str, role: str) -> str:
        """Make an API token and return its secret; raises as `seen` does."""
        answer = await self._call("POST", "/api/v1/tokens", json={"name": name, "role": role})
        return str(answer["token"])

    async def _items(self, path: str, **asked: bool) -> Sequence[Mapping[str, Any]]:
        answer = await self._call("GET", path, params={"limit": _LIMIT, **asked})
        return cast("Sequence[Mapping[str, Any]]", answer["items"])

    async def _call(self, method: str, path: str, **options: Any) -> Mapping[str, Any]:
        try:
            answer = await self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise errors.RetryLaterError(f"{self._http.base_url} does not answer: {error!r}") from error
        if answer.is_server_error or answer.status_code == _SHED:
            raise errors.RetryLaterError(f"{path} answered {answer.status_code}: {answer.text[:200]}")
        if not answer.is_success:
            raise errors.GiveUpError(f"{path} answered {answer.status_code}: {answer.text[:200]}")
        return cast("Mapping[str, Any]", answer.json())


def _incident(item: Mapping[str, Any]) -> judging.SeenIncident:
    return judging.SeenIncident(
        id=item["id"],
        fault=findings.FaultClass(item["fault"]),
        node=item["node"],
        opened_at=_instant(item["opened_at"]),
        opened_by=item["opened_by"],
        sentence=item["sentence"],
    )


def _instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def _run(item: Mapping[str, Any], acted_at: dt.datetime | None, num_lost: int | None) -> judging.SeenRun:
    verdict = item["verdict"]
    return judging.SeenRun(
        id=item["id"],
        runbook=item["runbook"],
        node=item["node"],
        state=item["state"],
        created_at=_instant(item["created_at"]),
        acted_at=acted_at,
        verdict=None if verdict is None else outcomes.Verdict(verdict),
        sentence=item["sentence"],
        num_lost=num_lost,
    )
