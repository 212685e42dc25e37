"""The capacity plan: what asks for nodes, where they go, when they may leave, and what unknown data may not do."""

import dataclasses
from typing import Any

import pytest

from controlplane.capacity import node_capacity, planner
from controlplane.domain import forecasts, services, windows
from controlplane.domain import signals as sig
from tests.support import builders as b
from tests.support import capacities as c
from tests.support.clock import START

MAPPED_NOWHERE = b.unknown(sig.UnknownReason.NOT_IN_PROFILE)
NOT_LEARNED = node_capacity.NoEstimate(node_capacity.NoEstimateReason.TOO_FEW_SAMPLES, "3")


def test_arrivals_with_headroom_ask_for_nodes_and_the_sentence_shows_the_arithmetic() -> None:
    """45 requests/s with 30 % headroom at 11.8 a node are five nodes, and an operator can check that by hand."""
    plan = c.Planner().known(c.seen(45.0, hot=3, node_rps=c.carries(11.8)))
    assert plan.sentence == (
        "needs 5 nodes: 45.0 requests/s with 30 % headroom at 11.8 a node (arrivals); 3 are there, 3 ready; "
        "grows hot to 5"
    )
    assert (plan.present, plan.ready, plan.desired, plan.reactive, plan.unmet) == (3, 3, 5, 5, 0)
    assert c.need(plan, "arrivals").numbers == {
        "demand_rps": 45.0,
        "refused_rps": 0.0,
        "headroom_ratio": 0.3,
        "node_rps": 11.8,
    }
    assert (plan.demand_rps, plan.node_rps) == (45.0, 11.8)


def test_refused_requests_are_demand() -> None:
    """Where arrivals do not contain them: what a full service turns away is what it lacks nodes for."""
    plan = c.Planner().known(c.seen(20.0, rejected=b.value(12.0)))
    assert plan.desired == 5  # 32 x 1.3 / 10
    assert "32.0 requests/s (12.0 of them refused)" in plan.sentence


def test_a_rate_below_zero_counts_as_none() -> None:
    """Completions plus queue growth dips below zero when a queue empties."""
    plan = c.Planner().known(c.seen(-3.0))
    assert (plan.demand_rps, plan.reactive) == (0.0, 2)


def test_exact_fits_are_not_rounded_up() -> None:
    """30 requests/s with 30 % headroom at 13 a node are three nodes, whatever floats say."""
    assert c.Planner().known(c.seen(30.0, node_rps=c.carries(13.0))).desired == 3


def test_the_minimum_is_kept_without_any_load() -> None:
    """A pool with fewer nodes than its minimum grows to it, even before anything can be read."""
    plan = c.Planner().known(c.seen(b.unknown(), waiting=b.unknown(), hot=0, node_rps=NOT_LEARNED))
    assert (plan.desired, plan.demand_rps, plan.node_rps) == (2, 0.0, 0.0)
    assert (
        plan.sentence == "needs 2 nodes: the pools keep hot 2, cold 0 (minimum); 0 are there, 0 ready; grows hot to 2"
    )


def test_each_pool_gets_its_minimum_although_others_have_nodes_to_spare() -> None:
    plan = c.Planner().known(c.seen(0.0, hot=1, cold=4))
    assert (c.pools(plan), plan.reactive) == ({"hot": 2, "cold": 4}, 6)


def test_a_minimum_that_its_pool_cannot_place_is_kept_by_the_next_or_unmet() -> None:
    """And once the next pool has taken it over, that is enough."""
    planner_ = c.Planner()
    assert c.pools(planner_.known(c.seen(0.0, hot=0, placeable={"hot": 1}))) == {"hot": 1, "cold": 1}
    assert planner_.calm(c.seen(0.0, hot=1, cold=1, placeable={"hot": 1}), 900.0).desired == 2
    plan = c.Planner().known(c.seen(0.0, hot=0, placeable={"hot": 1, "cold": 0}))
    assert (plan.desired, plan.unmet) == (1, 1)


