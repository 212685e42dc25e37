"""The guard's gates for maintenance, attempts, the breaker, ownership, capacity and approval: each yes and no."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controlplane.domain import (
    alerting,
    approvals,
    breakers,
    capacity,
    lanes,
    maintenance,
    outcomes,
    owners,
    plans,
    policies,
    runs,
)
from controlplane.domain import findings as fnd
from controlplane.engine import guard
from tests.support import builders as b
from tests.support import capacities
from tests.support.clock import START

Gate = outcomes.Gate
WIDE = policies.GuardLimits(max_unavailable=policies.MaxUnavailable(100, 100))
LEAK = {"kind": fnd.FaultClass.LEAK, "signal": "gpu_memory_used_ratio", "source": "leak"}


def context(**fields: Any) -> guard.Context:
    """A world in which every gate passes, of four nodes that serve."""
    nodes = [b.node(f"node-{letter}") for letter in "abcd"]
    defaults: dict[str, Any] = {
        "now": START,
        "service": b.service(),
        "view": b.view(*nodes),
        "incident": b.incident(),
        "silences": alerting.Silences(START),
    }
    return guard.Context(**defaults | fields)


def ask(plan: plans.Plan, gate: outcomes.Gate, **fields: Any) -> outcomes.GateAnswer:
    """Return one gate's answer; a refusal must be the last one, and say what would change it."""
    found = guard.check(plan, context(**fields))
    (answer,) = [one for one in found.answers if one.gate is gate]
    if not answer.is_passed:
        assert isinstance(found, outcomes.Denied)
        assert (found.gate, bool(answer.hint)) == (gate, True)
    return answer


def restart(*nodes: str, **fields: Any) -> plans.Plan:
    """A plan that takes nodes out of service and destroys what they hold."""
    made = fields.pop("made", None) or b.request(runbook="restart-node", limits=WIDE, **fields)
    return b.plan(made, blast=plans.BlastRadius(nodes, nodes, is_destructive=True))


def by_person(*nodes: str, **fields: Any) -> plans.Plan:
    return restart(*nodes, made=b.manual(runbook="restart-node", limits=WIDE, **fields))


# Maintenance

NIGHT = maintenance.Weekly("night", (5, 6), 2 * 3600, 4 * 3600, "Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("window", "moment", "is_on"),
    [
        (NIGHT, "2026-07-04T01:59:59+02:00", False),
        (NIGHT, "2026-07-04T02:00:00+02:00", True),
        (NIGHT, "2026-07-04T03:59:59+02:00", True),
        (NIGHT, "2026-07-04T04:00:00+02:00", False),
        (NIGHT, "2026-07-06T03:00:00+02:00", False),
        # Over midnight: it belongs to the day on which it begins.
        (maintenance.Weekly("late", (4,), 23 * 3600, 3600), "2026-07-03T23:30:00+00:00", True),
        (maintenance.Weekly("late", (4,), 23 * 3600, 3600), "2026-07-04T00:59:00+00:00", True),
        (maintenance.Weekly("late", (4,), 23 * 3600, 3600), "2026-07-03T00:30:00+00:00", False),
        # Spring: at 02:00 the clock shows 03:00. The window begins with the change and lasts one hour.
        (NIGHT, "2026-03-29T01:30:00+01:00", False),
        (NIGHT, "2026-03-29T03:00:00+02:00", True),
        (NIGHT, "2026-03-29T04:00:00+02:00", False),
        (maintenance.Weekly("gap", (6,), 9000, 14400, "Europe/Berlin"), "2026-03-29T01:59:00+01:00", False),
        (maintenance.Weekly("gap", (6,), 9000, 14400, "Europe/Berlin"), "2026-03-29T03:00:00+02:00", True),
        # Autumn: 02:00 to 03:00 is shown twice. The window lasts three hours.
        (NIGHT, "2026-10-25T02:00:00+02:00", True),
        (NIGHT, "2026-10-25T02:30:00+01:00", True),
        (NIGHT, "2026-10-25T04:00:00+01:00", False),
        (maintenance.Weekly("twice", (6,), 3600, 9000, "Europe/Berlin"), "2026-10-25T02:15:00+01:00", True),
        (
            maintenance.Once("move", at("2026-07-04T00:00:00Z"), at("2026-07-04T02:00:00Z")),
            "2026-07-04T01:00:00Z",
            True,
        ),
        (
            maintenance.Once("move", at("2026-07-04T00:00:00Z"), at("2026-07-04T02:00:00Z")),
            "2026-07-04T02:00:00Z",
            False,
        ),
    ],
)
def test_windows_go_by_the_clock_on_the_wall(window: maintenance.Window, moment: str, is_on: bool) -> None:
    """Over midnight, and over both changes of the clock."""
    assert (maintenance.in_force((window,), at(moment)) is not None) is is_on


