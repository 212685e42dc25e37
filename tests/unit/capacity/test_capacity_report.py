"""What a capacity plan means for incidents."""

from controlplane.capacity import report
from controlplane.domain import capacity, forecasts, services
from controlplane.domain import findings as fnd
from tests.support import builders as b
from tests.support import capacities as c


def said(plan: capacity.CapacityPlan | capacity.NoPlan) -> list[tuple[fnd.FaultClass, fnd.Severity, str]]:
    """What is found, and by whom."""
    return [(one.kind, one.severity, one.source) for one in report.findings_of(plan) if isinstance(one, fnd.Finding)]


def planned(rps: float, ahead: forecasts.Forecast | forecasts.NoForecast = c.NO_FORECAST) -> capacity.CapacityPlan:
    return c.Planner().known(c.seen(rps), ahead=ahead)


def test_enough_nodes_are_nothing_to_report() -> None:
    assert report.findings_of(planned(10.0)) == []


def test_too_few_nodes_for_what_is_seen_are_a_surge() -> None:
    """It carries the demand, and what the nodes that are there carry."""
    plan = planned(40.0)
    (found,) = report.findings_of(plan)
    assert found == fnd.Finding(
        kind=fnd.FaultClass.SURGE,
        service="chat",
        node="",
        signal="request_rate",
        severity=fnd.Severity.WARNING,
        source="capacity",
        at=plan.at,
        summary=f"chat has 2 nodes and should have 6: {plan.sentence}",
        observed=40.0,
        expected=20.0,
    )


def test_nodes_that_only_the_forecast_calls_for_are_reported_in_its_name() -> None:
    assert said(planned(10.0, c.forecast(40.0))) == [(fnd.FaultClass.SURGE, fnd.Severity.WARNING, "prophet")]


def test_where_both_call_for_nodes_both_say_so() -> None:
    """So that the incident is quiet only when neither does."""
    assert [source for *_, source in said(planned(20.0, c.forecast(40.0)))] == ["prophet", "capacity"]
    assert [source for *_, source in said(planned(40.0, c.forecast(20.0)))] == ["capacity"]


def test_a_surge_that_cannot_be_met_is_critical() -> None:
    assert said(planned(200.0)) == [(fnd.FaultClass.SURGE, fnd.Severity.CRITICAL, "capacity")]


def test_a_fleet_that_grew_as_far_as_it_can_reports_no_surge() -> None:
    """Nothing more can be done here; overload is found and answered elsewhere."""
    assert said(c.Planner().known(c.seen(200.0, hot=6, cold=4))) == []


def test_nodes_that_are_not_needed_are_a_surplus() -> None:
    plan = c.Planner().calm(c.seen(10.0, hot=4), 600.0)
    assert said(plan) == [(fnd.FaultClass.SURPLUS, fnd.Severity.INFO, "capacity")]


def test_a_queue_that_grows_without_known_arrivals_gives_no_numbers() -> None:
    """Unknown is not zero."""
    (found,) = report.findings_of(c.Planner().known(c.seen(b.unknown(), waiting=120.0)))
    assert isinstance(found, fnd.Finding)
    assert (found.observed, found.expected) == (None, None)


def test_a_stage_alone_gives_no_numbers_either() -> None:
    """Nobody knows there what a node carries."""
    service = c.service(stages=(services.Stage(5.0, 1),))
    unlearned = c.node_capacity.NoEstimate(c.node_capacity.NoEstimateReason.NOT_READ)
    (found,) = report.findings_of(c.Planner(service).known(c.seen(10.0, node_rps=unlearned)))
    assert isinstance(found, fnd.Finding)
    assert found.observed is None


def test_without_a_plan_neither_source_can_speak() -> None:
    """Else an incident that one of them opened would be taken for quiet."""
    answers = report.findings_of(c.Planner().held(c.seen(b.unknown())))
    assert [(one.detector, one.reason) for one in answers if isinstance(one, fnd.NotReady)] == [
        ("capacity", fnd.NotReadyReason.SIGNAL_UNKNOWN),
        ("prophet", fnd.NotReadyReason.SIGNAL_UNKNOWN),
    ]