class TestFilling:
    """Hot pools first, in the order of services.yaml, then cold ones; the last is emptied first."""

    def test_hot_pools_are_filled_before_cold_ones_wherever_they_stand(self) -> None:
        service = c.service(c.COLD, c.HOT)
        plan = c.Planner(service).known(c.seen(60.0))
        assert [(one.pool, one.desired) for one in plan.pools] == [("hot", 6), ("cold", 2)]

    def test_among_hot_pools_the_order_of_the_file_counts(self) -> None:
        first, second = services.Pool("near", "local", 1, 3), services.Pool("far", "local", 1, 9)
        standings = {name: c.standing(name, 1) for name in ("near", "far")}
        look = c.seen(35.0, standings=standings, nodes=[b.node("near-1"), b.node("far-1")])
        assert c.pools(c.Planner(c.service(first, second)).known(look)) == {"near": 3, "far": 2}

    def test_what_cannot_be_placed_is_unmet_and_goes_to_the_next_pool(self) -> None:
        """A pool that cannot grow does not stop the one behind it."""
        plan = c.Planner().known(c.seen(150.0, placeable={"hot": 3, "cold": 2}))
        assert (c.pools(plan), plan.unmet) == ({"hot": 3, "cold": 2}, 15)
        assert plan.sentence.endswith(
            "grows hot to 3 and cold to 2; 15 more cannot be placed (hot at most 3, cold at most 2)"
        )

    def test_at_the_limit_nothing_grows_and_the_lack_is_said(self) -> None:
        plan = c.Planner().known(c.seen(100.0, hot=6, cold=4))
        assert (plan.desired, plan.unmet) == (10, 3)
        assert plan.sentence.endswith("3 more cannot be placed (hot at most 6, cold at most 4)")

    def test_the_last_pool_is_emptied_first(self) -> None:
        plan = c.Planner().calm(c.seen(0.0, hot=4, cold=2), 600.0)
        assert c.pools(plan) == {"hot": 4, "cold": 1}

    def test_nodes_are_not_moved_between_pools(self) -> None:
        """A cold node that carries what a hot one could carry is enough."""
        assert c.pools(c.Planner().known(c.seen(30.0, hot=2, cold=2))) == {"hot": 2, "cold": 2}

    def test_a_pool_past_a_lowered_maximum_does_not_grow_and_loses_what_is_not_needed(self) -> None:
        planner_ = c.Planner(c.service(services.Pool("hot", "local", 0, 3), c.COLD))
        assert c.pools(planner_.known(c.seen(50.0, hot=5))) == {"hot": 5, "cold": 2}
        assert c.pools(planner_.calm(c.seen(10.0, hot=5), 900.0)) == {"hot": 4, "cold": 0}


