"""The capacity planner over any course of load, readings and nodes: within its bounds, never on unknown, never in haste.

Each rule of the planner is checked against a count of its own, not against the planner's arithmetic.
"""

import math
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.capacity import needs, planner
from controlplane.domain import capacity, forecasts, services, windows
from controlplane.domain import signals as sig
from tests.support import builders as b
from tests.support import capacities as c

# Each example is a long course of looks: half as many say as much as of the short examples elsewhere.
courses = settings(max_examples=max(1, settings.default.max_examples // 2) if settings.default else 25)
HEADROOM, NODE_RPS, WINDOW, GIVE_UP = 0.3, 10.0, 60.0, 300.0
POOLS = st.tuples(
    st.builds(services.Pool, st.just("hot"), st.just("local"), st.integers(0, 3), st.integers(3, 12)),
    st.builds(
        services.Pool,
        st.just("cold"),
        st.just("local"),
        st.integers(0, 1),
        st.integers(1, 5),
        st.floats(5, 60),
    ),
)
STAGES = st.lists(
    st.builds(services.Stage, st.floats(10, 150), st.integers(1, 4), st.sampled_from(["", "hot", "cold"])), max_size=2
)
RULES = st.builds(
    services.CapacityRules,
    headroom_ratio=st.just(HEADROOM),
    stages=STAGES.map(tuple),
    shrink_after_seconds=st.just(WINDOW),
    give_up_seconds=st.just(GIVE_UP),
)
SERVICES = st.builds(lambda pools, rules: b.service(pools=pools, capacity=rules), POOLS, RULES)
# Mostly calm, so that nodes are there that are not needed.
RATES = st.one_of(st.floats(0, 20), st.floats(0, 20), st.floats(0, 200), st.none()).map(
    lambda rate: b.unknown() if rate is None else b.value(rate)
)
WAITING = st.one_of(st.just(0.0), st.just(0.0), st.floats(0, 400), st.none()).map(
    lambda waiting: b.unknown() if waiting is None else b.value(waiting)
)
NODE_STATES = st.sampled_from(["ready", "ready", "down", "ejected", "unknown", "unseen"])


@dataclass(frozen=True)
class Moment:
    """What a look meets: the load, the forecast, and what became of the nodes since the last one."""

    arrivals: sig.Reading
    waiting: sig.Reading
    p90: float | None
    states: tuple[str, ...]
    placeable: tuple[int, int]
    seconds: float
    obeys: bool  # whether what was planned before came true


MOMENTS = st.builds(
    Moment,
    arrivals=RATES,
    waiting=WAITING,
    p90=st.one_of(st.none(), st.none(), st.floats(0, 200)),
    states=st.one_of(st.just(()), st.lists(NODE_STATES, max_size=6).map(tuple)),
    placeable=st.one_of(st.just((12, 5)), st.tuples(st.integers(0, 12), st.integers(0, 5))),
    seconds=st.sampled_from([15.0, 15.0, 15.0, 1.0, 29.0, 400.0]),
    obeys=st.sampled_from([True, True, False]),
)
# Each moment lasts for some looks.
COURSES = st.lists(st.tuples(MOMENTS, st.integers(1, 8)), min_size=1, max_size=6).map(
    lambda stretches: [moment for moment, looks in stretches for _ in range(looks)]
)


@dataclass(frozen=True)
class Step:
    """One look and its answer, with what was remembered before it."""

    moment: Moment
    seen: planner.Seen
    before: planner.Memory
    plan: capacity.CapacityPlan | capacity.NoPlan
    at: float

    @property
    def ready(self) -> int:
        """The nodes that serve, counted afresh."""
        started = {name for one in self.seen.standings.values() for name in one.nodes}
        return sum(node.is_serving for name, node in self.seen.nodes.items() if name in started)

    @property
    def present(self) -> int:
        return sum(len(one.nodes) for one in self.seen.standings.values())


def node(name: str, state: str) -> windows.NodeView:
    up: bool | sig.Unknown = {"down": False, "unknown": b.unknown()}.get(state, True)
    return b.node(name, up=up, in_service=0.0 if state == "ejected" else 1.0)


def forecast_of(moment: Moment) -> forecasts.Forecast | forecasts.NoForecast:
    return c.NO_FORECAST if moment.p90 is None else c.forecast(*[moment.p90] * 50, step_seconds=3600.0)


def play(service: services.Service, course: list[Moment]) -> list[Step]:
    """Look at every moment of a course; pools follow the plan where the moment obeys, at once and in order of names."""
    clock, memory, steps = c.FakeClock(), planner.Memory(), list[Step]()
    sizes = {one.name: 0 for one in service.pools}
    for moment in course:
        clock.move(moment.seconds)
        most = dict(zip(sizes, moment.placeable, strict=True))
        standings = {name: c.standing(name, size, max(size, most[name])) for name, size in sizes.items()}
        started = [name for one in standings.values() for name in one.nodes]
        states = [*moment.states, *["ready"] * len(started)]
        nodes = [node(*one) for one in zip(started, states, strict=False) if one[1] != "unseen"]
        look = planner.Seen(
            moment.arrivals, moment.waiting, {one.node: one for one in nodes}, standings, c.carries(NODE_RPS)
        )
        before = memory
        plan, memory = planner.plan(service, look, forecast_of(moment), c.OPEN, before, clock.now(), clock.monotonic())
        steps.append(Step(moment, look, before, plan, clock.monotonic()))
        if moment.obeys and isinstance(plan, capacity.CapacityPlan):
            sizes = c.pools(plan)
    return steps


def plans(steps: list[Step]) -> list[tuple[Step, capacity.CapacityPlan]]:
    return [(step, step.plan) for step in steps if isinstance(step.plan, capacity.CapacityPlan)]


def again(service: services.Service, step: Step, ahead: forecasts.Forecast | forecasts.NoForecast) -> int:
    """What the same look would have led to with another forecast."""
    now = step.plan.at
    made, _ = planner.plan(service, step.seen, ahead, c.OPEN, step.before, now, step.at)
    return made.desired if isinstance(made, capacity.CapacityPlan) else step.present


@courses
@given(SERVICES, COURSES)
def test_every_pool_stays_within_what_it_may_have_and_what_can_be_placed(
    service: services.Service, course: list[Moment]
) -> None:
    """Never below its minimum, never grown past its maximum or what the actuator can place, whatever is needed."""
    for _, plan in plans(play(service, course)):
        assert plan.desired == sum(one.desired for one in plan.pools)
        for one in plan.pools:
            limit = min(one.maximum, one.placeable)
            assert min(one.minimum, limit) <= one.desired <= max(limit, one.present)


@courses
@given(SERVICES, COURSES)
def test_unknown_never_shrinks_and_never_grows_beyond_what_is_certain(
    service: services.Service, course: list[Moment]
) -> None:
    """With arrivals unknown only waiting requests or a minimum grow; with any load unknown nothing goes."""
    for step in play(service, course):
        is_unknown = isinstance(step.moment.arrivals, sig.Unknown)
        if not isinstance(step.plan, capacity.CapacityPlan):
            assert is_unknown
            continue
        if is_unknown or isinstance(step.moment.waiting, sig.Unknown):
            assert step.plan.desired >= step.plan.present
        if is_unknown:
            assert {need.name for need in step.plan.needs} <= {"queue", "minimum"}


@courses
@given(SERVICES, COURSES)
def test_growing_never_waits(service: services.Service, course: list[Moment]) -> None:
    """Whatever happened before: the nodes that are needed now are asked for now, or said to be unmet."""
    for step, plan in plans(play(service, course)):
        if isinstance(step.moment.arrivals, sig.Value):
            needed = math.ceil(step.moment.arrivals.value * (1 + HEADROOM) / NODE_RPS - 1e-6)
            assert plan.desired + plan.unmet >= needed
        assert plan.desired + plan.unmet >= max(plan.reactive, plan.predicted or 0)


@courses
@given(SERVICES, COURSES)
def test_prediction_only_adds(service: services.Service, course: list[Moment]) -> None:
    """No forecast, however low, leads to fewer nodes than none."""
    for step in play(service, course):
        wanted = step.plan.desired if isinstance(step.plan, capacity.CapacityPlan) else step.present
        assert wanted >= again(service, step, c.NO_FORECAST)


@courses
@given(SERVICES, COURSES)
def test_shrinking_leaves_what_was_needed_all_the_time(service: services.Service, course: list[Moment]) -> None:
    """What goes is a node or a tenth; the nodes known to serve would have carried each look of the last window without it.

    That window has no look at which the load was not known, and no stretch in which nobody looked.
    """
    steps = play(service, course)
    for step, plan in plans(steps):
        gone = plan.present - plan.desired
        if gone <= 0:
            continue
        assert gone <= max(1, plan.present // 10)
        recent = [one for one in steps if step.at - WINDOW < one.at <= step.at]
        assert steps[0].at <= step.at - WINDOW
        for one in recent:
            assert isinstance(one.moment.arrivals, sig.Value)
            load = max(one.moment.arrivals.value, one.moment.p90 or 0.0)
            assert step.ready - gone >= needs.nodes_for(load, NODE_RPS, HEADROOM)


LOADS = st.tuples(st.floats(0, 200), st.floats(0, 400), st.tuples(st.integers(0, 12), st.integers(0, 5)))


def look_at(load: tuple[float, float, tuple[int, int]], pools: dict[str, int], serving: dict[str, int]) -> planner.Seen:
    """The same load over pools of which the first `serving` nodes are ready and the rest are starting."""
    rps, waiting, placeable = load
    most = {name: max(size, limit) for (name, size), limit in zip(pools.items(), placeable, strict=True)}
    new = [c.starting(name) for pool, size in pools.items() for name in c.names(pool, size)[serving[pool] :]]
    return c.seen(rps, waiting=waiting, hot=pools["hot"], cold=pools["cold"], placeable=most, nodes=new)


@given(SERVICES, LOADS, st.integers(1, 30))
def test_nodes_that_start_are_never_asked_for_twice(
    service: services.Service, load: tuple[float, float, tuple[int, int]], looks: int
) -> None:
    """A load that stays while its nodes start, none of them ready yet, leads to one plan and no second one."""
    before = {one.name: one.min for one in service.pools}
    planner_ = c.Planner(service)
    asked = c.pools(planner_.known(look_at(load, before, before)))
    for _ in range(looks):
        assert c.pools(planner_.known(look_at(load, asked, before), after=GIVE_UP / 31)) == asked


@given(SERVICES, LOADS, st.tuples(st.integers(0, 12), st.integers(0, 5)))
def test_a_load_that_stays_is_answered_once(
    service: services.Service, load: tuple[float, float, tuple[int, int]], sizes: tuple[int, int]
) -> None:
    """Whatever there was at first: where the nodes come at once, nothing grows after the second plan.

    The second may add cold nodes, when requests still wait although the hot ones of the first one serve.
    """
    planner_, pools = c.Planner(service), {"hot": sizes[0], "cold": sizes[1]}
    for _ in range(2):
        pools = c.pools(planner_.known(look_at(load, pools, pools)))
    for _ in range(3):
        assert c.pools(planner_.known(look_at(load, pools, pools), after=1.0)) == pools
