"""The guard: every gate's yes and no, with the sentence and the numbers."""

from datetime import timedelta
from typing import Any

import pytest

from controlplane.domain import alerting, incidents, lanes, outcomes, plans, policies
from controlplane.domain import signals as sig
from controlplane.engine import guard
from tests.support import builders as b
from tests.support.clock import START

Gate = outcomes.Gate


def context(**fields: Any) -> guard.Context:
    """A world in which every gate passes."""
    defaults: dict[str, Any] = {
        "now": START,
        "service": b.service(),
        "view": b.view(),
        "incident": b.incident(),
        "is_reported": True,
        "silences": alerting.Silences(START),
    }
    return guard.Context(**defaults | fields)


def ask(plan: plans.Plan, gate: outcomes.Gate, **fields: Any) -> outcomes.GateAnswer:
    """Return one gate's answer, which must be the last one when it is a refusal."""
    found = guard.check(plan, context(**fields))
    (answer,) = [one for one in found.answers if one.gate is gate]
    if not answer.is_passed:
        assert isinstance(found, outcomes.Denied)
        assert (found.gate, found.sentence) == (gate, answer.sentence)
    return answer


def taking_out(*nodes: str, limits: policies.GuardLimits | None = None, **fields: Any) -> plans.Plan:
    """A plan that takes nodes out of service."""
    wanted = limits or policies.GuardLimits(max_unavailable=policies.MaxUnavailable(50, 2))
    made = b.request(limits=wanted, runbook="restart-node", **fields)
    return b.plan(made, blast=plans.BlastRadius(nodes, nodes, is_destructive=True))


PERSON = b.plan(b.manual())


def test_all_gates_are_asked_in_the_documented_order() -> None:
    """An allowed plan carries the answer of every gate, in the order of the enum."""
    found = guard.check(b.plan(), context())
    assert isinstance(found, outcomes.Allowed)
    assert [answer.gate for answer in found.answers] == list(Gate)


def test_the_same_context_gives_the_same_answer() -> None:
    """Sentences and numbers are a function of their inputs."""
    assert guard.check(b.plan(), context()) == guard.check(b.plan(), context())


def test_the_first_refusal_ends_the_questions() -> None:
    """The answers of a refusal end with the gate that refused."""
    found = guard.check(b.plan(), context(paused={"ada": "release"}))
    assert isinstance(found, outcomes.Denied)
    assert [answer.gate for answer in found.answers] == [Gate.KILL_SWITCH]


def test_the_kill_switch_stops_automation_and_names_who_holds_it() -> None:
    """Several people may hold the brake, and everyone sees why."""
    answer = ask(b.plan(), Gate.KILL_SWITCH, paused={"bob": "", "ada": "release"})
    assert answer.sentence.startswith("automation is paused (ada: release; bob: no reason given)")
    assert answer.numbers["held_by"] == ["ada", "bob"]


def test_a_person_passes_the_kill_switch_and_the_answer_says_so() -> None:
    """The brake is for automation."""
    answer = ask(PERSON, Gate.KILL_SWITCH, paused={"bob": "release"}, incident=None)
    assert answer.is_passed
    assert "but ada asked" in answer.sentence


@pytest.mark.parametrize("mode", [one for one in policies.Mode if one is not policies.Mode.AUTO])
def test_only_mode_auto_acts_alone(mode: policies.Mode) -> None:
    """Every other mode is refused with the command a person can run."""
    answer = ask(b.plan(b.request(mode=mode)), Gate.MODE)
    assert not answer.is_passed
    assert f"mode {mode}; run `dsctl remediate flush-cache --node node-a`" in answer.sentence


def test_modes_do_not_bind_people() -> None:
    """A person's request has no policy."""
    assert ask(b.plan(b.manual(mode=policies.Mode.OBSERVE)), Gate.MODE, incident=None).is_passed


def test_an_incident_that_nobody_reports_is_not_acted_on() -> None:
    """Resolved never acts: not for a policy, nor for a person who names the incident."""
    for made in (b.request(), b.manual(incident_id="inc_1")):
        answer = ask(b.plan(made), Gate.RESOLVED, is_reported=False)
        assert answer.sentence == "no source reports incident inc_1 any more (alert:CacheWrongAnswers)"