class TestQueue:
    """Requests that wait call cold nodes."""

    def test_waiting_requests_call_cold_nodes_beside_what_is_there(self) -> None:
        plan = c.Planner().known(c.seen(10.0, waiting=120.0))
        assert c.pools(plan) == {"hot": 2, "cold": 3}
        assert "120 requests wait, 50 for each cold node: 3 beside 2 others (queue)" in plan.sentence

    def test_they_come_on_top_of_what_carries_the_arrivals(self) -> None:
        assert c.pools(c.Planner().known(c.seen(30.0, waiting=60.0))) == {"hot": 4, "cold": 2}

    def test_a_queue_of_less_than_one_nodes_worth_calls_nobody(self) -> None:
        """A few requests always wait; a cold node for each of them would flap."""
        assert c.Planner().known(c.seen(10.0, waiting=49.0)).desired == 2

    def test_the_same_queue_is_not_counted_again_while_its_nodes_start(self) -> None:
        """However long they take: called nodes are absolute, and hot pools do not take over what is beyond."""
        planner_ = c.Planner()
        planner_.known(c.seen(10.0, waiting=300.0))
        started = [c.starting(name) for name in c.names("cold", 4)]
        for _ in range(20):
            plan = planner_.known(c.seen(10.0, waiting=300.0, cold=4, nodes=started), after=15.0)
            assert (c.pools(plan), plan.unmet) == ({"hot": 2, "cold": 4}, 2)

    def test_hot_nodes_that_start_are_no_reason_for_cold_ones_and_those_that_serve_are(self) -> None:
        """While three hot nodes start for a stage, the queue may be theirs; once they serve and it stands, it is not."""
        planner_ = c.Planner(c.service(stages=(services.Stage(10.0, 3, pool="hot"),)))
        assert c.pools(planner_.known(c.seen(11.0, waiting=60.0))) == {"hot": 5, "cold": 0}
        look = c.seen(11.0, waiting=60.0, hot=5, nodes=[c.starting(f"hot-{one}") for one in (3, 4, 5)])
        assert c.pools(planner_.known(look, after=15.0)) == {"hot": 5, "cold": 0}
        assert c.pools(planner_.known(c.seen(11.0, waiting=60.0, hot=5), after=15.0)) == {"hot": 5, "cold": 2}

    def test_the_next_cold_pool_takes_what_the_first_has_no_room_for(self) -> None:
        far = services.Pool("far", "local", 1, 4, queue_depth_per_node=100.0)
        standings = {
            "hot": c.standing("hot", 2),
            "cold": c.standing("cold", 0, placeable=1),
            "far": c.standing("far", 1),
        }
        nodes = [b.node(name) for one in standings.values() for name in one.nodes]
        plan = c.Planner(c.service(c.HOT, c.COLD, far)).known(
            c.seen(0.0, waiting=170.0, standings=standings, nodes=nodes)
        )
        assert c.pools(plan) == {"hot": 2, "cold": 1, "far": 3}

    def test_a_cold_node_that_is_out_takes_a_place_and_answers_no_queue(self) -> None:
        planner_, out = c.Planner(), [b.node("cold-1", up=False)]
        planner_.known(c.seen(10.0, cold=1))
        assert c.pools(planner_.known(c.seen(10.0, waiting=60.0, cold=1, nodes=out))) == {"hot": 2, "cold": 3}
        plan = planner_.known(c.seen(10.0, waiting=120.0, cold=1, nodes=out, placeable={"hot": 9, "cold": 2}))
        assert (c.pools(plan), plan.unmet) == ({"hot": 2, "cold": 2}, 2)

    def test_a_cold_pool_whose_minimum_is_out_has_no_room_either(self) -> None:
        planner_ = c.Planner(c.service(c.HOT, services.Pool("cold", "local", 1, 1, queue_depth_per_node=50.0)))
        planner_.known(c.seen(10.0, cold=1))
        plan = planner_.known(c.seen(10.0, waiting=60.0, cold=1, nodes=[b.node("cold-1", up=False)]))
        assert (c.pools(plan), plan.unmet) == ({"hot": 2, "cold": 1}, 2)

    def test_without_a_cold_pool_arrivals_alone_count(self) -> None:
        assert c.Planner(c.service(c.HOT)).known(c.seen(10.0, waiting=500.0)).desired == 2

    def test_a_deep_queue_grows_although_arrivals_are_unknown(self) -> None:
        """What is known for certain may grow; the plan says that it knows no demand."""
        plan = c.Planner().known(c.seen(b.unknown(), waiting=120.0))
        assert (c.pools(plan), plan.predicted) == ({"hot": 2, "cold": 3}, None)
        assert [one.name for one in plan.needs] == ["queue", "minimum"]


