"""The node over HTTP, in this process, with a model of integers."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.support import node_fakes


def text(response: httpx.Response) -> str:
    return response.json()["choices"][0]["text"]


def events(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_a_deterministic_answer_is_kept_and_the_same() -> None:
    """The second equal request is a hit with the same text and counts, and takes no step."""
    async with node_fakes.served_node(cache={"audit_ratio": 0}) as served:
        first = await served.ask()
        steps = len(served.runners["v1"].passes)
        second = await served.ask()
        assert text(first) == text(second)
        assert (
            first.json()["usage"]
            == second.json()["usage"]
            == {
                "prompt_tokens": 6,
                "completion_tokens": 4,
                "total_tokens": 10,
            }
        )
        assert len(served.runners["v1"].passes) == steps
        assert await served.metric('dsctl_node_cache_requests_total{result="hit",tier="l1"}') == 1


@pytest.mark.parametrize(
    ("fields", "results"),
    [
        ({"temperature": 1}, ("bypass", 2)),
        ({"temperature": 1, "seed": 7}, ("hit", 1)),
        ({"headers": {"cache-control": "no-cache"}}, ("bypass", 2)),
    ],
)
async def test_only_deterministic_requests_use_the_cache(fields: dict[str, Any], results: tuple[str, int]) -> None:
    """A request without seed at a temperature, or one that says no-cache, is computed each time."""
    async with node_fakes.served_node() as served:
        for _ in range(2):
            await served.ask(**json.loads(json.dumps(fields)))
        result, count = results
        assert await served.metric(f'dsctl_node_cache_requests_total{{result="{result}",tier="l1"}}') == count


async def test_tenants_never_share_answers() -> None:
    """The same prompt of another tenant is computed anew; only a gateway's key may name the tenant."""
    async with node_fakes.served_node() as served:
        for key, tenant in (("key-gateway", "a"), ("key-gateway", "b"), ("key-standard", "x"), ("key-standard", "y")):
            await served.ask(key=key, headers={"x-tenant": tenant})
        assert served.node.cache.misses == 3


async def test_equal_requests_at_the_same_time_are_computed_once() -> None:
    """Ten equal requests make one prefill, and all get the answer."""
    async with node_fakes.served_node() as served:
        answers = await asyncio.gather(*(served.ask() for _ in range(10)))
        assert len({text(each) for each in answers}) == 1
        assert served.runners["v1"].passes[0] == ("prefill", 1)
        assert sum(kind == "prefill" for kind, _ in served.runners["v1"].passes) == 1


async def test_poison_makes_answers_wrong_until_flushed_and_audits_count_it() -> None:
    """Poison survives the end of its lease; audits see it as mismatches; a flush cures it."""
    async with node_fakes.served_node() as served:
        right = text(await served.ask())
        on = await served.admin("PUT", "/faults/poison_cache", {"ttl_seconds": 5})
        assert on.json()["affected_entries"] == 1
        assert await served.metric('dsctl_node_fault_active{fault="poison_cache"}') == 1
        wrong = text(await served.ask())
        await node_fakes.settle()
        await served.admin("DELETE", "/faults/poison_cache")
        assert right != wrong == text(await served.ask())
        await node_fakes.settle()
        assert (await served.admin("POST", "/cache/flush", {"tier": "l1"})).json()["flushed"] == 1
        assert text(await served.ask()) == right
        await served.ask()
        await node_fakes.settle()
        assert await served.metric('dsctl_node_cache_audits_total{result="mismatch",tier="l1"}') == 2
        assert await served.metric('dsctl_node_cache_audits_total{result="match",tier="l1"}') == 1


async def test_audits_are_no_requests_of_users() -> None:
    """Recomputing an answer shows neither as a request nor as generated tokens."""
    async with node_fakes.served_node() as served:
        await served.ask()
        await served.ask()
        await node_fakes.settle()
        assert await served.metric('dsctl_node_cache_audits_total{result="match",tier="l1"}') == 1
        labels = 'engine="0",finished_reason="length",model_name="tiny-deepseek-v3"'
        assert await served.metric(f"vllm:request_success_total{{{labels}}}") == 1


