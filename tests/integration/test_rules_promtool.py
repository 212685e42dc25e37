"""Every shipped alert, judged by promtool: a case in which it fires, and cases in which it must keep quiet."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from alerts import alertmanager_config, prometheus_config
from alerts.rules import pace
from controlplane.observe import profiles, service_file
from tests.support import prometheus as real
from tests.support import rules

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

STEP_SECONDS = 15


@dataclass(frozen=True)
class Case:
    """Series in promtool's notation, sampled every 15 s; the alert must (not) fire at `at`, with these labels.

    `also` are the labels of a second alert of the name that fires beside it.
    """

    alert: str
    claim: str
    at: str
    series: Mapping[str, str]
    fires: bool = False
    labels: str = ""
    also: str = ""


def latency(**buckets: str) -> Mapping[str, str]:
    name = 'dsctl_gateway_request_duration_seconds_bucket{service="chat",node="a",level="s",le="%s"}'
    return {name % bound.removeprefix("le_").replace("_", "."): text for bound, text in buckets.items()} | {
        name % "+Inf": "0+100x400"
    }


def arriving(rate: float) -> Mapping[str, str]:
    """So many requests per second at each of two gateways with two levels each."""
    name = 'dsctl_gateway_arrivals_total{service="chat",level="%s",instance="%s"}'
    return {name % (level, at): f"0+{rate * STEP_SECONDS:g}x40" for level in ("premium", "batch") for at in "ab"}


def answers(**codes: str) -> Mapping[str, str]:
    name = 'dsctl_gateway_responses_total{service="chat",node="a",level="s",code="%s"}'
    return {name % code.removeprefix("c"): text for code, text in codes.items()}


def waiting(a: str, b: str) -> Mapping[str, str]:
    name = 'vllm:num_requests_waiting{service="chat",node="%s",model_name="m"}'
    return {name % "a": a, name % "b": b}


def gpu(field: str, text: str) -> Mapping[str, str]:
    return {f'DCGM_FI_DEV_{field}{{service="chat",node="a",gpu="0"}}': text}


def cached(name: str, **results: str) -> Mapping[str, str]:
    return {
        f'dsctl_node_cache_{name}_total{{service="chat",node="a",tier="l1",result="{result}"}}': text
        for result, text in results.items()
    }


def premium(series: Mapping[str, str]) -> Mapping[str, str]:
    """The same series at the premium level, with the gateway's count of its arrivals."""
    arrivals = {'dsctl_gateway_arrivals_total{service="chat",level="premium"}': "0+100x400"}
    return {name.replace('level="s"', 'level="premium"'): text for name, text in series.items()} | arrivals


SLOW = latency(le_0_5="0+0x400", le_1_0="0+100x400", le_2_5="0+100x400")
SLOWER = latency(le_0_5="0+0x400", le_1_0="0+0x400", le_2_5="0+100x400")
FAST = latency(le_0_5="0+100x400", le_1_0="0+100x400", le_2_5="0+100x400")
TAIL = latency(le_0_05="0+98x400", le_0_5="0+98x400", le_1_0="0+98x400", le_2_5="0+100x400")
# Twenty fast steps, three slow ones (45 s), then fast again.
SPIKE = latency(le_0_5="0+100x20 2000+0x2 2100+100x300", le_1_0="0+100x400", le_2_5="0+100x400")
NODE = 'service="chat",node="a"'
UP = 'up{service="chat",node="a",job="nodes",instance="h:1"}'
TICK = "dsctl_seconds_since_good_tick"
BREAKER = 'dsctl_automation_breaker_open{{service="{}"}}'
DEMOTED = 'dsctl_policy_demoted{policy="bad-node"}'