class TestStages:
    """Thresholds of arrivals at which more nodes are kept, released at 80 % of them."""

    RULES = (services.Stage(50.0, 2), services.Stage(80.0, 3, pool="cold"))

    def plans(self, *rates: float) -> list[dict[str, int]]:
        """The pools under rates one after the other, ten minutes apart, as if every plan came true at once."""
        planner_ = c.Planner(c.service(stages=self.RULES, shrink_after_seconds=0.0))
        wanted, found = {"hot": 2, "cold": 0}, list[dict[str, int]]()
        for rate in rates:
            for _ in range(6):
                look = c.seen(rate, hot=wanted["hot"], cold=wanted["cold"], node_rps=c.carries(1000.0))
                wanted = c.pools(planner_.known(look, after=100.0))
            found.append(wanted)
        return found

    def test_each_stage_adds_its_nodes_and_one_with_a_pool_adds_them_there(self) -> None:
        assert self.plans(40.0, 51.0, 81.0) == [{"hot": 2, "cold": 0}, {"hot": 4, "cold": 0}, {"hot": 4, "cold": 3}]

    def test_a_stage_is_released_only_clearly_below_its_threshold(self) -> None:
        assert self.plans(81.0, 64.0, 63.0, 40.0, 39.0) == [
            {"hot": 4, "cold": 3},
            {"hot": 4, "cold": 3},
            {"hot": 4, "cold": 0},
            {"hot": 4, "cold": 0},
            {"hot": 2, "cold": 0},
        ]

    def test_the_sentence_names_the_stages(self) -> None:
        plan = c.Planner(c.service(stages=self.RULES)).known(c.seen(90.0, node_rps=c.carries(1000.0)))
        assert c.need(plan, "stage").sentence == (
            "90.0 requests/s: above 50 and 80, 5 more than the minimum of 2 are kept, each stage until 80 % of its threshold"
        )

    def test_unknown_arrivals_neither_turn_stages_on_nor_off(self) -> None:
        planner_ = c.Planner(c.service(stages=self.RULES))
        planner_.known(c.seen(60.0))
        planner_.held(c.seen(b.unknown(), hot=4), after=15.0)
        assert planner_.memory.stages == {self.RULES[0]}
        assert c.need(planner_.known(c.seen(45.0, hot=4), after=15.0), "stage").nodes == 4

    def test_a_lower_bound_of_demand_releases_nothing(self) -> None:
        planner_ = c.Planner(c.service(stages=self.RULES))
        planner_.known(c.seen(60.0))
        assert c.need(planner_.known(c.seen(1.0, hot=4, rejected=b.unknown())), "stage").nodes == 4

    def test_a_stage_grows_although_nobody_knows_what_a_node_carries(self) -> None:
        plan = c.Planner(c.service(stages=self.RULES)).known(c.seen(60.0, node_rps=NOT_LEARNED))
        assert (plan.desired, plan.node_rps) == (4, 0.0)


class TestForecast:
    """Prediction adds, one cold start ahead, while its gate is open."""

    def test_the_highest_p90_within_one_cold_start_asks_for_nodes_before_the_load_is_there(self) -> None:
        plan = c.Planner().known(c.seen(10.0), ahead=c.forecast(10.0, 40.0, 20.0, 20.0, 90.0))
        assert (plan.reactive, plan.predicted, plan.desired, plan.is_predicted) == (2, 6, 6, True)
        assert plan.horizon_seconds == 900.0
        assert (
            "40.0 requests/s at 09:05 UTC (p90, the most within 15 min) with 30 % headroom at 10.0 a node"
            in plan.sentence
        )

    def test_a_measured_cold_start_sets_how_far_it_looks(self) -> None:
        ahead = c.forecast(10.0, 20.0, 90.0)
        assert c.Planner().known(c.seen(10.0, cold_start_seconds=400.0), ahead=ahead).predicted == 3
        assert c.Planner().known(c.seen(10.0, cold_start_seconds=600.0), ahead=ahead).predicted == 12

    def test_it_never_looks_less_far_than_one_step(self) -> None:
        plan = c.Planner().known(c.seen(10.0, cold_start_seconds=10.0), ahead=c.forecast(10.0, 40.0))
        assert (plan.horizon_seconds, plan.predicted) == (300.0, 6)

    def test_a_low_forecast_takes_nothing_away(self) -> None:
        plan = c.Planner().known(c.seen(40.0), ahead=c.forecast(1.0, 1.0))
        assert (plan.desired, plan.reactive, plan.predicted, plan.is_predicted) == (6, 6, 2, False)

    def test_behind_a_closed_gate_it_is_not_heard(self) -> None:
        plan = c.Planner().known(c.seen(10.0), ahead=c.forecast(90.0), gate=c.CLOSED)
        assert (plan.desired, plan.predicted, plan.gate) == (2, None, c.CLOSED)

    @pytest.mark.parametrize("ahead", [c.NO_FORECAST, c.forecast(90.0, start=0.0), c.forecast(float("nan"))])
    def test_one_that_says_nothing_of_the_time_ahead_asks_for_nothing(
        self, ahead: forecasts.Forecast | forecasts.NoForecast
    ) -> None:
        plan = c.Planner().known(c.seen(10.0), ahead=ahead)
        assert (plan.desired, plan.predicted) == (2, None)

    @pytest.mark.parametrize("look", [{"rps": b.unknown()}, {"rps": 10.0, "node_rps": NOT_LEARNED}])
    def test_with_nothing_to_compare_it_with_it_is_not_heard(self, look: dict[str, Any]) -> None:
        c.Planner().held(c.seen(**look), ahead=c.forecast(90.0))

    def test_nodes_that_it_needs_soon_after_do_not_go(self) -> None:
        """Shrinking now to grow again within a cold start and the time a shrink waits for would be in vain."""
        planner_, late = c.Planner(), START.timestamp() + 600.0
        look = c.seen(10.0, hot=4)
        plan = planner_.calm(look, 600.0, ahead=c.forecast(10.0, 10.0, 10.0, 10.0, 30.0, start=late))
        assert plan.desired == 4
        assert "none goes, since the forecast needs 4: 30.0 requests/s at 09:30 UTC" in plan.sentence
        plan = planner_.known(look, after=15.0, ahead=c.forecast(10.0, 10.0, 10.0, 10.0, 18.0, start=late))
        assert plan.desired == 3


