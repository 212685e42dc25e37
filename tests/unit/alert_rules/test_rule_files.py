"""The generated files: equal to what is checked in, complete, and only what an engine can tell."""

import json
from pathlib import Path

import pytest
import yaml

from alerts import alertmanager_config, prometheus_config
from alerts.rules import generate, pace
from controlplane import promql
from controlplane.domain import errors, findings, services
from controlplane.observe import catalogue
from tests.support import rules

CHAT = services.Service("chat", "dsctl", {"service": "chat"})
PAGES = Path(__file__).parents[3] / "docs" / "alerts"


def alerts_of(text: str) -> list[dict[str, dict[str, str]]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


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


def test_an_engine_gets_only_the_rules_it_has_signals_for() -> None:
    """Nothing told, nothing asked: only the node's own presence is left, and the control plane's."""
    bare = promql.EngineQueries("pod", {})
    found = alerts_of(generate.rules([CHAT], {"dsctl": bare}))
    assert [str(rule["alert"]) for rule in found] == [
        "NodeMetricsMissing",
        "ControlPlaneNotTicking",
        "ControlPlaneSilent",
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