CASES = (
    Case("LatencyHigh", "P99 near 1 s", "5m", SLOW, fires=True, labels='service="chat",severity="warning"'),
    Case("LatencyHigh", "two in a hundred take seconds, and the mean says 70 ms", "5m", TAIL, fires=True,
         labels='service="chat",severity="warning"'),
    Case("LatencyHigh", "P99 below 500 ms", "5m", FAST),
    Case("LatencyHigh", "45 s of slow answers", "8m", SPIKE),
    Case("LatencyCritical", "P99 near 2.5 s", "5m", SLOWER, fires=True, labels='service="chat",severity="critical"'),
    Case("LatencyCritical", "P99 near 1 s is only a warning", "5m", SLOW),
    Case("GpuBusy", "95 %", "4m", gpu("GPU_UTIL", "95+0x40"), fires=True, labels=f'{NODE},severity="warning"'),
    Case("GpuBusy", "exactly 90 %", "8m", gpu("GPU_UTIL", "90+0x40")),
    Case("GpuBusy", "a minute at 100 %", "8m", gpu("GPU_UTIL", "50+0x20 100+0x3 50+0x20")),
    Case("GpuBusy", "a GPU that lacks the field", "8m", gpu("GPU_UTIL", "9223372036854775794+0x40")),
    Case(
        "GpuOverloaded", "95 % and 101 waiting", "8m", {**gpu("GPU_UTIL", "95+0x40"), **waiting("60+0x40", "41+0x40")},
        fires=True, labels=f'{NODE},severity="critical"',
    ),
    Case("GpuOverloaded", "99 % and slow answers", "8m", {**gpu("GPU_UTIL", "99+0x40"), **SLOWER}, fires=True,
         labels=f'{NODE},severity="critical"'),
    Case("GpuOverloaded", "99 % alone", "8m", {**gpu("GPU_UTIL", "99+0x40"), **waiting("50+0x40", "50+0x40"), **FAST}),
    Case(
        "GpuMemoryHigh", "91 of 100", "7m", {**gpu("FB_USED", "91+0x40"), **gpu("FB_FREE", "9+0x40")},
        fires=True, labels=f'{NODE},severity="warning"',
    ),
    Case("GpuMemoryHigh", "exactly 90 %", "9m", {**gpu("FB_USED", "90+0x40"), **gpu("FB_FREE", "10+0x40")}),
    Case(
        "GpuMemoryHigh", "the driver's reserve counts as room that is not there", "9m",
        {**gpu("FB_USED", "90+0x40"), **gpu("FB_FREE", "5+0x40"), **gpu("FB_RESERVED", "10+0x40")},
    ),
    Case("CpuHigh", "93 %", "8m", {f'node_cpu_seconds_total{{{NODE},cpu="0",mode="idle"}}': "0+1x60"}, fires=True,
         labels=f'{NODE},severity="warning"'),
    Case("CpuHigh", "80 %", "9m", {f'node_cpu_seconds_total{{{NODE},cpu="0",mode="idle"}}': "0+3x60"}),
    Case("GatewayLoadHigh", "81 %", "3m", {'dsctl_gateway_load_ratio{service="chat"}': "0.81+0x40"}, fires=True,
         labels='service="chat",severity="warning"'),
    Case("GatewayLoadHigh", "exactly 80 %", "5m", {'dsctl_gateway_load_ratio{service="chat"}': "0.8+0x40"}),
    Case("GatewayQueueLong", "101 over two levels", "3m",
         {'dsctl_gateway_waiting{service="chat",level="premium"}': "1+0x40",
          'dsctl_gateway_waiting{service="chat",level="batch"}': "100+0x40"},
         fires=True, labels='service="chat",severity="warning"'),
    Case("GatewayQueueLong", "exactly 100", "5m", {'dsctl_gateway_waiting{service="chat",level="batch"}': "100+0x40"}),
    Case("PremiumSlow", "P99 near 2.5 s", "3m", premium(SLOWER), fires=True,
         labels='service="chat",severity="critical"'),
    Case("PremiumSlow", "only the others are slow", "5m", {**SLOWER, **premium(FAST)}),
    Case("PremiumSlow", "no premium request at all", "5m", premium({})),
    Case("PremiumRejected", "2 % are refused", "3m", premium(answers(c200="0+98x400", c429="0+2x400")), fires=True,
         labels='service="chat",severity="critical"'),
    Case("PremiumRejected", "only the others are refused", "5m",
         {**answers(c429="0+100x400"), **premium(answers(c200="0+100x400"))}),
    Case("PremiumRejected", "no premium request at all", "5m", premium({})),
    Case("RequestsPending", "101 over two nodes", "3m", waiting("60+0x40", "41+0x40"), fires=True,
         labels='service="chat",severity="warning"'),
    Case("RequestsPending", "100 over two nodes", "5m", waiting("60+0x40", "40+0x40")),
    Case("RequestsPending", "45 s of a long queue", "8m", waiting("0+0x20 500+0x2 0+0x20", "0+0x40")),
    Case("RequestRateHigh", "5,010 in the sum of series that are far below it", "4m", arriving(1252.5), fires=True,
         labels='service="chat",severity="info",stage="1"'),
    Case("RequestRateHigh", "4,990 in sum", "6m", arriving(1247.5)),
    Case("RequestRateHigh", "7,990 is the first stage only", "4m", arriving(1997.5), fires=True,
         labels='service="chat",severity="info",stage="1"'),
    Case("RequestRateHigh", "8,010 is both stages", "4m", arriving(2002.5), fires=True,
         labels='service="chat",severity="info",stage="1"', also='service="chat",severity="warning",stage="2"'),
    Case("ServerErrorsHigh", "2 %", "4m", answers(c200="0+98x40", c500="0+2x40"), fires=True,
         labels='service="chat",severity="warning"'),
    Case("ServerErrorsHigh", "0.9 %", "6m", answers(c200="0+991x40", c500="0+9x40")),
    Case("ServerErrorsHigh", "one failure in an idle minute", "6m", answers(c200="0+1x40", c500="0+0x16 1+0x30")),
    Case("ServerErrorsHigh", "shedding with 429", "6m", answers(c200="0+100x40", c429="0+900x40")),
    Case("SuccessRatioLow", "99 %", "5m", answers(c200="0+990x40", c500="0+10x40"), fires=True,
         labels='service="chat",severity="warning"'),
    Case("SuccessRatioLow", "99.6 %", "8m", answers(c200="0+996x40", c500="0+4x40")),
    Case("SuccessRatioLow", "one failure in an idle minute", "6m", answers(c200="0+1x40", c500="0+0x16 1+0x30")),
    Case("ErrorBudgetBurningFast", "10 % for an hour", "65m", answers(c200="0+90x280", c500="0+10x280"), fires=True,
         labels='service="chat",severity="critical"'),
    Case("ErrorBudgetBurningFast", "10 % for ten minutes", "65m",
         answers(c200="0+90x280", c500="0+0x220 10+10x60")),
    Case("ErrorBudgetBurningFast", "over for ten minutes", "75m",
         answers(c200="0+90x400", c500="0+10x260 2600+0x140")),
    Case("ErrorBudgetBurningSlow", "4 % for six hours", "370m", answers(c200="0+96x1500", c500="0+4x1500"), fires=True,
         labels='service="chat",severity="warning"'),
    Case("ErrorBudgetBurningSlow", "4 % for half an hour", "370m",
         answers(c200="0+96x1500", c500="0+0x1360 4+4x140")),
    Case("CacheAnswersWrong", "one audit in eleven", "3m", cached("audits", match="0+10x40", mismatch="0+1x40"),
         fires=True, labels=f'{NODE},severity="critical"'),
    Case("CacheAnswersWrong", "no mismatch", "6m", cached("audits", match="0+10x40", mismatch="0+0x40")),
    Case("CacheAnswersWrong", "a single mismatch", "4m",
         cached("audits", match="0+10x40", mismatch="0+0x14 1+0x30")),
    Case("CacheHitRatioCollapsed", "80 % to 10 %", "70m",
         cached("requests", hit="0+80x256 20490+10x40", miss="0+20x256 5210+90x40"), fires=True,
         labels=f'{NODE},severity="warning"'),
    Case("CacheHitRatioCollapsed", "80 % to 50 %", "70m",
         cached("requests", hit="0+80x256 20530+50x40", miss="0+20x256 5170+50x40")),
    Case("CacheHitRatioCollapsed", "an idle night", "70m",
         cached("requests", hit="0+80x256 20480+0x40", miss="0+20x256 5121+0.1x40")),
    Case("NodeMetricsMissing", "down", "3m", {UP: "1+0x4 0+0x20"}, fires=True, labels=f'{NODE},severity="warning"'),
    Case("NodeMetricsMissing", "down for 45 s", "5m", {UP: "1+0x8 0+0x2 1+0x20"}),
    Case("NodeMetricsMissing", "a gateway is no node", "5m", {'up{service="chat",job="gateway"}': "0+0x20"}),
    Case("ControlPlaneNotTicking", "46 s", "1m", {TICK: "46+0x20"}, fires=True, labels='severity="critical"'),
    Case("ControlPlaneNotTicking", "45 s", "5m", {TICK: "45+0x20"}),
    Case("ControlPlaneSilent", "nothing is exported", "2m", {"other": "1+0x20"}, fires=True,
         labels='severity="critical"'),
    Case("ControlPlaneSilent", "it never ticked", "2m", {TICK: "NaN+0x20"}, fires=True, labels='severity="critical"'),
    Case("ControlPlaneSilent", "it ticks", "2m", {TICK: "3+0x20"}),
    Case("AutomationBreakerOpen", "one of two services", "1m",
         {BREAKER.format("chat"): "1+0x20", BREAKER.format("embed"): "0+0x20"}, fires=True, labels='severity="warning"'),
    Case("AutomationBreakerOpen", "closed", "2m", {BREAKER.format("chat"): "0+0x20"}),
    Case("PolicyDemoted", "taken back", "1m", {DEMOTED: "1+0x20"}, fires=True,
         labels='severity="warning"'),
    Case("PolicyDemoted", "trusted", "2m", {DEMOTED: "0+0x20"}),
)  # fmt: skip