class TestNodesThatDoNotServe:
    """Starting nodes are counted once, until they are given up; others that are out may be replaced."""

    def test_starting_nodes_are_supply(self) -> None:
        planner_ = c.Planner()
        planner_.known(c.seen(45.0, hot=3))
        look = c.seen(45.0, hot=6, nodes=[c.starting(name) for name in ("hot-4", "hot-5", "hot-6")])
        plan = planner_.known(look, after=15.0)
        assert (plan.desired, plan.ready) == (6, 3)
        assert "6 are there, 3 ready, 3 starting" in plan.sentence

    def test_one_that_prometheus_does_not_know_yet_is_starting_too(self) -> None:
        look = c.seen(30.0, hot=4)
        nodes = {name: node for name, node in look.nodes.items() if name != "hot-4"}
        plan = c.Planner().known(dataclasses.replace(look, nodes=nodes))
        assert (plan.desired, plan.ready) == (4, 3)

    def test_one_that_takes_too_long_is_given_up_and_replaced(self) -> None:
        planner_ = c.Planner()
        look = c.seen(30.0, hot=4, nodes=[c.starting("hot-4")])
        assert planner_.known(look).desired == 4
        assert planner_.known(look, after=1799.0).desired == 4
        plan = planner_.known(look, after=1.0)
        assert (plan.desired, plan.reactive) == (5, 5)
        assert "4 are there, 3 ready, 1 given up after 30 min (hot-4); grows hot to 5" in plan.sentence

    def test_one_that_serves_after_all_counts_again(self) -> None:
        planner_ = c.Planner()
        look = c.seen(30.0, hot=4, nodes=[c.starting("hot-4")])
        planner_.known(look)
        planner_.known(look, after=1800.0)
        assert planner_.known(c.seen(30.0, hot=4), after=15.0).desired == 4

    @pytest.mark.parametrize("out", [b.node("hot-2", up=False), b.node("hot-2", in_service=0.0)])
    def test_one_that_served_and_is_out_is_replaced_where_it_is_needed(self, out: windows.NodeView) -> None:
        planner_ = c.Planner()
        planner_.known(c.seen(15.0))
        plan = planner_.known(c.seen(15.0, nodes=[out]), after=15.0)
        assert (plan.desired, plan.reactive) == (3, 3)
        assert "2 are there, 1 ready, 1 out of service; grows hot to 3" in plan.sentence

    def test_one_that_is_out_is_not_replaced_where_the_others_carry_the_load(self) -> None:
        """It is there, so the minimum is kept; whoever repairs it brings it back."""
        planner_ = c.Planner()
        planner_.known(c.seen(5.0))
        assert planner_.known(c.seen(5.0, nodes=[b.node("hot-2", up=False)]), after=15.0).desired == 2

    def test_one_that_nobody_can_see_is_not_replaced(self) -> None:
        planner_ = c.Planner()
        planner_.known(c.seen(15.0))
        plan = planner_.known(c.seen(15.0, nodes=[b.node("hot-2", up=b.unknown())]), after=7200.0)
        assert plan.desired == 2
        assert "1 ready, 1 not seen" in plan.sentence

    def test_one_that_was_stopped_and_started_anew_is_starting(self) -> None:
        """What a node of that name did before says nothing of this one."""
        planner_ = c.Planner()
        planner_.known(c.seen(25.0, hot=4))
        planner_.known(c.seen(25.0, hot=3), after=15.0)
        assert planner_.known(c.seen(25.0, hot=4, nodes=[c.starting("hot-4")]), after=15.0).desired == 4

    def test_while_an_actuator_is_silent_nothing_of_its_pool_is_forgotten(self) -> None:
        planner_ = c.Planner()
        look = c.seen(30.0, hot=2, cold=2, nodes=[c.starting("cold-2")])
        planner_.known(look)
        planner_.known(c.seen(5.0, standings={"hot": c.standing("hot", 2)}), after=900.0)
        assert "1 given up" in planner_.known(look, after=900.0).sentence

    def test_nodes_that_serve_outside_the_pools_carry_their_share(self) -> None:
        plan = c.Planner().known(c.seen(45.0, nodes=[b.node("rented-1"), b.node("rented-2"), b.node("lost", up=False)]))
        assert (plan.desired, plan.present) == (4, 2)
        assert "needs 6 nodes" in plan.sentence
        assert "2 are there, 2 ready, 2 more serve outside the pools; grows hot to 4" in plan.sentence


