"""A real node and a real gateway as processes, spoken to by the official openai client."""

import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import yaml
from prometheus_client import parser

from tests.support import nodes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

MODEL = "tiny-deepseek-v3"
CHAT: list[Any] = [{"role": "user", "content": "Tell me about batches, naïve café ☕"}]


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Generator[nodes.Started]:
    settings: dict[str, Any] = {
        "model": {"versions": {"v1": {"seed": 0}, "v2": {"seed": 7}}},
        "cache": {"audit_ratio": 1.0},
    }
    with nodes.run_node(tmp_path_factory.mktemp("node"), **settings) as started:
        yield started


@pytest.fixture(scope="session")
def gateway(node: nodes.Started, tmp_path_factory: pytest.TempPathFactory) -> Generator[nodes.Started]:
    registered = [{"name": "node-1", "url": node.url}]
    with nodes.run_gateway(tmp_path_factory.mktemp("gateway"), nodes=registered) as started:
        yield started


@pytest.fixture(params=["node", "gateway"])
def client(request: pytest.FixtureRequest) -> Generator[openai.OpenAI]:
    started: nodes.Started = request.getfixturevalue(request.param)
    with openai.OpenAI(base_url=f"{started.url}/v1", api_key=started.api_key, max_retries=0) as made:
        yield made


@pytest.fixture
def admin(node: nodes.Started) -> Generator[httpx.Client]:
    with httpx.Client(base_url=f"{node.url}/admin/v1", headers=node.admin, timeout=30) as made:
        yield made
        made.post("/cache/flush", json={"tier": "l1"}).raise_for_status()