@pytest.mark.parametrize("alert", sorted({case.alert for case in CASES}))
def test_an_alert_fires_when_it_should_and_only_then(alert: str, tmp_path: Path) -> None:
    """promtool plays the series of each case and looks whether the alert fires; a failure prints the claim."""
    cases = [_promtool_case(case) for case in CASES if case.alert == alert]
    _play(tmp_path, alert, cases)


def _promtool_case(case: Case) -> dict[str, object]:
    who = f'alertname="{case.alert}",alertstate="firing"'
    # A sum, so that one trouble told by several series is no 1: each of them would be an alert of its own.
    query = f"sum by (alertname, alertstate, service, node, severity, stage) (ALERTS{{{who}}}) # {case.claim}"
    labels = [one for one in (case.labels, case.also) if one]
    expected = [{"labels": f"{{{who},{one}}}", "value": 1} for one in labels] if case.fires else []
    return {
        "interval": f"{STEP_SECONDS}s",
        "input_series": [{"series": name, "values": text} for name, text in case.series.items()],
        "promql_expr_test": [{"expr": query, "eval_time": case.at, "exp_samples": expected}],
    }


def _play(folder: Path, alert: str, tests: Sequence[Mapping[str, object]]) -> None:
    """Run promtool over the shipped rules of one alert: all of them over six hours would take a minute."""
    shipped = yaml.safe_load(rules.DEFAULT.read_text(encoding="utf-8"))
    for group in shipped["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule["alert"] == alert]
    (folder / "rules.yml").write_text(yaml.safe_dump(shipped), encoding="utf-8")
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": list(tests)}
    (folder / "case.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    real.run_tool("promtool", "test", "rules", folder / "case.yml")


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    """No alert is shipped unproven, and no case is about an alert that is gone."""
    shipped = {
        r["alert"] for g in yaml.safe_load(rules.DEFAULT.read_text(encoding="utf-8"))["groups"] for r in g["rules"]
    }
    assert {case.alert for case in CASES if case.fires} == shipped
    assert {case.alert for case in CASES if not case.fires} == shipped


def test_an_alert_says_what_people_need(tmp_path: Path) -> None:
    """Labels and annotations of the wrong-answers alert, rendered by Prometheus itself."""
    labels = {
        "service": "chat",
        "node": "a",
        "severity": "critical",
        "dsctl_fault": "cache",
        "dsctl_signal": "cache_wrong_ratio",
    }
    annotations = {
        "summary": "chat/a: 25% of the audited cache hits are wrong",
        "description": "Cached answers differ from what the engine computes now: the cache is poisoned or stale.",
        "observed": "0.25",
        "threshold": "0.01",
        "runbook_url": "docs/alerts/CacheAnswersWrong.md",
        "dashboard_url": "d/dsctl-fleet?var-service=chat",
    }
    series = cached("audits", match="0+3x40", mismatch="0+1x40")
    expected = {
        "alertname": "CacheAnswersWrong",
        "eval_time": "3m",
        "exp_alerts": [{"exp_labels": labels, "exp_annotations": annotations}],
    }
    case = {
        "interval": f"{STEP_SECONDS}s",
        "input_series": [{"series": name, "values": text} for name, text in series.items()],
        "alert_rule_test": [expected],
    }
    _play(tmp_path, "CacheAnswersWrong", [case])


@pytest.mark.parametrize("time_ratio", [1.0, 0.1, 0.02])
def test_the_rules_are_valid_at_every_pace(time_ratio: float, tmp_path: Path) -> None:
    """promtool accepts the rules of both engines, in production and in a demo."""
    managed = service_file.load(rules.EXAMPLE, profiles=profiles.names())
    file = tmp_path / "rules.yml"
    speed = pace.Pace(time_ratio=time_ratio, scrape_seconds=1.0, evaluation_seconds=1.0)
    file.write_text(rules.written(managed, speed), encoding="utf-8")
    assert re.search(r"\d+ rules found", real.run_tool("promtool", "check", "rules", file))


def test_the_shipped_configurations_are_valid(tmp_path: Path) -> None:
    """promtool and amtool accept both files, alone and with every parameter given."""
    people = alertmanager_config.config(people_url="http://127.0.0.1:9/people", credentials_file="/tmp/token")  # noqa: S108  # never opened
    for text in (alertmanager_config.config(), people):
        file = tmp_path / "alertmanager.yml"
        file.write_text(text, encoding="utf-8")
        real.run_tool("amtool", "check-config", file)
    token = tmp_path / "token"
    token.write_text("secret", encoding="utf-8")
    for text in (prometheus_config.config(), prometheus_config.config(control_plane_token_file=str(token))):
        file = tmp_path / "prometheus.yml"
        file.write_text(text, encoding="utf-8")
        real.run_tool("promtool", "check", "config", file)


def test_alerts_reach_those_who_can_act_on_them(tmp_path: Path) -> None:
    """Trouble of services goes to dsctl; what dsctl says itself, and alarms about it, go to people."""
    file = tmp_path / "alertmanager.yml"
    file.write_text(alertmanager_config.config(), encoding="utf-8")
    routed = {
        labels: real.run_tool("amtool", "config", "routes", "test", f"--config.file={file}", labels).splitlines()[0]
        for labels in ("alertname=CacheAnswersWrong", "alertname=ControlPlaneSilent", "dsctl_origin=escalation")
    }
    assert list(routed.values()) == ["dsctl", "people", "people"]