class TestShrinking:
    """Late, one step at a time, and only to what was enough all the time."""

    def test_a_node_goes_after_it_was_not_needed_for_long_enough(self) -> None:
        planner_ = c.Planner()
        look = c.seen(10.0, hot=4)
        assert planner_.known(look).sentence.endswith("fewer would be enough; one goes in 10 min if that lasts")
        assert planner_.calm(look, 585.0).desired == 4
        plan = planner_.known(look, after=15.0)
        assert (plan.desired, plan.unmet) == (3, 0)
        assert plan.sentence.endswith("4 are there, 4 ready; 1 node can go: 3 were enough for 10 min")

    def test_what_stays_was_enough_for_the_whole_time(self) -> None:
        """A moment of little load after ten minutes of some load gives away one node, not all."""
        planner_ = c.Planner()
        planner_.calm(c.seen(25.0, hot=6), 600.0)  # needs 4
        assert planner_.known(c.seen(0.0, hot=6), after=15.0).desired == 5
        assert planner_.known(c.seen(0.0, hot=5), after=15.0).desired == 4
        plan = planner_.known(c.seen(0.0, hot=4), after=15.0)
        assert plan.desired == 4
        assert plan.sentence.endswith("one goes in 9 min 15 s if that lasts")

    def test_one_moment_of_need_starts_the_time_anew(self) -> None:
        planner_ = c.Planner()
        planner_.calm(c.seen(10.0, hot=4), 585.0)
        assert planner_.known(c.seen(28.0, hot=4), after=15.0).desired == 4
        assert planner_.calm(c.seen(10.0, hot=4), 585.0).desired == 4
        assert planner_.known(c.seen(10.0, hot=4), after=15.0).desired == 3

    def test_a_time_in_which_nobody_looked_does_not_count(self) -> None:
        planner_ = c.Planner()
        planner_.known(c.seen(10.0, hot=4))
        assert planner_.known(c.seen(10.0, hot=4), after=3600.0).desired == 4

    def test_of_a_large_fleet_a_tenth_goes_at_once(self) -> None:
        service = c.service(services.Pool("hot", "local", 2, 100))
        assert c.Planner(service).calm(c.seen(10.0, hot=50), 600.0).desired == 45

    def test_a_step_leaves_what_is_needed(self) -> None:
        service = c.service(services.Pool("hot", "local", 2, 100))
        plan = c.Planner(service).calm(c.seen(365.0, hot=50), 600.0)  # needs 48
        assert plan.desired == 48
        assert plan.sentence.endswith("2 nodes can go: 48 were enough for 10 min")

    def test_the_minimum_stays(self) -> None:
        plan = c.Planner().calm(c.seen(0.0), 900.0)
        assert plan.desired == 2
        assert plan.sentence.endswith("2 are there, 2 ready")

    def test_only_nodes_known_to_serve_are_counted_on_to_stay(self) -> None:
        """With one unseen and one starting, the two that serve are exactly what is needed."""
        planner_ = c.Planner()
        planner_.known(c.seen(15.0, hot=3))
        look = c.seen(15.0, hot=4, nodes=[b.node("hot-3", up=b.unknown()), c.starting("hot-4")])
        plan = planner_.calm(look, 900.0)
        assert plan.desired == 4
        assert plan.sentence.endswith("4 are there, 2 ready, 1 starting, 1 not seen")

    def test_a_larger_step_leaves_what_was_needed_and_what_the_forecast_needs(self) -> None:
        """Of fifty nodes five could go, but 47 were needed within the last minutes, and 48 will be."""
        planner_ = c.Planner(c.service(services.Pool("hot", "local", 2, 100)))
        for rate in (10.0, 361.0):
            planner_.calm(c.seen(rate, hot=50), 150.0)
        assert planner_.calm(c.seen(10.0, hot=50), 300.0).desired == 47
        planner_.calm(c.seen(10.0, hot=50), 600.0)
        ahead = c.forecast(10.0, 10.0, 10.0, 10.0, 369.0, start=planner_.clock.now().timestamp())
        assert planner_.known(c.seen(10.0, hot=50), ahead=ahead).desired == 48

    def test_what_the_forecast_called_for_counts_as_needed_of_late(self) -> None:
        """A gate that closes takes no nodes away at once."""
        planner_, look = c.Planner(), c.seen(10.0, hot=4)
        planner_.calm(look, 600.0, ahead=c.forecast(*[30.0] * 9))
        assert planner_.calm(look, 585.0, gate=c.CLOSED).desired == 4
        assert planner_.known(look, after=15.0, gate=c.CLOSED).desired == 3

    def test_a_node_that_is_out_does_not_stand_in_for_what_a_stage_keeps(self) -> None:
        planner_ = c.Planner(c.service(stages=(services.Stage(5.0, 1, pool="cold"),)))
        planner_.known(c.seen(10.0, hot=4, cold=2))
        look = c.seen(10.0, hot=4, cold=2, nodes=[b.node("cold-1", up=False)])
        assert c.pools(planner_.calm(look, 600.0)) == {"hot": 3, "cold": 2}

    def test_what_a_stage_keeps_in_a_pool_is_not_taken_from_there(self) -> None:
        service = c.service(stages=(services.Stage(5.0, 1, pool="cold"),))
        assert c.pools(c.Planner(service).calm(c.seen(10.0, hot=4, cold=1), 600.0)) == {"hot": 3, "cold": 1}


