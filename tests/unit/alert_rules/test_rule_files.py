"""The generated files: equal to what is checked in, complete, and only what an engine can tell."""

import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from alerts import alertmanager_config, prometheus_config
from alerts.rules import generate, pace
from controlplane import promql
from controlplane.domain import alerting, errors, findings, incidents, services
from controlplane.engine import reports
from controlplane.observe import catalogue, profiles
from tests.support import rules
from tests.support.clock import START

CHAT = services.Service("chat", "dsctl", {"service": "chat"})
PAGES = Path(__file__).parents[3] / "docs" / "alerts"


def alerts_of(text: str) -> list[dict[str, dict[str, str]]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


@functools.cache
def of_chat() -> list[dict[str, dict[str, str]]]:
    """The rules of a service that states nothing: reading profiles takes longer than every look at them."""
    return alerts_of(rules.written([CHAT]))


@pytest.mark.parametrize("path", list(rules.generated()), ids=lambda path: path.name)
def test_what_is_checked_in_is_what_is_generated(path: Path) -> None:
    """After a change of a rule: python -m tests.support.rules."""
    assert path.read_text(encoding="utf-8") == rules.generated()[path]


def test_every_alert_names_its_fault_its_signal_and_its_page() -> None:
    """Intake, policies and people rely on these labels."""
    known = {*catalogue.load(), "up"}
    for rule in alerts_of(rules.DEFAULT.read_text(encoding="utf-8")):
        labels, notes = rule["labels"], rule["annotations"]
        assert findings.FaultClass(labels["dsctl_fault"])
        assert findings.Severity(labels["severity"])
        assert labels["dsctl_signal"] in known
        assert notes["runbook_url"] == f"docs/alerts/{rule['alert']}.md"
        board = "d/dsctl-fleet"
        assert notes["dashboard_url"] == (f"{board}?var-service={labels['service']}" if "service" in labels else board)
        assert notes["summary"]
        assert notes["observed"] == "{{ $value }}"


def test_every_alert_has_a_page_that_answers_four_questions() -> None:
    """Meaning, impact, what dsctl does, what to check; no page is about an alert that is gone."""
    names = {str(rule["alert"]) for rule in alerts_of(rules.DEFAULT.read_text(encoding="utf-8"))}
    assert {page.stem for page in PAGES.glob("*.md")} - {"index"} == names
    for name in names:
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {name}\n")
        for heading in ("## Meaning", "## Impact", "## What dsctl does", "## What to check"):
            assert heading in text, f"{name}: {heading}"


def test_thresholds_come_from_the_service() -> None:
    """Another limit in services.yaml is another limit in the rule, and its quotes stay inside."""
    one = services.Service(
        "odd", "dsctl", {"service": 'o"dd'}, thresholds=services.Thresholds(pending_requests=7, qps=(10,))
    )
    text = rules.written([one])
    found = {str(rule["alert"]): rule for rule in alerts_of(text)}
    assert "> 7" in str(found["RequestsPending"]["expr"])
    assert 'service="o\\"dd"' in str(found["RequestsPending"]["expr"])
    assert [rule["labels"]["stage"] for rule in alerts_of(text) if str(rule["alert"]) == "RequestRateHigh"] == ["1"]


# Alert, severity, how long, and what its expression must end with or hold: the defaults of the product.
DEFAULTS = (
    ("LatencyHigh", "warning", "2m", "> 0.5"),
    ("LatencyCritical", "critical", "2m", "> 1.5"),
    ("GpuBusy", "warning", "2m", "> 0.9"),
    ("GpuOverloaded", "critical", "5m", "> 0.9 and on () ("),
    ("GpuMemoryHigh", "warning", "5m", "> 0.9"),
    ("CpuHigh", "warning", "5m", "> 0.85"),
    ("GatewayLoadHigh", "warning", "1m", "> 0.8"),
    ("RequestsPending", "warning", "1m", "> 100"),
    ("RequestRateHigh", "info", "1m", "> 5000"),
    ("RequestRateHigh", "warning", "1m", "> 8000"),
    ("ServerErrorsHigh", "warning", "1m", "> 0.01 and"),
    ("SuccessRatioLow", "warning", "2m", "< 0.995 and"),
)


@pytest.mark.parametrize(("alert", "severity", "hold", "limit"), DEFAULTS)
def test_the_shipped_defaults_are_the_promised_ones(alert: str, severity: str, hold: str, limit: str) -> None:
    """A service that states no thresholds gets these; each is stated a second time here on purpose."""
    found = [rule for rule in of_chat() if str(rule["alert"]) == alert]
    [one] = [rule for rule in found if rule["labels"]["severity"] == severity]
    assert str(one["for"]) == hold
    assert limit in str(one["expr"])


def test_a_busy_gpu_is_critical_only_while_requests_wait_or_are_slow() -> None:
    """Both other signals stand in the rule: a well-batched GPU runs at 92 % and nobody minds."""
    [rule] = [one for one in of_chat() if str(one["alert"]) == "GpuOverloaded"]
    suffering = str(rule["expr"]).partition("and on ()")[2]
    assert "num_requests_waiting" in suffering
    assert " > 100 or " in suffering
    assert "histogram_quantile(0.99" in suffering
    assert "> 1.5" in suffering


@pytest.mark.parametrize("profile", profiles.names())
def test_no_rule_of_any_profile_takes_the_rate_of_a_gauge_or_hides_the_tail(profile: str) -> None:
    """A rate of GPU use means nothing, demand is summed before it is compared, and latency is a quantile of a histogram."""
    for rule in alerts_of(rules.written([replace(CHAT, profile=profile)])):
        expr, alert = str(rule["expr"]), str(rule["alert"])
        assert not re.search(r"(rate|increase)\(DCGM_FI_DEV_(GPU_UTIL|FB_|GPU_TEMP|POWER)", expr), alert
        if alert == "RequestRateHigh":
            assert re.match(r"\(sum by \(service\) \(rate\(", expr)
        if alert in {"LatencyHigh", "LatencyCritical", "PremiumSlow"}:
            of_buckets = "histogram_quantile(0.99, sum by (service, le) (rate(" in expr and "_bucket{" in expr
            # Where the engine gives quantiles alone: the highest of them, which the true one never exceeds.
            of_summary = re.search(r"max by \(service\) \(\w+_summary_us\{[^}]*quantile=\"0.99\"", expr)
            assert of_buckets or of_summary, alert


def test_a_high_rate_and_a_forecast_of_one_are_the_same_incident() -> None:
    """Both stages are about the whole service and of the fault `surge`: what a forecast says merges with them."""
    found = [one for one in of_chat() if str(one["alert"]) == "RequestRateHigh"]
    firing = [
        alerting.Alert(one["labels"]["stage"], alerting.AlertStatus.FIRING, one["labels"], one["annotations"], START)
        for one in found
    ]
    said, strays = reports.from_alerts(firing, {"chat"})
    assert strays == ()
    keys = {incidents.IncidentKey(one.service, one.kind, one.node) for one in said}
    assert keys == {incidents.IncidentKey("chat", findings.FaultClass.SURGE)}


def test_links_may_be_absolute() -> None:
    """Who publishes the pages and runs a Grafana writes their addresses into the rules."""
    links = generate.Links(docs="https://docs.example/alerts", board="https://grafana.example/d/dsctl-fleet")
    text = generate.rules([replace(CHAT, name="chat eu")], {"dsctl": promql.EngineQueries("node", {})}, links=links)
    notes = alerts_of(text)[0]["annotations"]
    assert notes["runbook_url"] == "https://docs.example/alerts/NodeMetricsMissing.md"
    assert notes["dashboard_url"] == "https://grafana.example/d/dsctl-fleet?var-service=chat%20eu"


def test_an_engine_gets_only_the_rules_it_has_signals_for() -> None:
    """Nothing told, nothing asked: only the node's own presence is left, and the control plane's."""
    bare = promql.EngineQueries("pod", {})
    found = alerts_of(generate.rules([CHAT], {"dsctl": bare}))
    assert [str(rule["alert"]) for rule in found] == [
        "NodeMetricsMissing",
        "ControlPlaneNotTicking",
        "ControlPlaneSilent",
        "AutomationBreakerOpen",
        "PolicyDemoted",
    ]
    assert found[0]["labels"]["node"] == "{{ $labels.pod }}"
    assert 'pod!=""' in str(found[0]["expr"])


def test_a_service_without_its_engine_is_refused() -> None:
    """The rule file is never written without a service."""
    with pytest.raises(errors.NotFoundError, match="chat"):
        generate.rules([CHAT], {})


def test_a_faster_pace_shortens_holds_and_ranges_but_not_the_watch_over_dsctl() -> None:
    """A tenth of the time; ranges never below four scrapes; 45 s stay 45 s."""
    speed = pace.Pace(time_ratio=0.1, scrape_seconds=2.0, evaluation_seconds=1.0)
    found = {str(rule["alert"]): rule for rule in alerts_of(rules.written([CHAT], speed))}
    assert str(found["LatencyHigh"]["for"]) == "12s"
    assert "[8s]" in str(found["LatencyHigh"]["expr"])
    assert "[6m]" in str(found["ErrorBudgetBurningFast"]["expr"])
    assert "offset 6m" in str(found["CacheHitRatioCollapsed"]["expr"])
    assert str(found["ControlPlaneSilent"]["for"]) == "45s"
    assert "> 45" in str(found["ControlPlaneNotTicking"]["expr"])


def test_the_alertmanager_file_carries_no_token_and_groups_like_incidents() -> None:
    """The token is read from a file; groups are service, fault and node."""
    text = alertmanager_config.config(credentials_file="/run/token", people_url="http://127.0.0.1:9/x")
    document = yaml.safe_load(text)
    hook = document["receivers"][0]["webhook_configs"][0]
    assert hook["http_config"]["authorization"] == {"type": "Bearer", "credentials_file": "/run/token"}
    assert document["route"]["group_by"] == ["service", "dsctl_fault", "node"]
    assert document["receivers"][1]["webhook_configs"][0]["url"] == "http://127.0.0.1:9/x"


def test_target_files_carry_service_and_node() -> None:
    """That is how numbers find their node; gateways carry no node."""
    node = prometheus_config.Target("h:1", service="chat", node="a", labels={"zone": "1", "node": "not me"})
    gateway = prometheus_config.Target("h:2", service="chat")
    assert json.loads(prometheus_config.target_file([node, gateway])) == [
        {"targets": ["h:1"], "labels": {"zone": "1", "service": "chat", "node": "a"}},
        {"targets": ["h:2"], "labels": {"service": "chat"}},
    ]


def test_the_list_of_alerts_is_complete_and_says_their_severity() -> None:
    """Each alert is one line of the index, with the severities and the fault of its rules."""
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    for rule in alerts_of(rules.DEFAULT.read_text(encoding="utf-8")):
        [line] = [one for one in index.splitlines() if f"]({rule['alert']}.md)" in one]
        assert rule["labels"]["severity"] in line
        assert f"`{rule['labels']['dsctl_fault']}`" in line
