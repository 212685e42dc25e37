"""The profiles of other people's engines against a real Prometheus that scrapes what these engines expose."""

import json
import re
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from alerts.rules import generate
from controlplane import clock
from controlplane.domain import services, windows
from controlplane.domain import signals as sig
from controlplane.observe import catalogue, coverage, profiles, prometheus, reader
from tests.support import expositions, profile_page
from tests.support import prometheus as real

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CATALOGUE = catalogue.load()
NODES = {"a": 1.0, "b": 2.0}  # the counters of b grow twice as fast as the file says
NAN = float("nan")

# What node a tells, and what the service does: rates of the service are of both nodes, 1 + 2 times those of the file.
Pair = tuple[float, float]
QUANTILES: Mapping[str, Pair] = {"latency_p50": (0.2, 0.2), "latency_p95": (0.7, 0.7), "latency_p99": (0.94, 0.94)}
EXPECTED: Mapping[str, Mapping[str, Pair]] = {
    "sglang": {
        **QUANTILES,
        "request_rate": (10, 30),
        "success_ratio": (0.9, 0.9),
        "ttft_p95": (0.2, 0.2),
        "inter_token_latency_p95": (0.04, 0.04),
        "queue_depth": (5, 10),
        "running": (7, 14),
        "batch_size": (7, 7),
        "workers_completed_rate": (10, 30),
        "prompt_tokens_rate": (1000, 3000),
        "kv_cache_usage": (0.75, 0.75),
        "cache_hit_ratio": (0.4, 0.4),
        "preemption_rate": (0.75, 2.25),
    },
    "tgi": {
        **QUANTILES,
        "request_rate": (12, 36),
        "success_ratio": (0.9, 0.9),
        "inter_token_latency_p95": (0.04, 0.04),
        "queue_depth": (4, 8),
        "running": (8, 16),
        "batch_size": (8, 8),
        "workers_completed_rate": (9, 27),
    },
    "triton": {
        **QUANTILES,
        "request_rate": (10, 30),
        "success_ratio": (0.9, 0.9),
        "ttft_p95": (0.2, 0.2),
        "queue_depth": (7, 14),
        "running": (6, 12),
        "batch_size": (4, 4),
        "workers_completed_rate": (9, 27),
        "kv_cache_usage": (0.25, 0.25),
    },
    "lmdeploy": {
        **QUANTILES,
        "request_rate": (10, 30),
        "success_ratio": (0.9, 0.9),
        "ttft_p95": (0.2, 0.2),
        "inter_token_latency_p95": (0.04, 0.04),
        "queue_depth": (3, 6),
        "running": (8, 16),
        "batch_size": (8, 8),
        "workers_completed_rate": (10, 30),
        "engine_steps_rate": (30, 90),
        "kv_cache_usage": (0.5, 0.5),
        "cache_hit_ratio": (0.3, 0.3),
    },
    # An engine of somebody's own in Kubernetes behind Istio, as docs/profiles.md has it; the pod b is not ready.
    "mine": {
        **QUANTILES,
        "running": (3, 6),
        "kv_cache_usage": (0.4, 0.4),
        "ttft_p95": (0.2, 0.2),
        "request_rate": (31, 93),
        "success_ratio": (19 / 22, 19 / 22),
        "server_error_ratio": (3 / 22, 3 / 22),
        "failed_ratio": (2 / 22, 2 / 22),
        "client_error_rate": (3, 9),
        "rejected_rate": (4, 12),
        "in_service": (1, 1),
        # 0.75 a second within the window of 4 s.
        "restarts": (3, 3),
    },
}
MINE = [
    expositions.Sample("mine_busy", "gauge", {"model": "x"}, 1),
    expositions.Sample("mine_busy", "gauge", {"model": "y"}, 2),
    expositions.Sample("mine_cache_percent", "gauge", {}, 40),
    *(
        expositions.Sample("mine_first_token_bucket", "histogram", {"le": bound}, count)
        for bound, count in (("50", 0), ("100", 90), ("300", 100), ("+Inf", 100))
    ),
]


