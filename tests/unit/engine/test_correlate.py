"""Correlate: one incident per trouble, and an end only where silence is certain."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.domain import alerting, incidents, windows
from controlplane.domain import findings as fnd
from controlplane.domain import signals as sig
from controlplane.engine import correlate, reports
from tests.support import builders as b
from tests.support.clock import START

State = incidents.IncidentState


def ids() -> Callable[[datetime], str]:
    numbers = itertools.count(1)
    return lambda _: f"inc_{next(numbers)}"


def run(
    findings: Sequence[fnd.Finding] = (), unclosed: Sequence[incidents.Incident] = (), **level: Any
) -> correlate.Correlated:
    defaults: dict[str, Any] = {"now": START, "view": b.view()}
    seen = correlate.Level(findings=findings, **defaults | level)
    return correlate.correlate(seen, unclosed, quiet_seconds=60.0, new_id=ids())


def only(found: correlate.Correlated) -> tuple[incidents.Incident, str]:
    """The one incident, and the note of its change (empty when it is not to be saved)."""
    (incident,) = found.incidents
    notes = [change.note for change in found.changes]
    return incident, notes[0] if notes else ""


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_an_alert_and_a_finding_about_the_same_are_one_incident() -> None:
    """Merged under (service, fault class, node), led by the worst, opened by the first."""
    alert = b.finding(at=later(2))
    detector = b.finding(source="forest", severity=fnd.Severity.WARNING, summary="odd")
    incident, note = only(run([alert, detector]))
    assert incident.sources == ("alert:CacheWrongAnswers", "forest")
    assert (incident.severity, incident.finding) == (fnd.Severity.CRITICAL, alert)
    assert incident.opened_by == "forest"
    assert note == "opened by forest (critical): cache_wrong_ratio is 0.4"


def test_different_targets_and_faults_are_different_incidents() -> None:
    """The key tells them apart; the order is stable."""
    found = run([b.finding(node="node-b"), b.finding(), b.finding(kind=fnd.FaultClass.LATENCY)])
    assert [str(one.key) for one in found.incidents] == [
        "chat/node-a:cache",
        "chat/node-a:latency",
        "chat/node-b:cache",
    ]


def test_severity_goes_up_and_stays_up() -> None:
    """An incident remembers how bad it was; its finding is what is reported now."""
    mild = b.finding(severity=fnd.Severity.WARNING)
    opened = b.incident(finding=mild)
    worse, note = only(run([b.finding()], [opened]))
    assert (worse.severity, note) == (fnd.Severity.CRITICAL, "now critical: cache_wrong_ratio is 0.4")
    better, note = only(run([mild], [worse]))
    assert (better.severity, better.finding.severity, note) == (fnd.Severity.CRITICAL, fnd.Severity.WARNING, "")


def test_a_new_source_joins_and_numbers_alone_are_no_news() -> None:
    """The timeline grows with news, not with every tick; the numbers are fresh all the same."""
    joined, note = only(run([b.finding(), b.finding(source="forest")], [b.incident()]))
    assert joined.sources == ("alert:CacheWrongAnswers", "forest")
    assert note == "also reported by forest"
    same, note = only(run([b.finding(observed=0.7)], [b.incident()]))
    assert (same.finding.observed, note) == (0.7, "")


def test_quiet_is_noted_then_ends_the_incident_by_itself() -> None:
    """Silence has to last before an incident closes, without a verdict since nothing was done."""
    quiet, note = only(run((), [b.incident()]))
    assert (quiet.quiet_since, note) == (START, "quiet: no longer reported by alert:CacheWrongAnswers")
    waiting = run((), [quiet], now=later(59), view=b.view(at=later(59)))
    assert waiting.changes == ()
    assert waiting.held == {"inc_1": "quiet for 59 s; ends by itself in 1 s"}
    closed, note = only(run((), [quiet], now=later(60)))
    assert (closed.state, closed.verdict, closed.closed_at) == (State.CLOSED, None, later(60))
    assert note == closed.sentence == "closed: ended by itself, quiet for 1 min"


def test_trouble_that_returns_continues_the_same_incident() -> None:
    """The quiet time starts over."""
    quiet = b.incident(quiet_since=START)
    found = run([b.finding()], [quiet], now=later(30))
    incident, note = only(found)
    assert (incident.quiet_since, note) == (None, "reported again by alert:CacheWrongAnswers")
    assert found.reported == {"inc_1"}
    assert found.held == {}


def test_an_escalated_incident_ends_when_the_trouble_does() -> None:
    """The verdict of its run stays on it."""
    handed = b.incident(state=State.ESCALATED, run_id="run_1", verdict="not_recovered", quiet_since=START)
    closed, note = only(run((), [handed], now=later(61)))
    assert (closed.state, closed.verdict) == (State.CLOSED, "not_recovered")
    assert note == "closed: ended, quiet for 1 min 1 s"


@pytest.mark.parametrize("state", [State.ACTING, State.VERIFYING])
def test_silence_does_not_close_what_a_run_works_on(state: incidents.IncidentState) -> None:
    """While a run acts or verifies, its end decides."""
    busy = b.incident(state=state, run_id="run_1", quiet_since=START)
    incident, note = only(run((), [busy], now=later(999)))
    assert (incident.state, note) == (state, "")


def test_a_clock_that_stepped_back_only_delays_the_end() -> None:
    """A quiet time in the future does not count as long ago."""
    ahead = b.incident(quiet_since=later(3600))
    assert run((), [ahead]).held == {"inc_1": "quiet for 0 s; ends by itself in 1 min"}


@pytest.mark.parametrize(
    ("level", "reason"),
    [
        ({"view": None}, "the fleet could not be read"),
        ({"view": b.view(b.node("node-b", up=False))}, "chat/node-a is not in the fleet view"),
        ({"view": b.view(b.node(up=b.unknown()))}, "whether node-a is up is unknown: last scrape is too old"),
        ({"view": b.view(b.node(up=False))}, "node-a is down"),
        ({"view": b.view(b.node(cache_wrong_ratio=b.unknown()))}, "cache_wrong_ratio is unknown: last scrape"),
        (
            {"mute": {correlate.Voice("chat", "alert:CacheWrongAnswers"): "too few samples"}},
            "alert:CacheWrongAnswers cannot speak: too few samples",
        ),
    ],
)
def test_unknown_data_never_closes_an_incident(level: dict[str, Any], reason: str) -> None:
    """However long it is silent: the quiet time starts again when the data is back."""
    silent = b.incident(quiet_since=START)
    found = run((), [silent], now=later(9999), **level)
    incident, note = only(found)
    assert (incident.state, incident.quiet_since) == (State.OPEN, None)
    assert note.startswith(f"held: {reason}")
    assert found.held["inc_1"].startswith(f"held: no source reports it, but {reason}")
    assert found.held["inc_1"].endswith("unknown data never closes an incident")
    again = run((), found.incidents, now=later(9999), **level)
    assert again.changes == ()


@pytest.mark.parametrize(
    ("view", "gone"),
    [
        (b.view(b.node("node-b")), "chat/node-a is not in the fleet any more"),
        (b.view(service="other"), "service chat is not managed any more"),
    ],
)
@pytest.mark.parametrize("state", [State.OPEN, State.ESCALATED])
def test_the_incident_of_a_target_that_was_taken_away_ends(
    view: windows.FleetView, gone: str, state: incidents.IncidentState
) -> None:
    """A node that was scaled in never resolves; it may also have crashed, so that an hour has to pass."""
    missing, note = only(run((), [b.incident(state=state, quiet_since=START)], view=view))
    assert (missing.state, missing.gone_since, note) == (state, START, f"held: {gone}; ends when that has lasted 1 h")
    assert run((), [missing], now=later(3599), view=view).changes == ()
    closed, note = only(run((), [missing], now=later(3600), view=view))
    assert (closed.state, note) == (State.CLOSED, f"closed: {gone}, for 1 h")


def test_a_node_that_comes_back_is_judged_by_its_signals_again() -> None:
    """The hour starts anew when it is gone once more, and so does the quiet time."""
    away = b.view(b.node("node-b"))
    missing, _ = only(run((), [b.incident()], view=away))
    back, note = only(run((), [missing], now=later(3000)))
    assert (back.gone_since, back.quiet_since, note) == (None, None, "held: chat/node-a is back")
    again, _ = only(run((), [back], now=later(3001), view=away))
    assert again.gone_since == later(3001)
    reported, note = only(run([b.finding()], [missing], now=later(3000)))
    assert (reported.gone_since, note) == (None, "reported again by alert:CacheWrongAnswers")


def test_what_a_run_works_on_counts_as_quiet_when_its_target_was_taken_away() -> None:
    """The end of the run decides, and it waits for quiet."""
    busy = b.incident(state=State.VERIFYING, run_id="run_1", gone_since=START)
    away = b.view(b.node("node-b"))
    quiet, note = only(run((), [busy], now=later(3600), view=away))
    assert (quiet.state, quiet.quiet_since) == (State.VERIFYING, later(3600))
    assert note == "quiet: chat/node-a is not in the fleet any more, for 1 h"
    assert run((), [quiet], now=later(3700), view=away).changes == ()


def test_a_service_wide_incident_needs_the_service_to_be_known() -> None:
    """Its signal has to be known; where the profile does not map it, some node has to be up."""
    wide = b.incident(finding=b.finding(node="", signal="success_ratio"), quiet_since=START)
    unknown = b.view(signals={"success_ratio": b.unknown()})
    assert "success_ratio is unknown" in run((), [wide], now=later(99), view=unknown).held["inc_1"]
    unmapped = {"success_ratio": b.unknown(sig.UnknownReason.NOT_IN_PROFILE)}
    nobody = b.view(b.node(up=False), signals=unmapped)
    assert "no node of chat is known to be up" in run((), [wide], now=later(99), view=nobody).held["inc_1"]
    closed, _ = only(run((), [wide], now=later(99), view=b.view(signals=unmapped)))
    assert closed.state is State.CLOSED


def test_a_mute_detector_holds_only_what_it_reported() -> None:
    """One broken detector must not keep every incident open."""
    closed, _ = only(
        run((), [b.incident(quiet_since=START)], now=later(99), mute={correlate.Voice("chat", "forest"): "failed"})
    )
    assert closed.state is State.CLOSED


@pytest.mark.parametrize(
    ("signal", "overload", "is_explained"),
    [
        ("queue_age", {}, True),
        ("latency_p99", {"state": State.VERIFYING}, True),
        ("failed_ratio", {}, False),
        ("engine_steps_rate", {}, False),
        ("queue_age", {"quiet_since": START}, False),
        ("queue_age", {"state": State.CLOSED}, False),
    ],
)
def test_overload_explains_a_waiting_node_and_no_failing_one(
    signal: str, overload: dict[str, Any], is_explained: bool
) -> None:
    """Restarting a busy node would take capacity away; one that fails or hangs is repaired whatever the load."""
    node = b.incident(finding=b.finding(kind=fnd.FaultClass.BAD_NODE, signal=signal))
    service = b.incident("inc_2", **overload, finding=b.finding(kind=fnd.FaultClass.OVERLOAD, node=""))
    cause = correlate.cause_of(node, [node, service])
    assert (cause is service) is is_explained


def test_what_cannot_be_said_of_one_node_or_signal_holds_no_other() -> None:
    """A node that was scaled in has no samples any more, and its detector has nothing against its neighbours' recovery."""
    quiet = b.incident(quiet_since=START)
    source = quiet.sources[0]
    elsewhere = {correlate.Voice("chat", source, "node-b"): "too few samples"}
    closed, _ = only(run((), [quiet], now=later(99), mute=elsewhere))
    assert closed.state is State.CLOSED
    other = {correlate.Voice("chat", source, signal="latency_p99"): "signal is unknown"}
    closed, _ = only(run((), [quiet], now=later(99), mute=other))
    assert closed.state is State.CLOSED
    here = {correlate.Voice("chat", source, "node-a", quiet.finding.signal): "too few samples"}
    assert "cannot speak: too few samples" in run((), [quiet], now=later(99), mute=here).held["inc_1"]