def test_the_window_that_lasts_longest_is_named() -> None:
    """Automation comes back when the last one ends."""
    short = maintenance.Once("short", START, START + timedelta(hours=1))
    long = maintenance.Once("long", START, START + timedelta(hours=2))
    found = maintenance.in_force((long, short), START)
    assert found == (long, START + timedelta(hours=2))


def in_maintenance() -> dict[str, Any]:
    window = maintenance.Once("move", START - timedelta(hours=1), START + timedelta(hours=1))
    return {"service": b.service(maintenance=(window,))}


def test_automation_stops_in_maintenance_and_says_until_when() -> None:
    """Like a silence, but written where the service is described."""
    answer = ask(b.plan(), Gate.MAINTENANCE, **in_maintenance())
    assert not answer.is_passed
    assert "move" in answer.sentence
    assert answer.numbers["until"] == (START + timedelta(hours=1)).isoformat()


@pytest.mark.parametrize("made", [b.manual(), b.request(is_restoring=True)])
def test_people_and_what_gives_back_pass_maintenance_and_the_answer_says_so(made: plans.PlanRequest) -> None:
    """A window keeps automation off, not people; nor does it keep a service degraded."""
    answer = ask(b.plan(made), Gate.MAINTENANCE, **in_maintenance())
    assert answer.is_passed
    assert "but" in answer.sentence


# Attempts


def tried(number: int, **fields: Any) -> tuple[runs.Run, ...]:
    return tuple(
        b.ended_run(f"run_{one}", at=START - timedelta(hours=9), plan=b.plan(b.request(**fields)))
        for one in range(number)
    )


@pytest.mark.parametrize(
    ("stored", "made", "is_passed"), [(0, 0, True), (2, 0, True), (3, 0, False), (0, 3, False), (2, 3, False)]
)
def test_the_larger_of_both_counts_of_attempts_holds(stored: int, made: int, is_passed: bool) -> None:
    """An incident that lost its count is corrected upwards by its runs, and the other way round."""
    answer = ask(b.plan(), Gate.ATTEMPTS, incident=b.incident(attempts=stored), tried=tried(made))
    assert answer.is_passed is is_passed
    assert answer.numbers["attempts"] == max(stored, made)


@pytest.mark.parametrize("fields", [{"tried": None}, {"incident": b.incident(attempts=-1)}])
def test_attempts_that_cannot_be_read_or_cannot_be_stop(fields: dict[str, Any]) -> None:
    """What is broken is no reason to begin anew."""
    assert "not tried again" in ask(b.plan(), Gate.ATTEMPTS, **fields).sentence


def test_only_attempts_of_the_policy_at_the_incident_count() -> None:
    """Follow-ups end what was begun; other policies, incidents and people have their own budgets."""
    others = (
        *tried(3, policy="other"),
        *tried(3, incident_id="inc_2"),
        *tried(3, policy=None),
        *tried(3, is_follow_up=True),
    )
    assert ask(b.plan(), Gate.ATTEMPTS, tried=others).numbers["runs"] == 0


def test_the_run_that_acts_is_not_one_attempt_too_many() -> None:
    """The tick counts it as soon as it is stored; it was admitted with all the others."""
    spent = {"incident": b.incident(attempts=3), "tried": tried(2)}
    assert ask(b.plan(), Gate.ATTEMPTS, is_acting=True, **spent).is_passed
    assert not ask(b.plan(), Gate.ATTEMPTS, **spent).is_passed


def test_a_run_is_not_stopped_half_way_because_others_tried_meanwhile() -> None:
    """A node that is out stays out if its repair is stopped; neither a count nor a gap in it is worth that."""
    fields: dict[str, Any] = {"is_acting": True, "has_acted": True}
    assert ask(b.plan(), Gate.ATTEMPTS, incident=b.incident(attempts=9), tried=None, **fields).is_passed


