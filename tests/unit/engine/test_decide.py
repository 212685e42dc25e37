"""Decide: the first policy that matches, the request it stands for, or the reason why none is made."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane import expressions
from controlplane.domain import incidents, lanes, outcomes, plans, policies
from controlplane.domain import signals as sig
from controlplane.engine import decide, facts
from tests.support import builders as b
from tests.support.clock import START

Reason = outcomes.HoldReason


def situation(incident: incidents.Incident | None = None, **fields: Any) -> decide.Situation:
    found = incident or b.incident()
    view = fields.pop("view", b.view())
    variables = decide.variables(
        found,
        expressions.service_variables(b.service()),
        facts.readers(view, found.key.service, found.key.node, START),
        age_seconds=30.0,
        planned=fields.pop("planned", None),
    )
    return decide.Situation(found, variables, **fields)


def match(here: decide.Situation, *offered: policies.Policy) -> policies.Policy | outcomes.Hold:
    return decide.match(here, offered, expressions.Conditions())


def held(answer: object, reason: outcomes.HoldReason) -> str:
    assert isinstance(answer, outcomes.Hold)
    assert answer.reason is reason
    return answer.sentence


def test_the_first_policy_that_matches_decides() -> None:
    """Order is the order of the files; services a policy does not name are left alone."""
    elsewhere = b.policy("elsewhere", services=("search",), when="true")
    never = b.policy("never", when="false")
    first, second = b.policy("first"), b.policy("second")
    assert match(situation(), elsewhere, never, first, second) is first


def test_a_condition_sees_the_whole_incident() -> None:
    """Every documented variable is there."""
    when = (
        'finding.kind == "cache" && finding.target == "chat/node-a" && finding.node == "node-a"'
        ' && finding.service == "chat" && finding.severity == "critical" && finding.score > 0.5'
        ' && finding.source == "alert:CacheWrongAnswers" && finding.observed > 0.3 && size(finding.labels) == 0'
        ' && incident.id == "inc_1" && incident.age > 29.0 && incident.attempts == 0 && incident.severity == "critical"'
        ' && service.name == "chat" && service.min_ready == 0 && ready_nodes() == 2'
        ' && signal("latency_p99") < 1 && now() > timestamp("2026-01-01T00:00:00Z")'
    )
    policy = b.policy(when=when)
    assert match(situation(), policy) is policy


def test_a_run_of_another_lane_is_no_obstacle() -> None:
    """Degrading a service does not wait for the nodes that are on their way, and adding nodes not for the ladder."""
    growing = b.run(plan=b.plan(lane=lanes.Lane.CAPACITY))
    mine = b.policy(lane=lanes.Lane.DEGRADATION)
    assert match(situation(unfinished=(growing,)), mine) is mine
    held(match(situation(unfinished=(growing,)), b.policy(lane=lanes.Lane.CAPACITY)), Reason.RUN_IN_FLIGHT)


def test_a_capacity_plan_fills_the_inputs_and_shows_in_the_advice() -> None:
    """What policies know of it: how many nodes there should be; a person gets the whole command."""
    planned = b.capacity_plan(desired=5)
    here = situation(planned=planned)
    policy = b.policy(
        when="plan.desired_replicas > plan.present_replicas", inputs={"replicas": "${plan.desired_replicas}"}
    )
    assert match(here, policy) is policy
    request = decide.propose(here, policy, true_for_seconds=0.0)
    assert isinstance(request, plans.PlanRequest)
    assert request.inputs == {"replicas": 5}
    advice = decide.propose(here, replace(policy, mode=policies.Mode.SUGGEST), true_for_seconds=0.0)
    assert held(advice, Reason.OBSERVING).endswith("--input replicas=5`")


def test_no_policy_is_a_sentence_for_a_person() -> None:
    """Nobody answers: somebody has to look."""
    said = held(match(situation(), b.policy(when="false")), Reason.NO_POLICY)
    assert said == "held: no policy answers cache on chat/node-a; a person has to look"


def test_a_condition_that_cannot_be_told_holds_and_stops_the_search() -> None:
    """Unknown is not false: the stronger policy behind it does not get its turn."""
    careful = b.policy("careful", when='signal("kv_cache_usage") < 0.5')
    said = held(match(situation(), careful, b.policy("stronger", when="true")), Reason.NOT_A_BOOL)
    assert said.startswith("held: the condition of policy careful is neither true nor false")
    assert "signal 'kv_cache_usage' is unknown" in said


def test_an_unknown_reading_a_condition_does_not_ask_for_is_no_obstacle() -> None:
    """`&&` stops at what is false already."""
    other = b.policy("other", when='finding.kind == "surge" && signal("gone") > 1.0')
    mine = b.policy()
    assert match(situation(), other, mine) is mine


def test_an_escalated_incident_is_a_persons() -> None:
    """Nothing is proposed any more."""
    handed = b.incident(state=incidents.IncidentState.ESCALATED, sentence="escalated: it got worse")
    assert held(match(situation(handed), b.policy()), Reason.ESCALATED).endswith("escalated: it got worse")


def test_a_run_in_flight_on_the_target_holds() -> None:
    """One thing at a time."""
    said = held(match(situation(unfinished=(b.run(),)), b.policy()), Reason.RUN_IN_FLIGHT)
    assert said == "held: run run_1 (flush-cache on chat/node-a) is running"


def test_a_request_carries_everything_the_guard_and_the_run_need() -> None:
    """Policy, incident, limits, inputs, and a key that makes one attempt one run."""
    policy = b.policy(inputs={"node": "${finding.node}", "tier": "l1", "n": "${incident.attempts + 1}"})
    answer = decide.propose(situation(b.incident(attempts=1)), policy, true_for_seconds=0.0)
    assert answer == plans.PlanRequest(
        runbook="flush-cache",
        service="chat",
        node="node-a",
        requested_by="policy:cache-poisoned",
        reason="cache_wrong_ratio is 0.4",
        inputs={"node": "node-a", "tier": "l1", "n": 2},
        incident_id="inc_1",
        policy="cache-poisoned",
        mode=policies.Mode.AUTO,
        limits=policy.guard,
        dedup_key="cache-poisoned:inc_1:1",
    )


def test_a_policy_waits_until_its_condition_has_held() -> None:
    """The sentence says how long it has, and how long it needs."""
    policy = b.policy(hold_seconds=60.0)
    said = held(decide.propose(situation(), policy, true_for_seconds=59.0), Reason.HOLDING)
    assert said == "held: policy cache-poisoned has matched for 59 s and asks for 1 min"
    assert isinstance(decide.propose(situation(), policy, true_for_seconds=60.0), plans.PlanRequest)


def test_observing_says_what_it_would_do() -> None:
    """Observe never proposes a command."""
    answer = decide.propose(situation(), b.policy(mode=policies.Mode.OBSERVE), true_for_seconds=0.0)
    said = held(answer, Reason.OBSERVING)
    assert said == ("observing: policy cache-poisoned would run flush-cache on chat/node-a: cache_wrong_ratio is 0.4")


def test_suggestions_come_with_the_command() -> None:
    """A person can paste it; a hostile node name stays one word."""
    incident = b.incident(finding=b.finding(node="node-a; rm -rf ~"))
    advice = decide.propose(situation(incident), b.policy(mode=policies.Mode.SUGGEST), true_for_seconds=0.0)
    said = held(advice, Reason.OBSERVING)
    assert said.startswith("suggested: policy cache-poisoned would run flush-cache")
    assert said.endswith("run `dsctl remediate flush-cache --node 'node-a; rm -rf ~'`")


def test_a_policy_in_mode_approve_asks_for_the_run_and_for_people() -> None:
    """The request says how many have to agree and until when; in mode auto it asks nobody."""
    rule = policies.ApprovalRule(quorum=2, expires_seconds=600.0)
    policy = b.policy(mode=policies.Mode.APPROVE, approval=rule)
    asked = decide.propose(situation(), policy, true_for_seconds=0.0)
    assert isinstance(asked, plans.PlanRequest)
    assert (asked.mode, asked.approval, asked.dedup_key) == (policies.Mode.APPROVE, rule, "cache-poisoned:inc_1:0")
    freely = decide.propose(situation(), replace(policy, mode=policies.Mode.AUTO), true_for_seconds=0.0)
    assert isinstance(freely, plans.PlanRequest)
    assert freely.approval is None


def test_a_service_wide_suggestion_names_the_service() -> None:
    """Without a node the command is for the service."""
    incident = b.incident(finding=b.finding(node="", observed=None))
    answer = decide.propose(situation(incident), b.policy(mode=policies.Mode.SUGGEST), true_for_seconds=0.0)
    assert held(answer, Reason.OBSERVING).endswith(
        "the cache gives wrong answers; run `dsctl remediate flush-cache --service chat`"
    )


def test_spent_attempts_are_said_with_their_number() -> None:
    """The budget is the policy's."""
    policy = b.policy(guard=policies.GuardLimits(max_attempts=2))
    answer = decide.propose(situation(b.incident(attempts=2)), policy, true_for_seconds=0.0)
    assert held(answer, Reason.ATTEMPTS_SPENT) == (
        "flush-cache was tried 2 times on chat/node-a and the trouble is still reported; policy cache-poisoned allows 2"
    )