def wide(kind: fnd.FaultClass, id: str = "inc_2") -> incidents.Incident:  # noqa: A002 - the field's name
    return b.incident(id, finding=b.finding(kind=kind, node="", signal="success_ratio", source="alert:Success"))


@pytest.mark.parametrize("kind", [fnd.FaultClass.ERRORS, fnd.FaultClass.LATENCY, fnd.FaultClass.CACHE])
def test_trouble_of_a_node_explains_symptoms_of_its_service(kind: fnd.FaultClass) -> None:
    """Errors and latency are symptoms; so is the same fault seen over the whole service."""
    cause = b.incident()
    assert correlate.cause_of(wide(kind), [cause, wide(kind)]) is cause


@pytest.mark.parametrize(
    "other",
    [
        b.incident(quiet_since=START),
        b.incident(state=State.ESCALATED),
        b.incident(finding=b.finding(service="search")),
        wide(fnd.FaultClass.CACHE, "inc_1"),
    ],
)
def test_what_is_quiet_handed_over_or_elsewhere_explains_nothing(other: incidents.Incident) -> None:
    """A symptom is not left alone for the sake of something nobody works on."""
    assert correlate.cause_of(wide(fnd.FaultClass.ERRORS), [other]) is None


def test_a_node_and_an_overload_are_causes_of_their_own() -> None:
    """Only service-wide symptoms defer."""
    assert correlate.cause_of(b.incident(), [b.incident("inc_3")]) is None
    assert correlate.cause_of(wide(fnd.FaultClass.OVERLOAD), [b.incident()]) is None


