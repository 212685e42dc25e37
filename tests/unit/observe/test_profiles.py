"""The catalogue and the profiles: what ships is complete, and what is wrong is refused with its place."""

from pathlib import Path

import pytest

from controlplane import promql, strictyaml
from controlplane.domain import errors
from controlplane.domain import signals as sig
from controlplane.observe import catalogue, profiles

CATALOGUE = catalogue.load()
CANONICAL = [
    "request_rate",
    "success_ratio",
    "client_error_rate",
    "server_error_ratio",
    "failed_ratio",
    "rejected_rate",
    "premium_latency_p99",
    "premium_rejected_ratio",
    "gateway_queue_depth",
    "latency_p50",
    "latency_p95",
    "latency_p99",
    "ttft_p95",
    "inter_token_latency_p95",
    "queue_depth",
    "queue_age",
    "running",
    "outstanding",
    "draining",
    "in_service",
    "batch_size",
    "workers_active",
    "workers_size",
    "workers_queue",
    "workers_completed_rate",
    "workers_rejected_rate",
    "prompt_tokens_rate",
    "generation_tokens_rate",
    "kv_cache_usage",
    "cache_hit_ratio",
    "cache_wrong_ratio",
    "preemption_rate",
    "gpu_utilization_ratio",
    "gpu_memory_used_ratio",
    "gpu_memory_fragmentation_ratio",
    "gpu_temperature",
    "gpu_power",
    "gpu_xid",
    "gpu_ecc",
    "gpu_throttle",
    "cpu_usage_ratio",
    "host_memory_limit",
    "host_memory_used",
    "open_files",
    "open_files_limit",
    "threads",
    "restarts",
    "breaker_open",
    "degradation_level",
    "gateway_load_ratio",
    "engine_steps_rate",
    "user_complaints_rate",
]


def parse(text: str) -> profiles.Profile:
    return profiles.parse(strictyaml.read(text, source="mine.yaml"), CATALOGUE)


def profile(signals: str, *, head: str = "engine: mine\ndetect: mine_info\n") -> profiles.Profile:
    return parse(f"{head}signals:\n  {signals}\n")


def test_the_catalogue_has_every_canonical_signal() -> None:
    """No more, no less; quantiles and ratios of sums never add up, and rates have units."""
    assert sorted(CATALOGUE) == sorted(CANONICAL)
    assert {
        name for name in CATALOGUE if "latency" in name and CATALOGUE[name].combine is not sig.Combine.NONE
    } == set()
    assert all(one.fresh_seconds > 0 and one.unit and one.help for one in CATALOGUE.values())


@pytest.mark.parametrize("name", profiles.names())
def test_the_shipped_profiles_load(name: str) -> None:
    """Each is valid, and everything a service needs for a sum is asked per node or per service."""
    loaded = profiles.load(name, CATALOGUE)
    assert loaded.engine == name
    for signal, asked in loaded.queries.signals.items():
        assert asked.node or asked.service, signal
        if asked.service is None:
            assert CATALOGUE[signal].combine is not sig.Combine.NONE, f"{signal} of services can never be told"


def test_mixins_bring_their_signals_from_their_own_job() -> None:
    """GPU numbers come from the exporter's targets; the profile's own word wins over a mix-in's."""
    loaded = profiles.load("dsctl", CATALOGUE).queries
    assert loaded.signals["gpu_power"].source == "dcgm"
    assert loaded.signals["queue_depth"].source == ""
    assert loaded.signals["latency_p99"].source == "gateway"
    assert loaded.other_jobs == ("dcgm", "gateway", "host")
    memory = loaded.signals["host_memory_used"].node
    assert memory is not None
    assert "process_resident_memory_bytes" in memory.text