def samples(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample of /metrics by name and labels."""
    text = httpx.get(f"{url}/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(url: str, name: str, **labels: str) -> float:
    return samples(url).get((name, tuple(sorted(labels.items()))), 0.0)


def until(claim: Callable[[], bool], seconds: float = 20) -> None:
    """Poll until the claim holds."""
    deadline = time.monotonic() + seconds  # noqa: TID251 - waits for another process
    while not claim():
        assert time.monotonic() < deadline, "the claim did not come true in time"  # noqa: TID251 - as above
        threading.Event().wait(0.05)


def complete(url: str, key: str, prompt: str, **fields: Any) -> httpx.Response:
    body: dict[str, Any] = {"prompt": prompt, "temperature": 0, "max_tokens": 12, **fields}
    headers = {"authorization": f"Bearer {key}", **body.pop("headers", {})}
    return httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=60)


def test_models(client: openai.OpenAI) -> None:
    """The official client lists the one model."""
    assert [model.id for model in client.models.list().data] == [MODEL]


def test_chat_and_stream_agree(client: openai.OpenAI) -> None:
    """The pieces of a stream join to the whole answer; usage and finish reason come last."""
    whole = client.chat.completions.create(model=MODEL, messages=CHAT, temperature=0, max_tokens=40)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=CHAT,
            temperature=0,
            max_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"Cache-Control": "no-cache"},
        )
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert len(chunks) > 10


def test_completion_with_a_seed_repeats(client: openai.OpenAI) -> None:
    """A seeded answer at a temperature is the same again, computed anew; another seed gives another."""

    def ask(seed: int) -> str:
        made = client.completions.create(
            model=MODEL, prompt="seeds", seed=seed, max_tokens=30, extra_headers={"Cache-Control": "no-cache"}
        )
        return made.choices[0].text

    assert ask(1) == ask(1) != ask(2)


def test_refusals_are_the_clients_own_errors(client: openai.OpenAI) -> None:
    """The official client raises the class that belongs to each refusal."""
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=MODEL, prompt="x", max_tokens=100_000)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").completions.create(model=MODEL, prompt="x")


def test_company_in_the_batch_does_not_change_an_answer(node: nodes.Started) -> None:
    """Sixteen prompts of mixed lengths answered together are answered as when alone."""
    prompts = [f"{number} " + "long " * (number % 5) for number in range(16)]

    def ask(prompt: str) -> tuple[str, int]:
        answer = complete(node.url, node.api_key, prompt, max_tokens=24, headers={"cache-control": "no-cache"}).json()
        return answer["choices"][0]["text"], answer["usage"]["completion_tokens"]

    alone = [ask(prompt) for prompt in prompts]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, prompts))
    assert together == alone
    assert len({text for text, _ in alone}) == 16


def test_batch_size_changes_while_running(node: nodes.Started, admin: httpx.Client) -> None:
    """With size one no step holds two requests; with the old size back they share steps again."""

    def largest_batch() -> float:
        before = samples(node.url)
        with ThreadPoolExecutor(6) as pool:
            list(
                pool.map(
                    lambda n: complete(node.url, node.api_key, f"batch {n}", headers={"cache-control": "no-cache"}),
                    range(6),
                )
            )
        after = samples(node.url)
        name = "dsctl_node_batch_size"
        steps = after[name + "_count", ()] - before[name + "_count", ()]
        total = after[name + "_sum", ()] - before[name + "_sum", ()]
        return total / steps

    old = admin.get("/state").json()["batch"]["max_size"]
    admin.put("/batch", json={"max_size": 1}).raise_for_status()
    assert largest_batch() == 1
    admin.put("/batch", json={"max_size": old, "max_wait_seconds": 0.05}).raise_for_status()
    assert largest_batch() > 2
    admin.put("/batch", json={"max_wait_seconds": 0.005}).raise_for_status()


def test_a_poisoned_cache_is_wrong_until_flushed(node: nodes.Started, admin: httpx.Client) -> None:
    """The audits count mismatches, the node does not heal itself, a flush makes the answers right again."""

    def ask() -> str:
        return complete(node.url, node.api_key, "poison").json()["choices"][0]["text"]

    def audits(result: str) -> float:
        return value(node.url, "dsctl_node_cache_audits_total", tier="l1", result=result)

    right, mismatches = ask(), audits("mismatch")
    assert ask() == right
    admin.put("/faults/poison_cache", json={"ttl_seconds": 1}).raise_for_status()
    assert ask() != right
    # One audit of an answer at a time: a hit that comes while the last one is still compared goes unaudited.
    until(lambda: ask() != right and audits("mismatch") > mismatches)
    until(lambda: admin.get("/state").json()["faults"]["active"] == [])
    assert ask() != right
    flushed = admin.post("/cache/flush", json={"tier": "l1"}, headers={"Idempotency-Key": "flush-1"}).json()
    assert flushed["flushed"] >= 1
    until(lambda: value(node.url, "vllm:num_requests_running", model_name=MODEL, engine="0") == 0)
    wrong_before, matches = audits("mismatch"), audits("match")
    assert ask() == right == ask()
    until(lambda: audits("match") > matches)
    assert audits("mismatch") == wrong_before
    assert admin.get("/operations/flush-1").json()["result"] == flushed


def test_a_caller_that_leaves_frees_its_place(node: nodes.Started, gateway: nodes.Started) -> None:
    """A closed stream, directly or through the gateway, ends the work long before its last token."""
    for started in (node, gateway):
        aborted = value(node.url, "vllm:request_success_total", model_name=MODEL, engine="0", finished_reason="abort")
        body = {"prompt": "leave", "max_tokens": 1900, "ignore_eos": True, "stream": True, "seed": 5}
        headers = {"authorization": f"Bearer {started.api_key}", "cache-control": "no-cache"}
        with httpx.stream("POST", f"{started.url}/v1/completions", json=body, headers=headers) as response:
            assert next(response.iter_lines()).startswith("data: ")
        until(
            lambda before=aborted: (
                value(node.url, "vllm:request_success_total", model_name=MODEL, engine="0", finished_reason="abort")
                == before + 1
            )
        )
        until(lambda: httpx.get(f"{node.url}/admin/v1/state", headers=node.admin).json()["running"] == 0)
    until(lambda: value(gateway.url, "dsctl_gateway_outstanding", node="node-1") == 0)


def test_a_caller_that_leaves_before_the_answer_frees_its_place(node: nodes.Started, gateway: nodes.Started) -> None:
    """Closing the socket of a request that does not stream cancels it too."""
    for started in (node, gateway):
        host, port = started.url.removeprefix("http://").split(":")
        body = json.dumps({"prompt": "leave", "max_tokens": 1900, "ignore_eos": True}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {started.api_key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + body)
            until(lambda: httpx.get(f"{node.url}/admin/v1/state", headers=node.admin).json()["running"] == 1)
        until(lambda: httpx.get(f"{node.url}/admin/v1/state", headers=node.admin).json()["running"] == 0, 5)


def test_a_version_switch_and_back(node: nodes.Started, admin: httpx.Client) -> None:
    """The other version answers otherwise; the first one, loaded again, answers as before."""

    def ask() -> str:
        headers = {"cache-control": "no-cache"}
        return complete(node.url, node.api_key, "version", headers=headers).json()["choices"][0]["text"]

    first = ask()
    admin.put("/model", json={"version": "v2"}).raise_for_status()
    assert ask() != first
    admin.put("/model", json={"version": "v1"}).raise_for_status()
    assert ask() == first


def test_the_metrics_are_those_of_the_contract(node: nodes.Started, gateway: nodes.Started) -> None:
    """Prometheus's own parser reads both, and every documented name is there, as is process_*."""
    complete(gateway.url, gateway.api_key, "metrics")
    document = yaml.safe_load(
        (Path(__file__).parents[2] / "docs/contract/node-gateway.openapi.yaml").read_text(encoding="utf-8")
    )
    for server, started in (("node", node), ("gateway", gateway)):
        text = httpx.get(f"{started.url}/metrics").text
        families = {family.name for family in parser.text_string_to_metric_families(text)}
        for metric in document["x-metrics"][server]:
            name = metric["name"]
            assert name in families or name.removesuffix("_total") in families, name
        assert "process_cpu_seconds" in families
        assert not any(name.endswith("_created") for name in families)


def test_levels_reach_the_node_through_the_gateway(node: nodes.Started, gateway: nodes.Started) -> None:
    """With no standard places at the node, a premium key still gets its answer and a standard one 429."""
    limit = {"standard": {"concurrency": 0, "queue": 0}, "ttl_seconds": 30}
    httpx.put(f"{node.url}/admin/v1/limits", json=limit, headers=node.admin).raise_for_status()
    standard = complete(gateway.url, gateway.api_key, "level", headers={"cache-control": "no-cache"})
    premium = complete(gateway.url, gateway.premium_key, "level", headers={"cache-control": "no-cache"})
    assert (standard.status_code, premium.status_code) == (429, 200)
    assert standard.headers["retry-after"] == "1"
    back = {"standard": {"concurrency": 500, "queue": 500}}
    httpx.put(f"{node.url}/admin/v1/limits", json=back, headers=node.admin).raise_for_status()


def test_an_idle_node_and_gateway_cost_next_to_nothing(node: nodes.Started, gateway: nodes.Started) -> None:
    """Two seconds of idling take less than 2 % of a core each."""
    processes = [psutil.Process(started.pid) for started in (node, gateway)]

    def spent() -> list[float]:
        return [sum(process.cpu_times()[:2]) for process in processes]

    before = spent()
    threading.Event().wait(2)
    assert all(after - start <= 0.04 for start, after in zip(before, spent(), strict=True))


def test_a_node_that_vanished_costs_the_caller_nothing(node: nodes.Started, tmp_path: Path) -> None:
    """With one of two registered nodes unreachable, every request is answered by the other."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    registered = [{"name": "dead", "url": dead}, {"name": "node-1", "url": node.url}]
    with nodes.run_gateway(tmp_path, nodes=registered) as started:
        answers = [complete(started.url, started.api_key, "vanished") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert value(started.url, "dsctl_gateway_upstream_errors_total", node="dead", reason="connect") >= 1


def test_a_stopped_gateway_exits_cleanly(tmp_path: Path) -> None:
    """SIGTERM ends it with code 0."""
    with nodes.run_gateway(tmp_path) as started:
        assert httpx.get(f"{started.url}/ready").status_code == 503
        started.process.terminate()
        assert started.process.wait(20) == 0