def test_a_closed_or_unknown_incident_is_not_acted_on() -> None:
    """There is nothing left to act on, or nobody knows what."""
    closed = b.incident(state=incidents.IncidentState.CLOSED)
    assert "is closed" in ask(b.plan(), Gate.RESOLVED, incident=closed).sentence
    assert "inc_1 is not known" in ask(b.plan(), Gate.RESOLVED, incident=None).sentence


def test_a_run_that_has_acted_finishes_what_it_began() -> None:
    """Its own effect makes alerts resolve and data stale; stopping half-way would be worse."""
    found = guard.check(b.plan(), context(has_acted=True, is_reported=False, view=None))
    assert isinstance(found, outcomes.Allowed)
    assert sum("finishes what it began" in answer.sentence for answer in found.answers) == 3


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (None, "the metrics store did not answer"),
        (b.view(at=START - timedelta(seconds=61)), "the newest view of the fleet is 1 min 1 s old"),
        (b.view(service="other"), "service chat is not in the fleet view"),
        (b.view(b.node("node-b")), "chat/node-a is not in the fleet view"),
        (b.view(b.node(up=b.unknown())), "whether node-a is up is unknown: last scrape is too old"),
        (b.view(b.node(cache_wrong_ratio=b.unknown())), "cache_wrong_ratio of node-a is unknown"),
    ],
)
def test_automation_never_acts_on_unknown_data(view: Any, reason: str) -> None:
    """Unknown is a refusal, whatever the plan would do."""
    answer = ask(b.plan(), Gate.FRESHNESS, view=view)
    assert not answer.is_passed
    assert answer.sentence.startswith(reason)


def test_the_signals_that_will_judge_the_plan_must_be_known_too() -> None:
    """What cannot be verified afterwards is not begun."""
    spec = plans.VerifySpec(("latency_p99",), 60, 10)
    view = b.view(b.node(latency_p99=b.unknown()))
    assert "latency_p99 of node-a is unknown" in ask(b.plan(verify=spec), Gate.FRESHNESS, view=view).sentence


def test_a_service_wide_plan_asks_for_the_signals_of_the_service() -> None:
    """Without a node the service's own readings count."""
    made = b.request(node="")
    incident = b.incident(finding=b.finding(node=""))
    view = b.view(signals={"cache_wrong_ratio": b.unknown()})
    answer = ask(b.plan(made), Gate.FRESHNESS, view=view, incident=incident)
    assert answer.sentence.startswith("cache_wrong_ratio of chat is unknown")
    assert ask(b.plan(made), Gate.FRESHNESS, incident=incident).is_passed


def test_what_the_profile_does_not_map_is_not_asked_for() -> None:
    """An engine without a metric is not unknown for ever."""
    view = b.view(b.node(cache_wrong_ratio=b.unknown(sig.UnknownReason.NOT_IN_PROFILE)))
    assert ask(b.plan(verify=None), Gate.FRESHNESS, view=view).is_passed


def test_a_node_known_to_be_down_is_known() -> None:
    """A dead node has no readings, and may be repaired."""
    view = b.view(b.node(up=False, cache_wrong_ratio=b.unknown(sig.UnknownReason.TARGET_DOWN)))
    assert ask(b.plan(), Gate.FRESHNESS, view=view).is_passed


def test_a_person_may_act_on_unknown_data_only_where_nothing_is_destroyed() -> None:
    """The answer states the unknown; a destructive plan is refused to everybody."""
    answer = ask(PERSON, Gate.FRESHNESS, view=None, incident=None)
    assert answer.is_passed
    assert answer.sentence == "the metrics store did not answer, but ada asked and nothing is destroyed"
    destroys = b.plan(b.manual(), blast=plans.BlastRadius(is_destructive=True))
    assert "destroys data, so nobody may run it" in ask(destroys, Gate.FRESHNESS, view=None, incident=None).sentence
    removes = b.plan(b.manual(), blast=plans.BlastRadius(unavailable=("node-a",)))
    assert "takes nodes out of service" in ask(removes, Gate.FRESHNESS, view=None, incident=None).sentence


def silenced(*matchers: tuple[str, str, bool, bool], **fields: Any) -> alerting.Silences:
    return alerting.Silences(START, (b.silence(*matchers, **fields),))


