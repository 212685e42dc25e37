"""Whatever the rest of the world looks like: unknown data, a resolved incident or a brake never lets a policy act."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain import alerting, outcomes, plans, policies
from controlplane.domain import signals as sig
from controlplane.engine import guard
from tests.support import builders as b
from tests.support.clock import START

UNKNOWN = st.sampled_from([one for one in sig.UnknownReason if one is not sig.UnknownReason.NOT_IN_PROFILE])
NUMBER = st.floats(0, 10, allow_nan=False)
READING = st.one_of(NUMBER.map(b.value), UNKNOWN.map(b.unknown))
BLAST = st.builds(
    plans.BlastRadius,
    unavailable=st.sampled_from([(), ("node-a",), ("node-a", "node-b")]),
    is_destructive=st.booleans(),
)
SILENCES = st.one_of(
    st.none(),
    st.builds(
        alerting.Silences,
        st.integers(0, 120).map(lambda age: START - timedelta(seconds=age)),
        st.lists(st.just(b.silence()), max_size=1).map(tuple),
    ),
)
HISTORY = st.lists(st.floats(0, 4000).map(lambda ago: guard.Ran(b.ended_run(f"run_{ago}"), ago)), max_size=8).map(tuple)


@st.composite
def contexts(draw: st.DrawFn) -> guard.Context:
    """Any world about node-a."""
    up = draw(st.one_of(st.booleans(), UNKNOWN.map(b.unknown)))
    age = draw(st.integers(-10, 120))
    view = b.view(b.node(up=up, cache_wrong_ratio=draw(READING)), b.node("node-b"), at=START - timedelta(seconds=age))
    return guard.Context(
        now=START,
        service=b.service(minimum=draw(st.integers(0, 2))),
        view=draw(st.sampled_from([view, None])),
        paused=draw(st.sampled_from([{}, {"ada": "release"}])),
        incident=b.incident(),
        is_reported=draw(st.booleans()),
        silences=draw(SILENCES),
        unfinished=draw(st.sampled_from([(), (b.run("run_9", plan=b.plan(b.manual(node="node-b"))),)])),
        history=draw(HISTORY),
    )


@given(context=contexts(), blast=BLAST, mode=st.sampled_from(list(policies.Mode)))
def test_a_policy_acts_only_when_everything_is_known_and_agreed(
    context: guard.Context, blast: plans.BlastRadius, mode: policies.Mode
) -> None:
    """An independent reading of the rules: allowed implies each of them."""
    plan = b.plan(b.request(mode=mode), blast=blast)
    found = guard.check(plan, context)
    assert guard.check(plan, context) == found
    assert [answer.gate for answer in found.answers] == list(outcomes.Gate)[: len(found.answers)]
    if isinstance(found, outcomes.Denied):
        assert not found.answers[-1].is_passed
        return
    assert mode is policies.Mode.AUTO
    assert not context.paused
    assert context.is_reported
    assert context.view is not None
    assert (START - context.view.at).total_seconds() <= 60
    node = context.view.services["chat"].nodes["node-a"]
    assert isinstance(node.is_up, sig.Value)
    assert not node.is_serving or isinstance(node.signals["cache_wrong_ratio"], sig.Value)
    silences = context.silences
    is_known = silences is not None and (START - silences.read_at).total_seconds() <= 60
    assert is_known or not (blast.is_destructive or blast.unavailable)
    assert not is_known or silences is None or not silences.active
    assert all(ran.seconds_ago >= 300 for ran in context.history)
    assert sum(ran.seconds_ago < 3600 for ran in context.history) < 6


@given(context=contexts(), blast=BLAST)
def test_nobody_destroys_on_unknown_data(context: guard.Context, blast: plans.BlastRadius) -> None:
    """A person is let through further than a policy, never this far."""
    plan = b.plan(b.manual(), blast=blast)
    found = guard.check(plan, context)
    if not isinstance(found, outcomes.Allowed) or not (blast.is_destructive or blast.unavailable):
        return
    assert context.view is not None
    assert isinstance(context.view.services["chat"].nodes["node-a"].is_up, sig.Value)
    assert context.silences is not None