def examples() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", profile_page.PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `profiles_dir` with the example of the page and nothing else."""
    made = tmp_path_factory.mktemp("profiles")
    (made / "mine.yaml").write_text(examples()[0], encoding="utf-8")
    return made


def known(folder: Path) -> Mapping[str, profiles.Profile]:
    return profiles.load_all(list(EXPECTED), CATALOGUE, search_path=[folder])


def managed() -> list[services.Service]:
    # The page's scrape jobs are those of a service named chat.
    return [services.Service(name, name, {"service": "chat" if name == "mine" else name}) for name in EXPECTED]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with ExitStack() as stack:
        nodes = [
            {"targets": [stack.enter_context(expositions.serving(samples, factor=factor))], "labels": labels}
            for one in managed()
            for samples in [MINE if one.name == "mine" else expositions.read(one.name)]
            for node, factor in NODES.items()
            for labels in [{**one.selector, "node": node}]
        ]
        cluster = stack.enter_context(expositions.serving(expositions.read("kube-state-metrics")))
        sidecars = [
            {
                "targets": [stack.enter_context(expositions.serving(expositions.read("istio"), factor=factor))],
                "labels": {"service": "chat", "node": node},
            }
            for node, factor in NODES.items()
        ]
        jobs = [{"job_name": "engines", "static_configs": nodes}, *_of_the_page(cluster, sidecars)]
        config = {"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"}, "scrape_configs": jobs}
        server = real.start_prometheus(tmp_path_factory.mktemp("prometheus"), json.dumps(config))
        stack.callback(server.stop)
        real.until(lambda: _spans_a_window(server.url), "rates span their whole window on every target", seconds=40)
        yield server.url