def test_one_query_serves_both_scopes_and_an_instance_style_query_only_nodes() -> None:
    """{by} names the labels; a query that groups by instance itself cannot tell about services."""
    both = profile("latency_p99: 'max by ({by}) (x{selector})'").queries.signals["latency_p99"]
    assert both.node == both.service == promql.Template("max by ({by}) (x{selector})")
    node = profile("queue_depth: sum by (instance) (x{selector})").queries.signals["queue_depth"]
    assert (node.node is not None, node.service) == (True, None)
    service = profile("gateway_load_ratio: 'max by ({by}) (x{selector})'").queries.signals["gateway_load_ratio"]
    assert (service.node, service.service is not None) == (None, True)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("latency_p50: {node: 'x{selector}', unit: milliseconds}", "(x{selector}) * 0.001"),
        ("host_memory_used: {node: 'x{selector}', unit: mebibytes}", "(x{selector}) * 1048576"),
        ("kv_cache_usage: {node: 'x{selector}', unit: percent}", "(x{selector}) * 0.01"),
        ("kv_cache_usage: {node: 'x{selector}', unit: ratio}", "x{selector}"),
    ],
)
def test_units_of_the_exporter_become_base_units(entry: str, text: str) -> None:
    """The query is multiplied, so that rules and reader see the same number."""
    [asked] = profile(entry).queries.signals.values()
    assert asked.node == promql.Template(text)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("queue_dept: 'x{selector}'", "mine.yaml:4: signals.queue_dept: no such signal in the catalogue; did you mean 'queue_depth'?"),
        ("queue_depth: 'x'", "signals.queue_depth: has no {selector}"),
        ("queue_depth: 'x{selector} + y{a=\"1\"}'", "matchers must begin with the selector"),
        ("queue_depth: 'x{selector}[{range}]'", "unknown placeholder {range}"),
        ("queue_depth: {node: 'x{selector}', unit: percent}", "unit 'percent' cannot be turned into requests"),
        ("queue_depth: {nod: 'x{selector}'}", "mine.yaml:4"),
        ("queue_depth: {unit: requests}", "give a query"),
        ("queue_depth: {query: 'x{selector}', node: 'x{selector}'}", "give either one query"),
        ("gateway_load_ratio: {node: 'x{selector}'}", "is measured on services only"),
        ("queue_depth: 5", "mine.yaml:4"),
        ("queue_depth: 'x{selector}'\n  queue_depth: 'y{selector}'", "mine.yaml:5: key 'queue_depth' is given twice"),
        ("request_rate: 'x{selector}'", "arrivals must say what request_rate counts"),
    ],
)  # fmt: skip
def test_a_wrong_profile_is_refused_with_place_and_reason(entry: str, said: str) -> None:
    """The author of a profile is told what to change and where."""
    with pytest.raises(errors.InvalidInputError) as refused:
        profile(entry)
    assert said in str(refused.value)


@pytest.mark.parametrize("head", ["engine: Mine\ndetect: x\n", "engine: mine\n", "engine: mine\ndetect: 'x{}'\n"])
def test_the_head_of_a_profile_is_checked(head: str) -> None:
    """Names that would end up in queries and file names are narrow."""
    with pytest.raises(errors.InvalidInputError):
        profile("queue_depth: 'x{selector}'", head=head)


def test_arrivals_from_the_gateway_must_come_from_the_gateway() -> None:
    """Saying gateway while counting completions is refused."""
    head = "engine: mine\ndetect: x\narrivals: gateway\n"
    assert profile("request_rate: {query: 'x{selector}', source: gateway}", head=head).arrivals == "gateway"
    with pytest.raises(errors.InvalidInputError, match="arrivals"):
        profile("request_rate: 'x{selector}'", head=head)


def test_a_new_engine_is_one_file_and_wins_over_a_shipped_one(tmp_path: Path) -> None:
    """The search path is looked through first; what is nowhere is answered with the nearest name."""
    (tmp_path / "mine.yaml").write_text(
        "engine: mine\ndetect: x\nsignals: {running: 'x{selector}'}\n", encoding="utf-8"
    )
    (tmp_path / "vllm.yaml").write_text(
        "engine: vllm\ndetect: y\nsignals: {running: 'y{selector}'}\n", encoding="utf-8"
    )
    assert profiles.load("mine", CATALOGUE, search_path=[tmp_path]).engine == "mine"
    assert profiles.load("vllm", CATALOGUE, search_path=[tmp_path]).detect == "y"
    assert "mine" in profiles.names([tmp_path])
    with pytest.raises(errors.NotFoundError, match="did you mean 'vllm'"):
        profiles.load("vlm", CATALOGUE)
    with pytest.raises(errors.InvalidInputError):
        profiles.load("../vllm", CATALOGUE)


def test_a_mixin_must_name_its_job_and_share_the_nodes_label(tmp_path: Path) -> None:
    """Else nobody could tell whose numbers they are."""
    own = "engine: own\ndetect: x\nmixins: [extra]\nsignals: {running: 'x{selector}'}\n"
    (tmp_path / "own.yaml").write_text(own, encoding="utf-8")
    for head, said in (("", "must name its job"), ("job: e\nnode_label: pod\n", "tells nodes apart by 'pod'")):
        text = f"engine: extra\ndetect: y\n{head}signals: {{gpu_power: 'y{{selector}}'}}\n"
        (tmp_path / "extra.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(errors.InvalidInputError, match=said):
            profiles.load("own", CATALOGUE, search_path=[tmp_path])
