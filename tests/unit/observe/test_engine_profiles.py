"""The profiles of other people's engines: each asks only for what the engine exposes, of the right type and labels."""

import functools
import re
from collections.abc import Iterator

import pytest
import yaml

from controlplane import promql
from controlplane.domain import services
from controlplane.observe import catalogue, profiles
from tests.support import boards, expositions, profile_page, rules

CATALOGUE = catalogue.load()
# What wrote these has its own tests against the real thing, or against what was recorded of it.
TESTED_ELSEWHERE = {"dcgm", "dsctl", "host", "vllm"}
_USE = re.compile(
    r'(?:(?P<function>rate|increase|changes|deriv)\()?(?P<name>[a-z][\w:]*)\{service="x"(?P<more>[^}]*)\}'
)
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
RECORDED = expositions.names()


@functools.cache
def loaded(name: str) -> profiles.Profile:
    return profiles.load(name, CATALOGUE)


@functools.cache
def exposed(name: str) -> dict[str, list[expositions.Sample]]:
    found: dict[str, list[expositions.Sample]] = {}
    for sample in expositions.read(name):
        found.setdefault(sample.name, []).append(sample)
    return found


def own(name: str) -> Iterator[tuple[str, str]]:
    """Yield each signal a profile itself asks for, with each of its queries; not those of its mix-ins."""
    for signal, asked in loaded(name).queries.signals.items():
        if asked.source in profile_page.MIXINS - {name}:
            continue
        for template in (asked.node, asked.service, asked.volume):
            if template is not None:
                yield signal, template.render(selector='service="x"', by=["service"], window="1m")


def test_every_engine_has_its_exposition() -> None:
    """No profile ships without a record of what it reads."""
    assert set(profiles.names()) - set(RECORDED) == TESTED_ELSEWHERE


@pytest.mark.parametrize("name", RECORDED)
def test_every_metric_asked_for_is_exposed(name: str) -> None:
    """A misspelt name would be missing for ever, and look like an engine that does not tell."""
    missing = {(signal, metric) for signal, query in own(name) for metric in boards.metrics(query) - set(exposed(name))}
    assert missing == set()
    assert loaded(name).detect in exposed(name)


@pytest.mark.parametrize("name", RECORDED)
def test_a_metric_is_asked_as_its_type_wants_it(name: str) -> None:
    """Rates are of what counts, slopes and plain values of what stands: a rate of a gauge means nothing."""
    for signal, query in own(name):
        for use in _USE.finditer(query):
            sample = exposed(name)[use["name"]][0]
            assert sample.grows == (use["function"] in {"rate", "increase"}), f"{signal}: {use['name']}"


@pytest.mark.parametrize("name", RECORDED)
def test_every_label_asked_for_is_there(name: str) -> None:
    """A matcher on a label the metric lacks keeps nothing, or everything."""
    for signal, query in own(name):
        for use in _USE.finditer(query):
            for label, how, value in _MATCHER.findall(use["more"]):
                given = {sample.labels.get(label) for sample in exposed(name)[use["name"]]} - {None}
                assert given, f"{signal}: {use['name']} has no {label}"
                assert how != "=" or value in given, f"{signal}: {use['name']} has no {label}={value}"


def test_the_expositions_lack_no_use() -> None:
    """The checks above see the queries at all: each metric that a query names is found as a use."""
    for name in RECORDED:
        for signal, query in own(name):
            assert {use["name"] for use in _USE.finditer(query)} == boards.metrics(query), f"{name}: {signal}"


@pytest.mark.parametrize("name", RECORDED)
def test_rules_are_written_for_the_signals_there_are(name: str) -> None:
    """A rule about what the engine does not tell would never fire, and nobody would know."""
    text = rules.written([services.Service("x", name, {"service": "x"})])
    [group, _] = yaml.safe_load(text)["groups"]
    told = {rule["labels"]["dsctl_signal"] for rule in group["rules"]} - {"up"}
    assert told <= set(loaded(name).queries.signals)
    assert ("latency_p99" in told) == ("latency_p99" in loaded(name).queries.signals)


def test_an_exporter_of_the_cluster_is_no_node() -> None:
    """Targets of mix-ins, a mesh's sidecars among them, must not be counted as nodes of the service."""
    others = loaded("sglang").queries.other_jobs
    assert {"dcgm", "host", "kube-state-metrics"} == set(others)
    assert promql.EngineQueries("node", {}, other_jobs=others).node_matcher == loaded("sglang").queries.node_matcher


def test_the_page_lists_the_signals_of_every_profile() -> None:
    """After a change of a profile: python -m tests.support.profile_page."""
    text = profile_page.PAGE.read_text(encoding="utf-8")
    assert profile_page.rewritten(text) == text