def test_the_worst_then_the_oldest_node_is_the_cause() -> None:
    """The answer does not depend on the order of the incidents."""
    mild = b.incident("inc_1", severity=fnd.Severity.WARNING)
    bad = b.incident("inc_4", finding=b.finding(node="node-b"), opened_at=later(5))
    worst = dataclasses.replace(bad, id="inc_5", opened_at=START)
    for order in itertools.permutations([mild, bad, worst]):
        assert correlate.cause_of(wide(fnd.FaultClass.ERRORS), order) is worst


def test_an_alert_is_mapped_by_its_labels() -> None:
    """Service, node, fault, signal, severity and the observed value come from labels and annotations."""
    (found,), strays = reports.from_alerts([b.alert(labels={"dsctl_runbook": "anything"})], {"chat"})
    assert found == b.finding(labels=b.alert(labels={"dsctl_runbook": "anything"}).labels)
    assert strays == ()


@pytest.mark.parametrize(
    ("alert", "expected"),
    [
        (b.alert(labels={"dsctl_fault": "nonsense"}), {"kind": fnd.FaultClass.OTHER}),
        (b.alert(labels={"dsctl_fault": ""}), {"kind": fnd.FaultClass.OTHER}),
        (b.alert(labels={"severity": "page"}), {"severity": fnd.Severity.WARNING}),
        (b.alert(labels={"severity": "info"}), {"severity": fnd.Severity.INFO}),
        (b.alert(labels={"node": "", "dsctl_signal": ""}), {"node": "", "signal": ""}),
        (b.alert(annotations={"observed": "NaN"}), {"observed": None, "summary": "CacheWrongAnswers"}),
        (b.alert(annotations={"observed": "a lot"}), {"observed": None}),
        (b.alert(annotations={}), {"observed": None}),
    ],
)
def test_alerts_of_other_peoples_schemes_are_read_as_far_as_they_go(
    alert: alerting.Alert, expected: dict[str, object]
) -> None:
    """Missing and foreign words get a careful default."""
    (found,), _ = reports.from_alerts([alert], {"chat"})
    assert {name: getattr(found, name) for name in expected} == expected