class TestUnknown:
    """Unknown holds: it never shrinks, and it grows nothing that is not known to be needed."""

    def test_unknown_arrivals_give_no_plan_and_the_reason(self) -> None:
        held = c.Planner().held(c.seen(b.unknown(), hot=3))
        assert held.sentence == "arrivals are unknown: last scrape is too old; 3 are there, 3 ready"

    def test_not_knowing_what_a_node_carries_gives_no_plan_and_the_way_out(self) -> None:
        held = c.Planner().held(c.seen(10.0, node_rps=NOT_LEARNED))
        assert held.sentence == (
            "what a node carries is not known: too few samples (3); state capacity.requests_per_second_per_node, or "
            "wait for load; 2 are there, 2 ready"
        )

    def test_without_any_pool_that_can_grow_there_is_no_plan(self) -> None:
        planner_ = c.Planner()
        assert "no actuator says what the pools of chat have" in planner_.held(c.seen(10.0, standings={})).sentence

    @pytest.mark.parametrize("fields", [{"waiting": b.unknown()}, {"rejected": b.unknown()}])
    def test_a_load_that_is_partly_known_may_grow_and_never_shrinks(self, fields: dict[str, Any]) -> None:
        planner_ = c.Planner()
        assert planner_.known(c.seen(30.0, **fields)).desired == 4
        plan = planner_.calm(c.seen(10.0, hot=4, **fields), 900.0)
        assert plan.desired == 4
        assert "nothing goes while the requests that" in plan.sentence

    def test_a_moment_in_which_the_load_is_partly_known_starts_the_time_anew(self) -> None:
        planner_, look = c.Planner(), c.seen(10.0, hot=4)
        planner_.calm(look, 585.0)
        planner_.known(c.seen(10.0, hot=4, waiting=b.unknown()), after=15.0)
        assert planner_.calm(look, 585.0).desired == 4

    def test_while_no_actuator_answers_nothing_is_forgotten(self) -> None:
        planner_ = c.Planner(c.service(stages=(services.Stage(50.0, 2),)))
        planner_.known(c.seen(60.0, hot=4))
        before = planner_.memory
        planner_.held(c.seen(1.0, standings={}), after=15.0)
        assert (planner_.memory.nodes, planner_.memory.stages) == (before.nodes, before.stages)

    def test_of_two_gaps_the_first_is_named(self) -> None:
        plan = c.Planner().known(c.seen(10.0, hot=4, waiting=b.unknown(), rejected=b.unknown()))
        assert plan.sentence.endswith(
            "nothing goes while the requests that are refused are unknown: last scrape is too old"
        )
        assert "at least 10.0 requests/s" in plan.sentence

    def test_an_engine_that_counts_no_queue_is_not_unknown_for_ever(self) -> None:
        assert c.Planner().calm(c.seen(10.0, hot=4, waiting=MAPPED_NOWHERE), 600.0).desired == 3

    def test_a_moment_of_unknown_starts_the_time_of_a_shrink_anew(self) -> None:
        planner_ = c.Planner()
        planner_.calm(c.seen(10.0, hot=4), 585.0)
        planner_.held(c.seen(b.unknown(), hot=4), after=15.0)
        assert planner_.calm(c.seen(10.0, hot=4), 585.0).desired == 4