@pytest.mark.parametrize(
    ("matcher", "is_matched"),
    [
        (("node", "node-a", False, True), True),
        (("node", "node-b", False, True), False),
        (("node", "node-b", False, False), True),
        (("node", "node-.*", True, True), True),
        (("node", "node", True, True), False),
        (("node", "node-b|gpu.*", True, False), True),
        (("alertname", "CacheWrongAnswers", False, True), True),
        (("team", "", False, True), True),
        (("team", "search", False, True), False),
        (("node", "(", True, True), True),
    ],
)
def test_silences_match_as_in_alertmanager(matcher: tuple[str, str, bool, bool], is_matched: bool) -> None:
    """Equality, anchored expressions, negation, absent labels; what nobody can read is taken to be meant for us."""
    incident = b.incident(finding=b.finding(labels=b.alert().labels))
    answer = ask(b.plan(), Gate.SILENCE, silences=silenced(matcher), incident=incident)
    assert answer.is_passed is not is_matched


def test_all_matchers_of_a_silence_must_match() -> None:
    """A silence for another service's node of the same name is not ours."""
    both = (("node", "node-a", False, True), ("service", "search", False, True))
    assert ask(b.plan(), Gate.SILENCE, silences=silenced(*both)).is_passed


def test_a_silence_says_whose_it_is_and_until_when() -> None:
    """The refusal tells whom to talk to."""
    answer = ask(b.plan(), Gate.SILENCE, silences=silenced())
    assert answer.sentence == "silence sil_1 by ada (maintenance) matches until 2026-03-02 10:00 UTC"
    assert answer.numbers["silence"] == "sil_1"


def test_an_ended_silence_silences_nothing() -> None:
    """The list may be a few seconds older than the silence's end."""
    assert ask(b.plan(), Gate.SILENCE, silences=silenced(ends_at=START)).is_passed


def test_a_person_passes_a_silence_and_the_answer_says_so() -> None:
    """Maintenance is often why a person acts."""
    answer = ask(PERSON, Gate.SILENCE, silences=silenced(), incident=None)
    assert answer.is_passed
    assert "but ada asked" in answer.sentence


@pytest.mark.parametrize(
    ("silences", "how"),
    [(None, "were never read"), (alerting.Silences(START - timedelta(seconds=61)), "were last read 1 min 1 s ago")],
)
def test_unknown_silences_hold_what_destroys(silences: alerting.Silences | None, how: str) -> None:
    """With Alertmanager out of reach nothing destructive begins, whoever asks; the rest passes and says so."""
    assert how in ask(b.plan(), Gate.SILENCE, silences=silences).sentence
    assert ask(b.plan(), Gate.SILENCE, silences=silences).is_passed
    for made in (b.request(), b.manual(incident_id="inc_1")):
        destroys = b.plan(made, blast=plans.BlastRadius(is_destructive=True))
        answer = ask(destroys, Gate.SILENCE, silences=silences)
        assert not answer.is_passed
        assert how in answer.sentence


@pytest.mark.parametrize(
    ("other", "is_denied"),
    [
        (b.manual(), True),
        (b.manual(runbook="restart-node"), True),
        (b.manual(node=""), True),
        (b.manual(node="node-b"), False),
        (b.manual(service="search"), False),
    ],
)
def test_one_run_at_a_time_on_a_target(other: plans.PlanRequest, is_denied: bool) -> None:
    """A service contains its nodes; different nodes may be worked on at once."""
    running = b.run("run_9", plan=b.plan(other))
    answer = ask(b.plan(), Gate.IN_FLIGHT, unfinished=(running,))
    assert answer.is_passed is not is_denied
    if is_denied:
        assert answer.numbers == {"run": "run_9", "state": "running"}


def test_runs_of_different_lanes_do_not_wait_for_each_other() -> None:
    """Whatever they take out of service is counted together all the same."""
    growing = b.run("run_9", plan=b.plan(b.manual(node=""), lane=lanes.Lane.CAPACITY))
    assert ask(b.plan(), Gate.IN_FLIGHT, unfinished=(growing,)).is_passed
    assert not ask(b.plan(lane=lanes.Lane.CAPACITY), Gate.IN_FLIGHT, unfinished=(growing,)).is_passed