@pytest.mark.parametrize(
    "plan",
    [b.plan(b.manual(incident_id="inc_1")), b.plan(lane=lanes.Lane.DEGRADATION), b.plan(b.request(is_follow_up=True))],
)
def test_what_is_no_attempt_has_no_budget(plan: plans.Plan) -> None:
    """A person, a step of the ladder, and what ends an earlier run."""
    assert ask(plan, Gate.ATTEMPTS, incident=b.incident(attempts=99)).is_passed


# Breaker


def acted(*nodes: str, minutes_ago: float = 1.0, **fields: Any) -> runs.Run:
    """A policy's run that acted on nodes."""
    when = START - timedelta(minutes=minutes_ago)
    plan = fields.pop("plan", None) or restart(*nodes, node="", incident_id="inc_9")
    return b.ended_run("-".join(nodes), at=when, plan=plan, **fields)


def letters(number: int) -> list[str]:
    return [f"node-{letter}" for letter in "abcdefghijkl"[:number]]


def fleet(number: int) -> Any:
    return b.view(*(b.node(name) for name in letters(number)))


def test_the_breaker_trips_beyond_so_many_different_nodes() -> None:
    """The sixth node within the window trips it; the same node twice is one node."""
    five = tuple(acted(name) for name in letters(5))
    assert ask(restart("node-a"), Gate.BREAKER, recent=five, view=fleet(8)).numbers["touched"] == 5
    answer = ask(restart("node-f"), Gate.BREAKER, recent=five, view=fleet(8))
    assert not answer.is_passed
    assert (answer.numbers["touched"], answer.numbers["allowed"], answer.numbers["trips"]) == (6, 5, True)
    assert "dsctl automation breaker reset chat" in answer.hint


def test_a_share_counts_where_it_is_more() -> None:
    """Percent alone moves with the fleet, a number alone says nothing of a large one: the larger holds."""
    six = tuple(acted(name) for name in letters(5))
    assert ask(restart("node-f"), Gate.BREAKER, recent=six, view=fleet(12)).numbers["allowed"] == 6


def test_only_nodes_that_can_be_acted_on_are_the_measure() -> None:
    """What has no address inflates nothing."""
    nodes = [b.node(name) for name in letters(12)]
    some = [dataclasses.replace(one, address="") if place > 5 else one for place, one in enumerate(nodes)]
    limits = breakers.Limits(nodes=1, percent=50, window_seconds=600)
    answer = ask(restart("node-a"), Gate.BREAKER, view=b.view(*some), breaker_limits=limits)
    assert (answer.numbers["units"], answer.numbers["allowed"]) == (6, 3)


@pytest.mark.parametrize(
    "harmless",
    [
        acted("node-b", minutes_ago=11),
        acted("node-b", plan=by_person("node-b", node="")),
        acted("node-b", acted_at=None),
        acted("node-b", plan=b.plan(b.request(node="node-b"))),
    ],
    ids=["long ago", "a person", "never acted", "took nothing out"],
)
def test_what_does_not_count(harmless: runs.Run) -> None:
    """The window slides; people and what takes nothing out trip nothing."""
    limits = breakers.Limits(nodes=1, percent=0)
    assert ask(restart("node-a"), Gate.BREAKER, recent=(harmless,), breaker_limits=limits).is_passed


def test_runs_that_are_about_to_act_count() -> None:
    """What is queued will touch its nodes."""
    queued = b.run("run_9", plan=restart("node-b", node="node-b"), state=outcomes.RunState.QUEUED)
    limits = breakers.Limits(nodes=1, percent=0)
    assert not ask(restart("node-a"), Gate.BREAKER, unfinished=(queued,), breaker_limits=limits).is_passed


def test_a_run_that_waits_for_people_takes_nothing_yet() -> None:
    """A question of an hour must not keep other nodes from being repaired; the guard is asked again after the answer."""
    question = plans.PlannedStep("agree", plans.StepKind.APPROVAL, 900.0)
    waiting = dataclasses.replace(restart("node-b", node="node-b"), steps=(question, ACTS))
    asking_run = b.run("run_9", plan=waiting, state=outcomes.RunState.WAITING)
    limits = breakers.Limits(nodes=1, percent=0)
    one = policies.GuardLimits(max_unavailable=policies.MaxUnavailable(100, 1))
    plan = restart("node-a", made=b.request(runbook="restart-node", limits=one))
    for run, is_counted in ((asking_run, False), (dataclasses.replace(asking_run, step=1), True)):
        fields: dict[str, Any] = {"unfinished": (run,), "breaker_limits": limits}
        assert ask(plan, Gate.BLAST_RADIUS, **fields).is_passed is not is_counted
        assert ask(restart("node-a"), Gate.BREAKER, **fields).is_passed is not is_counted