class TestLook:
    """What is taken from a service's view."""

    def view(self, **signals: float | sig.Reading) -> windows.ServiceView:
        return windows.ServiceView("chat", b.readings(signals), {"hot-1": b.node("hot-1")})

    def test_arrivals_and_all_that_waits_are_read(self) -> None:
        seen = planner.look(self.view(request_rate=40.0, gateway_queue_depth=7.0, queue_depth=5.0), {}, c.carries())
        assert (seen.arrivals, seen.waiting, seen.rejected) == (b.value(40.0), b.value(12.0), None)
        assert list(seen.nodes) == ["hot-1"]

    def test_a_queue_that_is_not_mapped_is_left_out(self) -> None:
        seen = planner.look(self.view(queue_depth=5.0, gateway_queue_depth=MAPPED_NOWHERE), {}, c.carries())
        assert seen.waiting == b.value(5.0)
        assert planner.look(self.view(), {}, c.carries()).waiting == MAPPED_NOWHERE

    def test_half_a_queue_is_unknown(self) -> None:
        seen = planner.look(self.view(queue_depth=5.0, gateway_queue_depth=b.unknown()), {}, c.carries())
        assert seen.waiting == b.unknown()

    def test_refused_requests_are_added_where_arrivals_lack_them(self) -> None:
        view = self.view(request_rate=40.0, rejected_rate=3.0)
        assert planner.look(view, {}, c.carries(), adds_rejected=True).rejected == b.value(3.0)
        assert planner.look(self.view(), {}, c.carries(), adds_rejected=True).rejected is None

    def test_without_a_view_everything_is_unknown(self) -> None:
        seen = planner.look(None, {}, c.carries(), adds_rejected=True, cold_start_seconds=40.0)
        gone = sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE)
        assert (seen.arrivals, seen.waiting, seen.rejected, seen.nodes) == (gone, gone, gone, {})
        assert seen.cold_start_seconds == 40.0