def test_our_own_and_resolved_alerts_are_no_reports() -> None:
    """What we sent comes back marked; what is resolved is over."""
    own = b.alert(labels={"dsctl_origin": "dsctl"})
    resolved = b.alert(status=alerting.AlertStatus.RESOLVED)
    assert reports.from_alerts([own, resolved], {"chat"}) == ((), ())


@pytest.mark.parametrize(
    ("service", "said"),
    [("nope", "names service 'nope', which is not managed"), ("", "has no label `service`")],
)
def test_alerts_of_nobodys_service_are_told(service: str, said: str) -> None:
    """They reach no policy, and somebody hears why."""
    found, (stray,) = reports.from_alerts([b.alert(labels={"service": service})], {"chat"})
    assert found == ()
    assert stray.sentence.startswith(f"held: alert CacheWrongAnswers {said}; no policy can answer it")


def test_a_flood_of_strangers_alerts_is_a_few_lines() -> None:
    """Who may post alerts may send ten thousand of nobody's service; the report stays one that people can read."""
    many = [b.alert(labels={"service": "nope", "alertname": f"A{n}"}) for n in range(1_000)]
    _, (told,) = reports.from_alerts(many, {"chat"})
    assert told.sentence.startswith("held: alerts A0, A1, A10 and 997 more name service 'nope', which is not managed;")
    _, lines = reports.from_alerts([b.alert(labels={"service": f"s{n}"}) for n in range(1_000)], {"chat"})
    assert len(lines) == 21
    assert lines[-1].sentence == "held: alerts name 980 further services that are not managed"
