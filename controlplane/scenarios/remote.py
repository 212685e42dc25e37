"""What the control plane shows, read over its HTTP API like any other client: incidents and runs since an instant.

Called by the demo. Reads only. Async; each call has a timeout; the client is closed by whoever opened it.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, cast

import httpx

from controlplane.domain import errors, findings, outcomes
from controlplane.scenarios import judging

_LIMIT = 100
_TIMEOUT_SECONDS = 5.0
_SHED = 429


def client(base_url: str, token: str) -> httpx.AsyncClient:
    """Return an HTTP client for the API; close it after use."""
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=base_url, headers=headers, timeout=_TIMEOUT_SECONDS, trust_env=False)


class Api:
    """The runner's view of the control plane."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def seen(self, since: dt.datetime) -> judging.Seen:
        """Return incidents opened and runs submitted at or after `since`.

        Raises RetryLaterError when it does not answer now, GiveUpError when it refuses.
        """
        incidents = [_incident(item) for item in await self._items("/api/v1/incidents")]
        runs = [_run(item) for item in await self._items("/api/v1/runs")]
        return judging.Seen(
            tuple(one for one in incidents if one.opened_at >= since),
            tuple(one for one in runs if one.created_at >= since),
        )

    async def create_token(self, name: str, role: str) -> str:
        """Make an API token and return its secret; raises as `seen` does."""
        answer = await self._call("POST", "/api/v1/tokens", json={"name": name, "role": role})
        return str(answer["token"])

    async def _items(self, path: str) -> Sequence[Mapping[str, Any]]:
        answer = await self._call("GET", path, params={"limit": _LIMIT})
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
        opened_at=dt.datetime.fromisoformat(item["opened_at"]),
        opened_by=item["opened_by"],
        sentence=item["sentence"],
    )


def _run(item: Mapping[str, Any]) -> judging.SeenRun:
    acted_at, verdict = item["acted_at"], item["verdict"]
    return judging.SeenRun(
        id=item["id"],
        runbook=item["runbook"],
        node=item["node"],
        state=item["state"],
        created_at=dt.datetime.fromisoformat(item["created_at"]),
        acted_at=None if acted_at is None else dt.datetime.fromisoformat(acted_at),
        verdict=None if verdict is None else outcomes.Verdict(verdict),
        sentence=item["sentence"],
    )