def test_no_node_is_taken_away_while_it_is_repaired_nor_repaired_while_it_goes() -> None:
    """Shrinking and repairing have lanes of their own, and meet at a node."""
    leaving = plans.BlastRadius(("node-a",), ("node-a",))
    shrinking = b.plan(b.manual(node=""), lane=lanes.Lane.CAPACITY, blast=leaving)
    on_it, on_another = b.plan(b.manual()), b.plan(b.manual(node="node-b"))
    assert not ask(shrinking, Gate.IN_FLIGHT, unfinished=(b.run("run_9", plan=on_it),)).is_passed
    assert not ask(on_it, Gate.IN_FLIGHT, unfinished=(b.run("run_9", plan=shrinking),)).is_passed
    assert ask(shrinking, Gate.IN_FLIGHT, unfinished=(b.run("run_9", plan=on_another),)).is_passed


def test_a_service_wide_plan_waits_for_runs_on_its_nodes() -> None:
    """The overlap counts both ways."""
    incident = b.incident(finding=b.finding(node=""))
    answer = ask(b.plan(b.request(node="")), Gate.IN_FLIGHT, unfinished=(b.run(),), incident=incident)
    assert "run run_1 (flush-cache on chat/node-a) is running" in answer.sentence


def ran(seconds_ago: float, id: str = "run_8", **fields: Any) -> guard.Ran:  # noqa: A002 - the field's name
    return guard.Ran(b.ended_run(id, **fields), seconds_ago)


def test_a_cooldown_says_how_long_it_still_lasts() -> None:
    """The numbers are those an operator asks for."""
    answer = ask(b.plan(), Gate.COOLDOWN, history=(ran(60.0), ran(200.0, "run_7")))
    assert answer.sentence == ("flush-cache acted on chat/node-a 1 min ago (run run_8), cooldown 5 min; 4 min left")
    assert answer.numbers == {"seconds_ago": 60.0, "cooldown_seconds": 300.0, "run": "run_8"}


def test_a_cooldown_ends_on_the_second() -> None:
    """At exactly the cooldown the next run may act."""
    assert not ask(b.plan(), Gate.COOLDOWN, history=(ran(299.999),)).is_passed
    assert ask(b.plan(), Gate.COOLDOWN, history=(ran(300.0),)).is_passed


def test_only_the_same_deed_on_the_same_target_cools_down() -> None:
    """Other runbooks, other nodes, and runs that never acted do not count."""
    others = (
        ran(1.0, "run_2", plan=b.plan(b.request(runbook="restart-node"))),
        ran(1.0, "run_3", plan=b.plan(b.request(node="node-b"))),
        ran(1.0, "run_4", acted_at=None),
    )
    assert ask(b.plan(), Gate.COOLDOWN, history=others).is_passed


def test_a_persons_run_cools_down_the_policy_too() -> None:
    """Who asked does not matter to the node."""
    assert not ask(b.plan(), Gate.COOLDOWN, history=(ran(1.0, plan=b.plan(b.manual())),)).is_passed


def test_the_hourly_rate_is_counted_per_policy_over_all_targets() -> None:
    """A storm over many nodes is slowed down, and runs in flight count."""
    made = b.request(limits=policies.GuardLimits(cooldown_seconds=0, max_per_hour=3))
    other = b.plan(b.request(node="node-b"))
    history = (ran(3599.0, "run_2", plan=other), ran(10.0, "run_3", plan=other))
    answer = ask(b.plan(made), Gate.RATE_LIMIT, history=history, unfinished=(b.run("run_4", plan=other),))
    assert answer.sentence == "policy cache-poisoned ran flush-cache 3 times in the last hour, the limit is 3"
    assert answer.numbers == {"runs": 3, "max_per_hour": 3}
    aged = (ran(3600.0, "run_2", plan=other), *history[1:])
    assert ask(b.plan(made), Gate.RATE_LIMIT, history=aged, unfinished=(b.run("run_4", plan=other),)).is_passed


@pytest.mark.parametrize(
    "other", [b.request(policy="other"), b.request(runbook="restart-node"), b.manual(service="search")]
)
def test_other_budgets_are_not_drawn_on(other: plans.PlanRequest) -> None:
    """Another policy, another runbook, people elsewhere: each has its own hourly budget."""
    made = b.request(limits=policies.GuardLimits(cooldown_seconds=0, max_per_hour=1))
    assert ask(b.plan(made), Gate.RATE_LIMIT, history=(ran(10.0, plan=b.plan(other)),)).is_passed