async def test_a_stream_says_what_the_whole_answer_says() -> None:
    """Chunks share one id, begin with the role, join to the text, and end with reason, usage and [DONE]."""
    async with node_fakes.served_node() as served:
        body = {
            "messages": [{"role": "user", "content": "hi"}],
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"authorization": "Bearer key-standard"}
        chunks = events(await served.client.post("/v1/chat/completions", json=body, headers=headers))
        whole = (
            await served.client.post("/v1/chat/completions", json={**body, "stream": False}, headers=headers)
        ).json()
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
        assert said == whole["choices"][0]["message"]["content"]
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
        assert chunks[-1] == {**chunks[-1], "choices": [], "usage": whole["usage"]}
        cached = events(await served.client.post("/v1/chat/completions", json=body, headers=headers))
        assert cached[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "temperature": "hot"}, "temperature"),
        ({"prompt": "x", "n": 2}, "n"),
        ({"prompt": "x", "logprobs": 1}, "logprobs"),
        ({"prompt": "x" * 300}, "prompt"),
        ({"prompt": [1, 999]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": "x", "stop": ["a"] * 5}, "stop"),
    ],
)
async def test_a_wrong_body_is_refused_with_its_place(body: dict[str, Any], param: str) -> None:
    """400 names the field, and nothing is computed or counted as waiting."""
    async with node_fakes.served_node() as served:
        response = await served.client.post(
            "/v1/completions", json=body, headers={"authorization": "Bearer key-standard"}
        )
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param
        assert served.runners["v1"].passes == []
        assert sum(served.node.places.held(level) for level in served.node.places.limits) == 0


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b'{"prompt": NaN}', b'{"prompt":"\\ud800"}'])
async def test_bytes_that_are_no_request_are_refused(raw: bytes) -> None:
    """Malformed JSON gets 400, or an answer where it is merely odd, never 500."""
    async with node_fakes.served_node() as served:
        headers = {"authorization": "Bearer key-standard"}
        response = await served.client.post("/v1/completions", content=raw, headers=headers)
        assert response.status_code in {200, 400}


async def test_a_huge_body_is_refused_while_it_is_read() -> None:
    """413 in the form of the API called."""
    async with node_fakes.served_node(max_body_bytes=2000) as served:
        data = await served.ask("x" * 3000)
        assert (data.status_code, data.json()["error"]["code"]) == (413, "body_too_large")
        admin = await served.admin("POST", "/cache/flush", {"tier": "l1", "prefix": "x" * 3000})
        assert (admin.status_code, admin.headers["content-type"]) == (413, "application/problem+json")


async def test_a_full_level_gets_429_and_others_go_on() -> None:
    """Beyond concurrency and queue of the key's level the answer is 429 with Retry-After, before tokenizing."""
    limits = {level: {"concurrency": 1, "queue": 0} for level in ("premium", "standard", "batch")}
    async with node_fakes.served_node(levels=limits, pace_step_seconds=1) as served:
        first = asyncio.create_task(served.ask("one"))
        await node_fakes.settle()
        refused = await served.ask("two")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert await served.metric('dsctl_node_rejected_total{level="standard",reason="queue_full"}') == 1
        other = asyncio.create_task(served.ask("two", key="key-premium"))
        for _ in range(10):
            await served.move(1)
        assert ((await first).status_code, (await other).status_code) == (200, 200)


async def test_the_level_comes_from_the_key() -> None:
    """X-Service-Level is ignored from a plain key, believed from a gateway's, and checked there."""
    limits = {level: {"concurrency": 0, "queue": 0} for level in ("premium", "standard")}
    async with node_fakes.served_node(levels={**limits, "batch": {"concurrency": 9, "queue": 9}}) as served:
        plain = await served.ask(headers={"x-service-level": "batch"})
        trusted = await served.ask(key="key-gateway", headers={"x-service-level": "batch"})
        wrong = await served.ask(key="key-gateway", headers={"x-service-level": "gold"})
        assert [each.status_code for each in (plain, trusted, wrong)] == [429, 200, 400]


async def test_a_drained_node_refuses_new_requests_and_ends_old_ones() -> None:
    """503 with Retry-After for new requests, not ready, and the one under way is answered; the lease ends it."""
    async with node_fakes.served_node(pace_step_seconds=1) as served:
        old = asyncio.create_task(served.ask())
        await node_fakes.settle()
        assert (await served.admin("POST", "/drain", {"ttl_seconds": 30})).json()["running"] == 1
        refused = await served.ask("new")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
        assert (await served.client.get("/ready")).json() == {"is_ready": False, "reason": "draining"}
        for _ in range(5):
            await served.move(1)
        assert (await old).status_code == 200
        await served.move(30)
        assert (await served.client.get("/ready")).status_code == 200


async def test_degradation_caps_new_answers_and_ends_by_itself() -> None:
    """Answers are cut while the lease holds; answers cut are never served as full ones."""
    async with node_fakes.served_node() as served:
        await served.admin("PUT", "/degradation", {"level": 1, "max_tokens": 2, "ttl_seconds": 10})
        assert len(text(await served.ask())) == 2
        assert await served.metric("dsctl_node_degradation_level") == 1
        assert await served.metric('dsctl_node_degraded_answers_total{level="standard"}') == 1
        await served.move(10)
        assert len(text(await served.ask())) == 4


async def test_a_model_switch_changes_answers_and_keys() -> None:
    """After a switch answers come from the new version, and going back finds the old ones kept."""
    async with node_fakes.served_node() as served:
        old = text(await served.ask())
        switched = await served.admin("PUT", "/model", {"version": "v2"})
        assert (switched.json()["previous_version"], switched.json()["model"]["version"]) == ("v1", "v2")
        assert text(await served.ask()) != old
        unknown = await served.admin("PUT", "/model", {"version": "v9"})
        assert (unknown.status_code, "v1, v2" in unknown.json()["detail"]) == (404, True)