def opened(**fields: Any) -> breakers.Breaker:
    defaults: dict[str, Any] = {
        "is_open": True,
        "tripped_at": START,
        "sentence": "too many nodes",
        "nodes": ("node-b",),
    }
    return breakers.Breaker("chat", **defaults | fields)


def test_after_a_reset_only_what_happened_later_counts() -> None:
    """Days of earlier runs must not trip it again at once."""
    limits = breakers.Limits(nodes=1, percent=0)
    closed = opened(is_open=False, reset_at=START - timedelta(seconds=30), reset_by="ada")
    before, after = acted("node-b", minutes_ago=1), acted("node-b", minutes_ago=0.1)
    assert ask(restart("node-a"), Gate.BREAKER, recent=(before,), breaker=closed, breaker_limits=limits).is_passed
    assert not ask(restart("node-a"), Gate.BREAKER, recent=(after,), breaker=closed, breaker_limits=limits).is_passed


def test_an_open_breaker_stops_automation_and_not_people() -> None:
    """A person sees that it is open, and may act."""
    answer = ask(restart("node-a"), Gate.BREAKER, breaker=opened())
    assert not answer.is_passed
    assert "trips" not in answer.numbers
    person = ask(by_person("node-a", node="node-a"), Gate.BREAKER, breaker=opened(), incident=None)
    assert person.is_passed
    assert "is open, but ada asked" in person.sentence


def test_what_gives_back_passes_an_open_breaker() -> None:
    """A tripped breaker must not keep nodes out: returning, restoring, and keeping out what is out already."""
    out = b.view(b.node("node-a", in_service=0.0), b.node("node-b"))
    giving_back = b.plan(b.request(runbook="return-node"))
    follow_up = restart("node-a", is_follow_up=True)
    for plan in (giving_back, b.plan(b.request(is_restoring=True)), follow_up):
        assert ask(plan, Gate.BREAKER, breaker=opened(), view=out).is_passed
    assert not ask(restart("node-b", is_follow_up=True), Gate.BREAKER, breaker=opened(), view=out).is_passed
    # A node that looks dead is what a breaker is for: many look so when the network is the trouble.
    assert not ask(restart("node-a"), Gate.BREAKER, breaker=opened(), view=out).is_passed


def test_a_run_that_has_acted_finishes_in_spite_of_an_open_breaker() -> None:
    """Its node is out and counted; leaving it there would help nobody."""
    assert ask(restart("node-a"), Gate.BREAKER, breaker=opened(), has_acted=True).is_passed


# Ownership


def test_what_a_controller_owns_is_changed_there_by_everybody() -> None:
    """Two controllers would fight, whoever begins."""
    owned = (owners.Claim(owners.Kind.CONTROLLER, "KEDA", "pool hot of chat"),)
    for plan in (b.plan(), b.plan(b.manual(incident_id="inc_1"))):
        answer = ask(plan, Gate.OWNERSHIP, claims=owned)
        assert not answer.is_passed
        assert answer.sentence == "KEDA owns pool hot of chat; change it there"


def test_what_a_person_holds_is_left_alone_by_automation() -> None:
    """Another person may give it back, and the answer says whose it was."""
    held = (owners.Claim(owners.Kind.PERSON, "bob", "chat/node-a", "ejected by run run_7"),)
    answer = ask(b.plan(), Gate.OWNERSHIP, claims=held)
    assert not answer.is_passed
    assert "chat/node-a was ejected by run run_7 by bob" in answer.sentence
    assert ask(b.plan(b.manual()), Gate.OWNERSHIP, claims=held, incident=None).is_passed


def test_a_gateway_that_does_not_tell_stops_what_has_not_begun() -> None:
    """A run half-way through must not end on one missed answer."""
    assert not ask(b.plan(), Gate.OWNERSHIP, claims=None).is_passed
    assert ask(b.plan(), Gate.OWNERSHIP, claims=None, has_acted=True).is_passed
    assert ask(b.plan(b.manual()), Gate.OWNERSHIP, claims=None, incident=None).is_passed


# Capacity