def test_people_share_a_budget_per_service() -> None:
    """A person cannot flush the same service for ever either."""
    limits = policies.GuardLimits(cooldown_seconds=0, max_per_hour=1)
    mine = b.plan(b.manual(limits=limits, node="node-b"))
    answer = ask(mine, Gate.RATE_LIMIT, history=(ran(10.0, plan=PERSON),), incident=None)
    assert answer.sentence == "people ran flush-cache 1 time in the last hour, the limit is 1"
    elsewhere = b.plan(b.manual(service="search"))
    assert ask(mine, Gate.RATE_LIMIT, history=(ran(10.0, plan=elsewhere),), incident=None).is_passed


@pytest.mark.parametrize(
    ("percent", "nodes", "units", "allowed"),
    [(10, 1, 4, 1), (10, 5, 25, 2), (50, 3, 4, 2), (50, 1, 4, 1), (0.1, 5, 4, 1), (100, 9, 4, 4), (50, 0, 4, 0)],
)
def test_blast_radius_is_the_smaller_of_percent_and_nodes(percent: float, nodes: int, units: int, allowed: int) -> None:
    """At least one by percent, never more than the absolute limit."""
    assert guard.allowed_unavailable(policies.MaxUnavailable(percent, nodes), units) == allowed


FOUR = ("node-a", "node-b", "node-c", "node-d")


def fleet(**up: Any) -> Any:
    """Four nodes, all up unless said otherwise (`b=False` or an Unknown)."""
    return b.view(*(b.node(name, up=up.get(name[-1], True)) for name in FOUR))


def test_a_plan_that_takes_nothing_out_passes() -> None:
    """A flush touches a node and leaves it serving."""
    answer = ask(b.plan(), Gate.BLAST_RADIUS, view=fleet(b=False, c=False, d=False))
    assert answer.sentence == "takes no node out of service"


def test_nodes_unavailable_for_any_reason_count() -> None:
    """Dead, unknown, or about to be taken out by another run: each uses up the radius."""
    plan = taking_out("node-a")
    assert ask(plan, Gate.BLAST_RADIUS, view=fleet(b=False)).is_passed
    for view, running in (
        (fleet(b=False, c=False), ()),
        (fleet(b=b.unknown(), c=False), ()),
        (fleet(b=False), (b.run(plan=taking_out("node-c", node="node-c")),)),
    ):
        answer = ask(plan, Gate.BLAST_RADIUS, view=view, unfinished=running)
        assert answer.sentence == "3 nodes of 4 would be unavailable (node-a, node-b, node-c), at most 2 may be"
        assert answer.numbers["unavailable"] == 3


def test_runs_of_other_services_do_not_count() -> None:
    """The radius is the service's own."""
    elsewhere = b.run(plan=taking_out("node-x", "node-y", service="search"))
    assert ask(taking_out("node-a"), Gate.BLAST_RADIUS, view=fleet(b=False), unfinished=(elsewhere,)).is_passed


def test_a_pool_keeps_its_minimum_ready() -> None:
    """The pools' minimum binds even where the radius would allow more."""
    answer = ask(taking_out("node-a"), Gate.BLAST_RADIUS, view=fleet(b=False), service=b.service(minimum=3))
    assert answer.sentence == "2 nodes would stay ready, the pools need 3"
    assert ask(taking_out("node-a"), Gate.BLAST_RADIUS, view=fleet(), service=b.service(minimum=3)).is_passed


def test_repairing_what_is_down_already_is_no_harm() -> None:
    """A storm that took half the fleet must not keep us from bringing it back."""
    view = fleet(a=False, b=False, c=False)
    answer = ask(taking_out("node-a"), Gate.BLAST_RADIUS, view=view, service=b.service(minimum=3))
    assert answer.sentence == "the nodes it takes out are out already"


def test_which_nodes_serve_must_be_known() -> None:
    """A run that has acted still may not take out nodes nobody can count."""
    answer = ask(taking_out("node-a"), Gate.BLAST_RADIUS, view=None, has_acted=True)
    assert answer.sentence == "which nodes of chat serve is unknown, so none may be taken out"


def test_a_node_whose_state_is_unknown_may_well_be_serving() -> None:
    """Only what is known to be down is repaired freely; taking out the unknown counts."""
    view = fleet(a=False, b=b.unknown(), c=False)
    answer = ask(taking_out("node-a", "node-b"), Gate.BLAST_RADIUS, view=view)
    assert not answer.is_passed
    assert answer.numbers["newly_unavailable"] == 1