async def test_warming_keeps_answers_ready() -> None:
    """Deterministic prompts are computed before anybody asks; others count as failed."""
    async with node_fakes.served_node() as served:
        prompts = [{"prompt": "a", "temperature": 0}, {"prompt": "b"}, {"nonsense": 1}]
        result = (await served.admin("POST", "/cache/warm", {"prompts": prompts})).json()
        assert (result["warmed"], result["failed"]) == (1, 2)
        await served.ask("a")
        assert served.node.cache.hits == 1


async def test_a_repeated_key_flushes_once() -> None:
    """The repeat gets the first answer, the generation counts one flush, the operation can be looked up."""
    async with node_fakes.served_node() as served:
        await served.ask()
        first = (await served.admin("POST", "/cache/flush", {"tier": "all"}, key="k1")).json()
        again = (await served.admin("POST", "/cache/flush", {"tier": "all"}, key="k1")).json()
        assert first == again == {"flushed": 1, "generation": 1, "boot_id": served.node.operations.boot_id}
        found = (await served.admin("GET", "/operations/k1")).json()
        assert (found["operation"], found["result"]) == ("cache.flush", first)
        other = await served.admin("POST", "/cache/flush", {"tier": "l1"}, key="k1")
        assert other.status_code == 409


async def test_overrides_without_a_time_limit_stay_and_partial_ones_keep_the_rest() -> None:
    """A batch size set for good has no lease; the wait that was not named keeps its value."""
    async with node_fakes.served_node() as served:
        leased = (await served.admin("PUT", "/batch", {"max_size": 8, "ttl_seconds": 60})).json()
        assert leased["expires_in_seconds"] == 60
        state = (await served.admin("GET", "/state")).json()
        assert state["leases"][0]["previous"] == {"max_size": 4, "max_wait_seconds": 0}
        kept = (await served.admin("PUT", "/batch", {"max_size": 16})).json()
        assert kept["batch"] == {"max_size": 16, "max_wait_seconds": 0}
        assert kept["expires_in_seconds"] is None
        await served.move(99)
        assert (await served.admin("GET", "/state")).json()["batch"]["max_size"] == 16


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("errors", {"ttl_seconds": 5}, 422),
        ("errors", {"ttl_seconds": 5, "ratio": 2}, 422),
        ("wedge", {"ttl_seconds": 5, "ratio": 0.5}, 422),
        ("wedge", {}, 422),
        ("wedge", {"ttl_seconds": 0}, 422),
        ("meteor", {"ttl_seconds": 5}, 404),
    ],
)
async def test_wrong_faults_are_refused(name: str, body: dict[str, Any], status: int) -> None:
    """A fault needs a time limit and its own parameter, and nothing else."""
    async with node_fakes.served_node() as served:
        assert (await served.admin("PUT", f"/faults/{name}", body)).status_code == status
        assert (await served.admin("GET", "/faults")).json()["active"] == []


async def test_faults_are_refused_unless_enabled() -> None:
    """Every way to faults answers 403 on a node that was not started for drills."""
    async with node_fakes.served_node(faults_enabled=False) as served:
        tries = [
            ("GET", "/faults", None),
            ("PUT", "/faults/wedge", {"ttl_seconds": 5}),
            ("DELETE", "/faults/wedge", None),
        ]
        for method, path, body in tries:
            assert (await served.admin(method, path, body)).status_code == 403
        assert (await served.admin("GET", "/state")).json()["faults"] == {"enabled": False, "active": []}


async def test_injected_errors_come_at_the_ratio_and_end() -> None:
    """A ratio of one half fails every second request with 500; after the lease none fails."""
    async with node_fakes.served_node() as served:
        await served.admin("PUT", "/faults/errors", {"ttl_seconds": 5, "ratio": 0.5})
        statuses = [(await served.ask()).status_code for _ in range(6)]
        assert statuses.count(500) == 3
        await served.move(5)
        assert [(await served.ask()).status_code for _ in range(4)] == [200] * 4


async def test_a_wedge_shows_in_the_steps_and_not_in_the_health() -> None:
    """Requests wait, steps stand, /health stays 200; the end of the lease lets them through."""
    async with node_fakes.served_node() as served:
        await served.admin("PUT", "/faults/wedge", {"ttl_seconds": 5})
        waiting = asyncio.create_task(served.ask())
        await node_fakes.settle()
        await served.move(2)
        assert (await served.client.get("/health")).json() == {"status": "alive"}
        assert await served.metric("dsctl_node_engine_steps_total") == 0
        assert await served.metric("dsctl_node_queue_age_seconds") == 2
        await served.move(3)
        assert (await waiting).status_code == 200


async def test_unknown_paths_and_methods_answer_in_the_form_of_their_api() -> None:
    """Data paths answer as OpenAI does, admin paths as problems; every answer carries a request id."""
    async with node_fakes.served_node() as served:
        data = await served.client.get("/v1/nothing", headers={"x-request-id": "abc"})
        assert (data.status_code, "error" in data.json(), data.headers["x-request-id"]) == (404, True, "abc")
        admin = await served.admin("PATCH", "/batch")
        assert (admin.status_code, admin.json()["status"]) == (405, 405)
        assert await served.metric('http_requests_total{handler="none",method="GET",status="4xx"}') == 1
