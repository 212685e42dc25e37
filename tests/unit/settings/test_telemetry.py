"""The control plane's own log and metrics."""

import json
import logging
from collections.abc import Generator
from datetime import timedelta

import pytest
import structlog
from prometheus_client import parser

from controlplane import telemetry
from controlplane.domain import ids, outcomes, runs, ticks
from tests.support import api
from tests.support.clock import FakeClock


@pytest.fixture(autouse=True)
def logging_as_before() -> Generator[None]:
    """Logging is the process's, so each test gives it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def samples(told: telemetry.Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = parser.text_string_to_metric_families(told.exposition().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def decision(outcome: str, answers: tuple[outcomes.GateAnswer, ...]) -> outcomes.Decision:
    return outcomes.Decision("dec_1", api.START, "chat", "chat/n1", "flush-cache", outcome, "why", answers=answers)


def test_ticks_are_counted_by_result(clock: FakeClock) -> None:
    """Both results exist from the start, so that a rate over the failed ones is zero and not missing."""
    told = telemetry.Telemetry(clock)
    told.tick(ticks.TickReport(clock.now(), 0.2, ()))
    told.tick(ticks.TickReport(clock.now(), 0.3, (), ("observe: no answer",)))
    seen = samples(told)
    assert seen["dsctl_ticks_total", (("result", "good"),)] == 1
    assert seen["dsctl_ticks_total", (("result", "failed"),)] == 1
    assert seen["dsctl_tick_duration_seconds_sum", ()] == pytest.approx(0.5)


def test_age_of_the_last_good_tick_is_read_at_the_scrape(clock: FakeClock) -> None:
    """The gauge grows while nothing is reported; before the first tick it is the age of the process."""
    told = telemetry.Telemetry(clock)
    clock.move(7)
    assert samples(told)["dsctl_seconds_since_good_tick", ()] == 7
    told.watch_ticks(lambda: clock.monotonic() - 1000.0)
    clock.move(43)
    assert samples(told)["dsctl_seconds_since_good_tick", ()] == 50


def test_refusals_are_counted_by_the_gate_that_refused(clock: FakeClock) -> None:
    """Passed gates before it do not count, and neither does what was allowed."""
    told = telemetry.Telemetry(clock)
    told.decision(decision("denied", api.DENIED.answers))
    told.decision(decision("allowed", api.ALLOWED.answers))
    told.decision(decision("held", ()))
    seen = samples(told)
    assert seen["dsctl_guard_refusals_total", (("gate", "cooldown"),)] == 1
    assert seen["dsctl_guard_refusals_total", (("gate", "kill_switch"),)] == 0
    assert seen["dsctl_decisions_total", (("outcome", "held"),)] == 1


def test_runs_and_incidents(clock: FakeClock) -> None:
    """A run counts with runbook, verdict and state; incidents are a level that goes down again."""
    told = telemetry.Telemetry(clock)
    fakes = api.Fakes(clock)
    plan = fakes.remediator.plan(api.plans.PlanRequest("flush-cache", "chat", "n1", "me"))
    run = runs.Run("run_1", plan, outcomes.RunState.SUCCEEDED, 1, clock.now(), verdict=outcomes.Verdict.RECOVERED)
    told.run_ended(run)
    told.unclosed_incidents([api.incident(1), api.incident(2)])
    key = (("fault", "cache"), ("state", "open"))
    assert samples(told)["dsctl_incidents", key] == 2
    told.unclosed_incidents([])
    seen = samples(told)
    assert ("dsctl_incidents", key) not in seen
    labels = (("runbook", "flush-cache"), ("state", "succeeded"), ("verdict", "recovered"))
    assert seen["dsctl_runs_total", labels] == 1


def test_alerts_are_counted_with_what_became_of_them(clock: FakeClock) -> None:
    """Stored and repeated notifications count their alerts; refused ones count once."""
    told = telemetry.Telemetry(clock)
    one = api.parse_notification(b'{"key": "a"}', source="alertmanager")
    told.notification(one, is_new=True)
    told.notification(one, is_new=False)
    told.notification_refused("grafana", "malformed")
    seen = samples(told)
    assert seen["dsctl_alerts_received_total", (("result", "stored"), ("source", "alertmanager"))] == 1
    assert seen["dsctl_alerts_received_total", (("result", "duplicate"), ("source", "alertmanager"))] == 1
    assert seen["dsctl_alerts_received_total", (("result", "malformed"), ("source", "grafana"))] == 1


def test_json_log_has_one_object_per_line(clock: FakeClock, capsys: pytest.CaptureFixture[str]) -> None:
    """Our events and those of libraries come out in one form, with stable names and UTC times."""
    telemetry.configure_logging("info", "json")
    told = telemetry.Telemetry(clock)
    told.decision(decision("denied", api.DENIED.answers))
    logging.getLogger("some.library").warning("watch %s", "out")
    told.unexpected(ValueError("bad"), where="tick")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["decision", "watch out", "unexpected_error"]
    assert (lines[0]["outcome"], lines[0]["target"], lines[0]["level"]) == ("denied", "chat/n1", "info")
    assert "ValueError: bad" in lines[2]["exception"]
    assert all(line["timestamp"].endswith("Z") for line in lines)


def test_sentence_of_an_incident_is_logged_when_it_changes(
    clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loop that says the same every 15 s writes it once; a failed tick says so each time."""
    telemetry.configure_logging("info", "console")
    told = telemetry.Telemetry(clock)
    for sentence in ("held: cooldown", "held: cooldown", "acting"):
        line = ticks.IncidentLine("inc_1", "chat/n1:cache", sentence)
        told.tick(ticks.TickReport(clock.now(), 0.1, (line,), ("observe: no answer",)))
    err = capsys.readouterr().err
    assert (err.count("held: cooldown"), err.count("acting"), err.count("tick_problem")) == (1, 1, 3)


def test_lines_without_an_incident_are_logged_once_each(clock: FakeClock, capsys: pytest.CaptureFixture[str]) -> None:
    """Alerts of services nobody manages have no id; saying them again every tick would fill the disk."""
    telemetry.configure_logging("info", "json")
    told = telemetry.Telemetry(clock)
    lines = tuple(ticks.IncidentLine("", "alert:Strange", f"held: service {name}") for name in ("a", "b", "c"))
    for _ in range(5):
        told.tick(ticks.TickReport(clock.now(), 0.1, lines))
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_run_that_needs_a_person_is_an_error_in_the_log(clock: FakeClock, capsys: pytest.CaptureFixture[str]) -> None:
    """Error means that someone should look."""
    telemetry.configure_logging("error", "json")
    fakes = api.Fakes(clock)
    plan = fakes.remediator.plan(api.plans.PlanRequest("flush-cache", "chat", "n1", "me"))
    run_id = ids.new_id(ids.IdKind.RUN, clock.now() + timedelta(seconds=1))
    telemetry.Telemetry(clock).run_ended(runs.Run(run_id, plan, outcomes.RunState.NEEDS_HUMAN, 1, clock.now()))
    telemetry.Telemetry(clock).run_ended(runs.Run(run_id, plan, outcomes.RunState.SUCCEEDED, 1, clock.now()))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["run"]) for line in lines] == [("run_ended", run_id)]
