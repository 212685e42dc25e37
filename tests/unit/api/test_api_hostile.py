"""Hostile and broken requests: each gets a problem, none gets through, none breaks the server."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.api import guarded
from tests.support import api
from tests.support.clock import FakeClock

JSON = {"Content-Type": "application/json"}
FLUSH = {"runbook": "flush-cache", "service": "chat", "node": "n1"}


@pytest.fixture
def fakes(clock: FakeClock) -> api.Fakes:
    return api.Fakes(clock)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"null", 422),
        (b"[]", 422),
        (b'"text"', 422),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 50_000, 400),
        (b"1" * 5_000, 400),
    ],
    ids=["empty", "cut", "null", "list", "text", "bytes", "deep-list", "deep-map", "huge-number"],
)
async def test_bodies_that_are_no_request(fakes: api.Fakes, body: bytes, status: int) -> None:
    """What is not JSON is 400, JSON of another shape 422; both are problems with a detail."""
    async with fakes.http() as http:
        answer = await http.post("/api/v1/runs", content=body, headers=JSON)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert fakes.runs.rows == {}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"runbook": 7}, "runbook"),
        ({"runbook": "../../etc/passwd"}, "runbook"),
        ({"runbook": "a" * 300}, "runbook"),
        ({"service": ""}, "service"),
        ({"service": "chat\n"}, "service"),
        ({"service": "chat\x00"}, "service"),
        ({"node": "$(reboot)"}, "node"),
        ({"node": "-rf"}, "node"),
        ({"reason": "bell \x07"}, "reason"),
        ({"reason": "red \x9b31m"}, "reason"),
        ({"reason": "r" * 2_001}, "reason"),
        ({"inputs": []}, "inputs"),
        ({"inputs": {"a": "nul \x00"}}, "inputs"),
        ({"inputs": {"nul \x00": 1}}, "inputs"),
        ({"inputs": {"a": float("nan")}}, "inputs"),
        ({"inputs": {"a": {"b": [float("inf")]}}}, "inputs"),
        ({"inputs": {"a": nested(9)}}, "inputs"),
        ({"inputs": {str(n): n for n in range(101)}}, "inputs"),
        ({"force": True}, "force"),
        ({"mode": "auto"}, "mode"),
    ],
)
async def test_wrong_fields_are_named(fakes: api.Fakes, change: dict[str, Any], place: str) -> None:
    """A wrong or unknown field is 422 with its place, and the value is not thrown back."""
    async with fakes.http() as http:
        answer = await http.post("/api/v1/runs", content=json.dumps(FLUSH | change), headers=JSON)
    assert (answer.status_code, answer.json()["place"]) == (422, place)
    assert "input" not in answer.json()["errors"][0]
    assert fakes.remediator.requests == []


async def test_lone_surrogates_get_an_answer(fakes: api.Fakes) -> None:
    """Text that no encoding can carry is refused and does not break the answer that says so."""
    async with fakes.http() as http:
        value = await http.post("/api/v1/runs", content=b'{"runbook": "\\ud800"}', headers=JSON)
        key = await http.post("/api/v1/runs", content=b'{"\\ud800": 1}', headers=JSON)
    assert (value.status_code, key.status_code) == (422, 422)


async def test_a_body_wrong_in_thousands_of_places_gets_a_short_answer(fakes: api.Fakes) -> None:
    """The answer names the first few and counts the rest; it does not grow with the request."""
    async with fakes.http() as http:
        answer = await http.post("/api/v1/runs", json=FLUSH | {f"x{n}": n for n in range(5_000)})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20
    assert answer.json()["detail"].endswith("; and 4980 more")


async def test_a_body_with_two_lengths_is_refused(fakes: api.Fakes) -> None:
    """Where a proxy believes one and the server the other, the rest of the body would become a request of its own."""
    async with fakes.http() as http:
        both = {**JSON, "Content-Length": "2", "Transfer-Encoding": "chunked"}
        answer = await http.post("/api/v1/runs", content=b"{}", headers=both)
    assert (answer.status_code, answer.headers["connection"]) == (400, "close")


@pytest.mark.parametrize(
    "expires_at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2020-01-01T00:00:00Z"]
)
async def test_token_that_would_never_work_is_refused(fakes: api.Fakes, expires_at: str) -> None:
    """An end in the past, or one that no clock in UTC can show, is the sender's mistake and not the server's."""
    async with fakes.http("admin") as http:
        answer = await http.post("/api/v1/tokens", json={"name": "t", "role": "viewer", "expires_at": expires_at})
    assert (answer.status_code, answer.json()["place"]) == (422, "expires_at")
    assert "t" not in fakes.tokens.rows


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_only_json_is_read(fakes: api.Fakes, kind: str) -> None:
    """A form, which a browser sends across sites without asking, is never taken for JSON."""
    async with fakes.http() as http:
        answer = await http.post("/api/v1/runs", content=json.dumps(FLUSH), headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["type"]) == (415, "urn:dsctl:problem:media-type")


async def test_large_bodies_are_refused_by_their_header_and_by_their_size(fakes: api.Fakes) -> None:
    """Whether it says so or streams, a body over 1 MiB is 413, and nothing was parsed."""

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    size = guarded.MAX_BODY_BYTES + 1
    async with fakes.http("events") as http:
        said = await http.post("/api/v1/webhooks/alertmanager", content=b"x" * size, headers=JSON)
        streamed = await http.post("/api/v1/webhooks/alertmanager", content=stream(), headers=JSON)
        lied = await http.post(
            "/api/v1/webhooks/alertmanager", content=b"{}", headers={**JSON, "Content-Length": "9" * 40}
        )
        odd = await http.post("/api/v1/webhooks/alertmanager", content=b"{}", headers={**JSON, "Content-Length": "-1"})
    assert [one.status_code for one in (said, streamed, lied, odd)] == [413] * 4


async def test_body_that_trickles_ends_in_408(clock: FakeClock) -> None:
    """A sender that never ends its body does not hold the server longer than the limit."""
    clock_started = clock.monotonic()

    async def receive() -> dict[str, Any]:
        clock.move(4)
        return {"type": "http.request", "body": b"x", "more_body": True}

    bounded = guarded.bounded(receive, clock)
    for _ in range(3):
        await bounded()
    with pytest.raises(guarded.problems.ProblemError) as caught:
        await bounded()
    assert caught.value.kind is guarded.problems.SLOW_BODY
    assert clock.monotonic() - clock_started <= guarded.BODY_SECONDS + 4


async def test_sender_that_falls_silent_ends_in_408(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body whose rest never comes is given up."""
    monkeypatch.setattr(guarded, "BODY_SECONDS", 0.01)

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    with pytest.raises(guarded.problems.ProblemError) as caught:
        await guarded.bounded(receive, clock)()
    assert caught.value.kind is guarded.problems.SLOW_BODY


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/api/v1/runs/", 404),
        ("PUT", "/api/v1/runs", 405),
        ("BREW", "/livez", 405),
        ("GET", "/api/v1/runs/run_%00", 404),
        ("GET", "/api/v1/runs?limit=0", 422),
        ("GET", "/api/v1/runs?limit=99999", 422),
        ("GET", "/api/v1/runs?service=%00", 422),
        ("GET", "/api/v1/runs/run_1/events?after=x", 422),
        ("GET", "/api/v1/runs/run_1/events?wait_seconds=nan", 422),
        ("GET", "/api/v1/runs/run_1/events?wait_seconds=1e9", 422),
    ],
)
async def test_wrong_paths_and_parameters_are_problems(fakes: api.Fakes, method: str, path: str, status: int) -> None:
    """Every error, the framework's own included, has the one form; no page that loads foreign scripts exists."""
    async with fakes.http() as http:
        answer = await http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail"} <= set(answer.json())