def outlook(
    demand: float, *, node_rps: float = 10.0, p90: float | None = None, is_open: bool = True, **fields: Any
) -> capacity.Outlook:
    planned = b.capacity_plan(
        node_rps=node_rps, demand_rps=demand, gate=capacity.Gate(is_open, "as the test says"), **fields
    )
    ahead = capacities.NO_FORECAST if p90 is None else capacities.forecast(p90, p90)
    return capacity.Outlook("chat", planned, ahead)


@pytest.mark.parametrize(("demand", "is_passed"), [(30.0, True), (30.1, False)])
def test_the_nodes_that_stay_must_carry_what_arrives(demand: float, is_passed: bool) -> None:
    """Three of four nodes carry 30 requests/s."""
    answer = ask(restart("node-a"), Gate.CAPACITY, outlook=outlook(demand))
    assert answer.is_passed is is_passed
    assert (answer.numbers["remaining"], answer.numbers["carried_rps"]) == (3, 30.0)


def test_a_refusal_says_that_the_bad_node_stays() -> None:
    """Whoever reads it at night knows what is still in service."""
    answer = ask(restart("node-a"), Gate.CAPACITY, outlook=outlook(35.0))
    said = "3 nodes of 4 would carry 30.0 requests/s; 35.0 requests/s arrive: too little, so node-a stays in service, bad as it is"
    assert answer.sentence == said
    assert "scale-out" in answer.hint


def test_a_forecast_that_may_act_counts_over_the_time_of_the_plan() -> None:
    """One whose gate is closed is no better than guessing, and refuses nothing."""
    assert not ask(restart("node-a"), Gate.CAPACITY, outlook=outlook(20.0, p90=31.0)).is_passed
    assert ask(restart("node-a"), Gate.CAPACITY, outlook=outlook(20.0, p90=31.0, is_open=False)).is_passed


def test_nodes_that_do_not_serve_cost_nothing() -> None:
    """Repairing what is down takes nothing from anybody."""
    view = b.view(b.node("node-a", up=False), *(b.node(f"node-{one}") for one in "bcd"))
    assert ask(restart("node-a"), Gate.CAPACITY, view=view, outlook=outlook(99.0)).is_passed


def test_nodes_that_other_runs_take_out_carry_nothing() -> None:
    """They serve at this instant, and will not when the plan acts."""
    other = b.run("run_9", plan=restart("node-b", node="node-b"))
    assert not ask(restart("node-a"), Gate.CAPACITY, unfinished=(other,), outlook=outlook(25.0)).is_passed


@pytest.mark.parametrize(
    "unknown",
    [
        None,
        outlook(99.0, node_rps=0.0),
        outlook(0.0, needs=()),
        outlook(99.0, at=START - timedelta(minutes=5)),
        capacity.Outlook("chat", capacity.NoPlan("chat", START, "held"), capacities.NO_FORECAST),
    ],
)
def test_what_is_not_known_neither_refuses_nor_pretends(unknown: capacity.Outlook | None) -> None:
    """A bad node must not stay because nobody measured; the answer says that nobody did."""
    answer = ask(restart("node-a"), Gate.CAPACITY, outlook=unknown)
    assert answer.is_passed
    assert "is not known" in answer.sentence


def test_a_person_passes_capacity_and_sees_the_numbers() -> None:
    """It is an estimate, and the dry run shows it."""
    plan = by_person("node-a", node="node-a")
    answer = ask(plan, Gate.CAPACITY, incident=None, outlook=outlook(99.0))
    assert answer.is_passed
    assert "too little, but ada asked" in answer.sentence


@pytest.mark.parametrize(
    ("source", "seconds", "is_passed"),
    [("leak", "80", True), ("leak", "7200", False), ("leak", "soon", False), ("alert:Leak", "80", False)],
)
def test_a_node_that_will_be_lost_anyway_goes_in_a_moment_of_our_choosing(
    source: str, seconds: str, is_passed: bool
) -> None:
    """As its detector foretells; an alert's label could be anybody's."""
    found = b.finding(**LEAK | {"source": source}, labels={"seconds_to_limit": seconds})
    answer = ask(restart("node-a"), Gate.CAPACITY, incident=b.incident(finding=found), outlook=outlook(35.0))
    assert answer.is_passed is is_passed


