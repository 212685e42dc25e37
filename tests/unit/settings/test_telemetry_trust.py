"""Metrics of the runbooks' records: what dashboards and alerts read, and that nothing stands for the unknown."""

import json

import pytest

from controlplane import settings, telemetry
from controlplane.domain import errors, policies, trust
from controlplane.engine import trust as engine
from tests.support.clock import START, FakeClock
from tests.support.trusts import deeds


def test_the_record_of_each_runbook_is_exported(clock: FakeClock) -> None:
    """Runs, share that recovered, median time to recover; and which policies were taken back."""
    told = telemetry.Telemetry(clock)
    told.records({"flush-cache": engine.count(deeds("rrrn")), "degrade": engine.count(deeds("--"))}, {"bad-node": True})
    text = told.exposition().decode()
    for line in (
        'dsctl_runbook_recorded_runs{runbook="flush-cache"} 4.0',
        'dsctl_runbook_success_ratio{runbook="flush-cache"} 0.75',
        'dsctl_runbook_recovery_seconds{runbook="flush-cache"} 60.0',
        'dsctl_runbook_recorded_runs{runbook="degrade"} 2.0',
        'dsctl_policy_demoted{policy="bad-node"} 1.0',
    ):
        assert line in text
    assert 'dsctl_runbook_success_ratio{runbook="degrade"}' not in text
    assert 'dsctl_runbook_recovery_seconds{runbook="degrade"}' not in text


def test_a_demotion_is_a_warning_in_the_log(clock: FakeClock, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody should look."""
    telemetry.configure_logging("info", "json")
    mode = policies.Mode
    entry = trust.Entry("bad-node", trust.Kind.DEMOTED, START, "dsctl", "it was bad", mode.AUTO, mode.APPROVE)
    telemetry.Telemetry(clock).demoted(entry)
    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (line["level"], line["event"], line["policy"]) == ("warning", "policy_demoted", "bad-node")
    assert line["sentence"] == entry.sentence


def test_the_two_marks_of_trust_may_not_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record would be good and bad at once; and the defaults are those of the engine."""
    assert trust.Thresholds(**settings.load().trust.model_dump()) == trust.Thresholds()
    monkeypatch.setenv("DSCTL_TRUST__DEMOTE_BELOW", "0.9")
    with pytest.raises(errors.InvalidInputError, match=r"demote_below 0.9 must be below promote_above 0.9"):
        settings.load()