@pytest.mark.parametrize("key", ["", "k" * 201, "two words", "nul\x7f"])
async def test_idempotency_keys_are_bounded(fakes: api.Fakes, key: str) -> None:
    """A key that is empty, long or not printable is refused before anything is planned."""
    async with fakes.http() as http:
        answer = await http.post("/api/v1/runs", json=FLUSH, headers={"Idempotency-Key": key})
    assert answer.status_code == 422
    assert fakes.remediator.requests == []


async def test_unknown_paths_make_no_new_time_series(fakes: api.Fakes) -> None:
    """A scanner that tries many paths and methods does not blow up the metrics."""
    async with fakes.http(None) as http:
        for number in range(20):
            await http.request(f"M{number}", f"/scan/{number}")
    lines = fakes.telemetry.exposition().decode().splitlines()
    counts = [line for line in lines if line.startswith("dsctl_api_request_duration_seconds_count")]
    assert counts == ['dsctl_api_request_duration_seconds_count{method="other",route="unmatched",status="404"} 20.0']


async def test_answers_carry_safe_headers(fakes: api.Fakes) -> None:
    """No answer is cached, sniffed, framed or allowed to load anything."""
    async with fakes.http() as http:
        for path in ("/api/v1/runs", "/api/v1/nothing", "/livez"):
            headers = (await http.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert headers["content-security-policy"].startswith("default-src 'none'")


@pytest.fixture
async def one_application(fakes: api.Fakes) -> AsyncGenerator[httpx.AsyncClient]:
    async with fakes.http() as http:
        yield http


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.dictionaries(
        st.sampled_from(["runbook", "service", "node", "inputs", "reason", "expected_hash", "extra"]), json_values
    )
)
async def test_no_body_makes_a_server_error(one_application: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """Whatever JSON arrives, the answer blames the request and never the server."""
    answer = await one_application.post("/api/v1/runs", content=json.dumps(body), headers=JSON)
    assert answer.status_code < 500