@pytest.mark.parametrize(("demand", "leaks"), [(10.0, False), (26.0, True)], ids=["S5", "S3"])
def test_the_demo_may_take_its_one_bad_node_out(demand: float, leaks: bool) -> None:
    """Three nodes at 10 requests/s: S5 needs 10 of the 20 that stay, S3 would need 26 and loses its node anyway."""
    found = b.finding(**LEAK, labels={"seconds_to_limit": "58"}) if leaks else b.finding()
    three = b.view(*(b.node(f"node-{one}") for one in "abc"))
    fields = {"incident": b.incident(finding=found), "view": three, "outlook": outlook(demand)}
    assert ask(restart("node-a"), Gate.CAPACITY, **fields).is_passed


# Approval

ASKS = plans.PlannedStep("agree", plans.StepKind.APPROVAL, 900.0, quorum=2)
ACTS = plans.PlannedStep("flush", plans.StepKind.ACTION, 10.0, action="flush_cache")
BY_APPROVAL = b.request(mode=policies.Mode.APPROVE)


def asking(*steps: plans.PlannedStep, made: plans.PlanRequest | None = None) -> plans.Plan:
    return b.plan(made or BY_APPROVAL, steps=steps or (ASKS, ACTS))


def agreed(who: str, **fields: Any) -> approvals.Approval:
    defaults: dict[str, Any] = {
        "run_id": "run_1",
        "step": "agree",
        "is_approved": True,
        "reason": "",
        "plan_hash": asking().hash,
        "at": START - timedelta(seconds=60),
    }
    return approvals.Approval(who=who, **defaults | fields)


def test_a_policy_in_mode_approve_is_planned_and_waits() -> None:
    """The mode lets it pass because the plan asks first."""
    answers = guard.check(asking(), context()).answers
    assert answers[-1].sentence == "waits for 2 approvals first"
    assert isinstance(guard.check(asking(), context()), outcomes.Allowed)


@pytest.mark.parametrize("mode", [policies.Mode.OBSERVE, policies.Mode.SUGGEST])
def test_asking_people_is_no_way_around_the_other_modes(mode: policies.Mode) -> None:
    """A runbook with an approval of its own changes no policy's mode."""
    assert not ask(asking(made=b.request(mode=mode)), Gate.MODE).is_passed


def test_enough_different_people_let_it_act() -> None:
    """Both are named."""
    answer = ask(asking(), Gate.APPROVAL, is_acting=True, step=1, approvals=(agreed("ada"), agreed("bob")))
    assert (answer.is_passed, answer.numbers["approved_by"]) == (True, ["ada", "bob"])


@pytest.mark.parametrize(
    "second",
    [
        agreed("ada"),
        agreed("bob", plan_hash="another"),
        agreed("policy:cache-poisoned"),
        agreed("bob", at=START - timedelta(seconds=901)),
        agreed("bob", is_approved=False, reason="not today"),
        agreed("bob", step="other"),
    ],
    ids=["same person", "other plan", "who asked", "too old", "a refusal", "other step"],
)
def test_what_is_not_agreed_does_not_act(second: approvals.Approval) -> None:
    """One good answer of two is not enough, whatever is wrong with the other."""
    fields: dict[str, Any] = {"is_acting": True, "step": 1, "approvals": (agreed("ada"), second)}
    assert not ask(asking(), Gate.APPROVAL, **fields).is_passed


def test_a_run_that_acted_in_time_is_not_too_old_for_its_next_step() -> None:
    """The answers have to be fresh when it begins."""
    old = tuple(agreed(who, at=START - timedelta(hours=2)) for who in ("ada", "bob"))
    assert not ask(asking(), Gate.APPROVAL, is_acting=True, step=1, approvals=old).is_passed
    assert ask(asking(), Gate.APPROVAL, is_acting=True, step=1, approvals=old, has_acted=True).is_passed


def test_only_questions_whose_turn_has_come_count() -> None:
    """A step before the question acts; a question that was left out by its condition asks nobody."""
    later = asking(ACTS, ASKS, dataclasses.replace(ACTS, name="more"), made=b.manual(incident_id="inc_1"))
    assert ask(later, Gate.APPROVAL, is_acting=True, step=0).is_passed
    assert not ask(later, Gate.APPROVAL, is_acting=True, step=2).is_passed
    assert ask(later, Gate.APPROVAL, is_acting=True, step=2, skipped=frozenset({"agree"})).is_passed
    never = asking(dataclasses.replace(ASKS, decided=False), ACTS, made=b.manual(incident_id="inc_1"))
    assert ask(never, Gate.APPROVAL, is_acting=True, step=1).is_passed
