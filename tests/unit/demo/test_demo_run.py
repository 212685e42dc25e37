"""What `dsctl demo up` refuses before it starts anything, and what it prints at its end."""

from dataclasses import replace
from io import StringIO

import pytest
import yaml
from rich.console import Console

from controlplane.demo import configuration, constants, monitoring, report, run
from controlplane.domain import errors, outcomes, policies
from controlplane.scenarios import judging, runner, stories
from controlplane.scenarios import samples as smp


def test_an_unknown_scenario_is_refused_before_anything_is_started():
    """No process, no folder, only the names there are."""
    with pytest.raises(errors.NotFoundError, match="no scenario S99"):
        run.up(("S99",), "auto", keep=False, scenarios_all=False)


def test_only_auto_and_observe_are_played():
    """Suggest and approve wait for people, whom a demo has not."""
    with pytest.raises(errors.InvalidInputError, match="mode auto or observe, not 'approve'"):
        run.up(("S4",), "approve", keep=False, scenarios_all=False)


def stretch(seen: smp.Measure) -> smp.Stretch:
    """All requests were of one level."""
    return smp.Stretch(seen, {"standard": seen})


def result(mode: policies.Mode, *, complaint: str = "") -> runner.ScenarioResult:
    """An S4 that was noticed at 5.8 s by an alert."""
    (story,) = stories.choose(("S4",), every=False)
    is_auto = mode is policies.Mode.AUTO
    return runner.ScenarioResult(
        story=story,
        mode=mode,
        clients=judging.Clients(
            verdict=outcomes.Verdict.RECOVERED if is_auto else outcomes.Verdict.NOT_RECOVERED,
            is_felt=True,
            recovered_seconds=7.1 if is_auto else None,
            before=stretch(smp.Measure(200, 0.05, 0.0, 0.0)),
            during=stretch(smp.Measure(120, 0.06, 0.4991, 0.25)),
            after=smp.measure_levels(()),
        ),
        met=(),
        opened_by="alert:CacheAnswersWrong",
        detected_seconds=5.8,
        acted_seconds=6.4 if is_auto else None,
        runs=(),
        complaints=(complaint,) if complaint else (),
    )


def printed(*results: runner.ScenarioResult) -> str:
    out = StringIO()
    report.show(Console(file=out, width=80), results)
    return out.getvalue()


def test_the_table_says_what_was_injected_noticed_done_and_felt_in_80_columns():
    """The one screen that a newcomer looks at; no word of it is cut."""
    text = printed(result(policies.Mode.AUTO))
    for word in ("S4", "poison_cache", "node-1", "CacheAnswersWrong", "5.8 s", "6.4 s", "7.1 s", "recovered"):
        assert word in text
    assert "50 ms, 0.0%, 0%" in text
    assert "60 ms, 49.9%, 25%" in text
    assert "no request" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_each_level_has_its_row_and_what_it_was_promised_another():
    """Overload is judged by who is served, so one figure for all would hide it."""
    (story,) = stories.choose(("S2",), every=False)
    premium, none = smp.Measure(80, 0.4, 0.0, 0.0), smp.Measure(9, None, None, 1.0)
    seen = smp.Stretch(premium, {"premium": premium, "batch": none})
    held = judging.HeldSeen(story.spec.held[0], smp.Measure(60, 0.9, 0.0, 0.01))
    base = result(policies.Mode.AUTO)
    clients = replace(base.clients, before=seen, during=seen, after=seen, held=(held,))
    rows = [line.split() for line in printed(replace(base, story=story, clients=clients)).splitlines()]
    assert ["900", "ms,", "0.0%,", "1%"] in rows
    assert any(row[:2] == ["S2", "batch"] and row.count("refused") == 3 for row in rows)


def test_what_did_not_happen_is_shown_as_such():
    """A dash is not a zero."""
    text = printed(result(policies.Mode.OBSERVE))
    assert "not_recovered" in text
    assert " - " in text


def test_complaints_stand_below_the_table():
    """Why it ends with a status other than 0."""
    assert "S4: expected by 20 s: flush-cache" in printed(
        result(policies.Mode.AUTO, complaint="expected by 20 s: flush-cache")
    )


def test_the_demo_keeps_the_shipped_rules_and_only_hurries(tmp_path):
    """The alert for wrong answers is the shipped one, over ten seconds instead of a minute."""
    files = configuration.Files.open(tmp_path, configuration.Size(2))
    configuration.write_services(files)
    monitoring.write_prometheus(files)
    groups = yaml.safe_load((tmp_path / "rules.yml").read_text(encoding="utf-8"))["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    assert f"[{constants.RATE_WINDOW_SECONDS}s]" in rules["CacheAnswersWrong"]["expr"]
    assert rules["CacheAnswersWrong"]["labels"]["dsctl_fault"] == "cache"


def test_alertmanager_posts_with_the_token_from_its_file(tmp_path):
    """No secret stands in a configuration."""
    files = configuration.Files.open(tmp_path, configuration.Size(2))
    token = files.write_secret("webhook-token", "very-secret")
    text = monitoring.write_alertmanager(files, token).read_text(encoding="utf-8")
    assert "very-secret" not in text
    assert str(token) in text
    assert f"{files.addresses.server}/api/v1/webhooks/alertmanager" in text