def _of_the_page(cluster: str, sidecars: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the page's scrape jobs, at the pace and with the addresses of the test: no Kubernetes to ask."""
    exporter, mesh = yaml.safe_load(examples()[1])["scrape_configs"]
    exporter["static_configs"][0]["targets"] = [cluster]
    for job in (exporter, mesh):
        job["scrape_interval"] = "500ms"
    for key in ("kubernetes_sd_configs", "relabel_configs"):
        del mesh[key]
    return [exporter, mesh | {"static_configs": sidecars}]


async def read(url: str, folder: Path) -> Mapping[str, windows.ServiceView]:
    with ThreadPoolExecutor(8) as pool:
        client = prometheus.PrometheusClient(url, pool)
        asked = reader.PrometheusReader(
            client, managed(), known(folder), CATALOGUE, clock.SystemClock(), window_seconds=4.0, step_seconds=1
        )
        view = await asked.read_now()
        client.close()
    return view.services


def _spans_a_window(url: str) -> bool:
    """True when every target was already scraped five seconds ago."""
    number = 2 * len(EXPECTED) + 3
    answer = real.get(f"{url}/api/v1/query?query=count(up%20offset%205s%20==%201)")["data"]["result"]
    return bool(answer) and float(answer[0]["value"][1]) == number


async def test_every_signal_of_every_profile_is_read_back(store: str, folder: Path) -> None:
    """Units, sums over models and ranks, quantiles and scopes: what Prometheus makes of each exposition is what it says."""
    wrong = ["nothing was read"]
    with anyio.move_on_after(20):
        while wrong:
            wrong = list(differences(await read(store, folder)))
    assert wrong == []


def differences(seen: Mapping[str, windows.ServiceView]) -> Iterator[str]:
    """Say what is not as expected. Prometheus guesses rates at the edges of a window: late scrapes make them smaller.

    What is divided by another rate of the same scrapes is exact.
    """
    for name, expected in EXPECTED.items():
        for signal, (node, whole) in expected.items():
            tolerance = 0.15 if CATALOGUE[signal].unit.endswith("_per_second") or signal == "restarts" else 0.001
            readings = (seen[name].nodes["a"].signals.get(signal), seen[name].signals.get(signal))
            for where, wanted, reading in zip(("node a", "service"), (node, whole), readings, strict=True):
                got = reading.value if isinstance(reading, sig.Value) else NAN
                if got != pytest.approx(wanted, rel=tolerance):
                    yield f"{name} {signal} of {where}: {reading}, expected {wanted}"


async def test_a_pod_that_is_not_ready_is_out(store: str, folder: Path) -> None:
    """Readiness in Kubernetes is what being in service is at a gateway; strangers of other namespaces are dropped."""
    chat = (await read(store, folder))["mine"]
    assert [chat.nodes[node].is_serving for node in ("a", "b")] == [True, False]
    assert chat.nodes["b"].is_out


async def test_what_is_not_scraped_is_missing_and_what_is_not_mapped_is_not_asked(store: str, folder: Path) -> None:
    """`dsctl doctor` tells the two apart: SGLang has no DCGM here, and TGI can never tell of its KV cache."""
    seen = await read(store, folder)
    rows = {row.signal: row.state for row in coverage.of(seen["sglang"])}
    assert rows["gpu_power"] is rows["in_service"] is coverage.Standing.MISSING
    assert rows["kv_cache_usage"] is coverage.Standing.FOUND
    assert "kv_cache_usage" not in {row.signal for row in coverage.of(seen["tgi"])}


def test_the_table_of_this_file_lacks_no_signal(folder: Path) -> None:
    """Whatever a profile asks for, but for the exporters of hardware and of Kubernetes, is read back above."""
    for name, one in known(folder).items():
        elsewhere = {"dcgm", "host"} | (set() if name == "mine" else {"kube-state-metrics"})
        asked = {signal for signal, queries in one.queries.signals.items() if queries.source not in elsewhere}
        assert asked == set(EXPECTED[name]), name


def test_every_query_and_rule_parses(folder: Path, tmp_path: Path) -> None:
    """Prometheus of the oldest supported version takes each query at each scope, and the rules written from them."""
    names = [*EXPECTED, "istio", "kube-state-metrics"]
    loaded = {name: profiles.load(name, CATALOGUE, search_path=[folder]).queries for name in names}
    queries = [
        template.render(selector='service="x"', by=by, window="2m")
        for one in loaded.values()
        for asked in one.signals.values()
        for template, by in (
            (asked.node, ("service", "node")),
            (asked.service, ("service",)),
            (asked.volume, ("service",)),
        )
        if template is not None
    ]
    recorded = [{"record": f"q:number:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "q.yml").write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": recorded}]}))
    assert f"{len(queries)} rules found" in real.run_tool("promtool", "check", "rules", tmp_path / "q.yml")
    fleet = [services.Service(name, name, {"service": name}) for name in names]
    (tmp_path / "rules.yml").write_text(generate.rules(fleet, loaded), encoding="utf-8")
    assert re.search(r"\d+ rules found", real.run_tool("promtool", "check", "rules", tmp_path / "rules.yml"))


def test_the_scrape_jobs_of_the_page_are_valid(tmp_path: Path) -> None:
    """What is copied from the page works; only a Prometheus that can ask Kubernetes knows the line that does."""
    text = re.sub(r".*kubernetes_sd_configs.*\n", "", examples()[1])
    (tmp_path / "prometheus.yml").write_text(text, encoding="utf-8")
    real.run_tool("promtool", "check", "config", tmp_path / "prometheus.yml")


def test_a_growing_queue_is_demand_counted_once_for_all_ranks(tmp_path: Path) -> None:
    """An SGLang that has finished nothing yet takes in what its two ranks both say, not twice as much."""
    asked = profiles.load("sglang", CATALOGUE).queries.signals["request_rate"].service
    assert asked is not None
    query = asked.render(selector='service="x"', by=["service"], window="1m")
    running = 'sglang:num_running_reqs{service="x",instance="i",tp_rank="%d"}'
    series = {running % 0: "0+15x20", running % 1: "0+15x20", 'sglang:num_queue_reqs{service="x",instance="i"}': "0x20"}
    case = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": "4m", "exp_samples": [{"labels": '{service="x"}', "value": 1}]}
        ],
    }
    (tmp_path / "case.yml").write_text(
        yaml.safe_dump({"rule_files": [], "evaluation_interval": "15s", "tests": [case]})
    )
    real.run_tool("promtool", "test", "rules", tmp_path / "case.yml")