def test_inputs_that_cannot_be_resolved_make_no_request() -> None:
    """A capacity plan that does not exist is not zero replicas."""
    policy = b.policy(inputs={"replicas": "${plan.desired_replicas}"})
    said = held(decide.propose(situation(), policy, true_for_seconds=0.0), Reason.INVALID_PLAN)
    assert "plan is unknown" in said


def test_trouble_is_told_with_its_numbers() -> None:
    """Observed and expected in one clause; without numbers the summary, without that the source."""
    numbers = b.incident(finding=b.finding(observed=0.41234, expected=0.01))
    answer = decide.propose(situation(numbers), b.policy(), true_for_seconds=0.0)
    assert isinstance(answer, plans.PlanRequest)
    assert answer.reason == "cache_wrong_ratio is 0.4123 (expected 0.01)"
    bare = b.incident(finding=b.finding(observed=None, summary=""))
    answer = decide.propose(situation(bare), b.policy(), true_for_seconds=0.0)
    assert isinstance(answer, plans.PlanRequest)
    assert answer.reason == "cache reported by alert:CacheWrongAnswers"


def test_signal_reads_the_node_first_then_the_service() -> None:
    """A service-wide signal is known to a node's incident too; a missing node or service is unknown."""
    view = b.view(b.node(queue_depth=7.0), signals={"queue_depth": 70.0, "gateway_load_ratio": 0.5})
    of_node = facts.readers(view, "chat", "node-a", START)["signal"]
    of_service = facts.readers(view, "chat", "", START)["signal"]
    gone = facts.readers(view, "chat", "node-z", START)["signal"]
    assert callable(of_node)
    assert callable(of_service)
    assert callable(gone)
    assert (of_node("queue_depth"), of_service("queue_depth")) == (b.value(7.0), b.value(70.0))
    assert of_node("gateway_load_ratio") == b.value(0.5)
    assert isinstance(gone("queue_depth"), sig.Unknown)
    assert isinstance(of_node("nonsense"), sig.Unknown)


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (None, "not in the fleet view"),
        (b.view(service="search"), "not in the fleet view"),
        (b.view(b.node(), b.node("node-b", up=b.unknown())), "node-b: last scrape is too old"),
    ],
)
def test_nodes_are_counted_only_when_all_are_known(view: Any, reason: str) -> None:
    """Neither none nor some: unknown."""
    said = held(match(situation(view=view), b.policy(when="ready_nodes() >= 0")), Reason.NOT_A_BOOL)
    assert reason in said
