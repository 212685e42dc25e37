"""Story files: what is accepted, and how the rest is refused."""

import pytest

from controlplane.domain import errors, policies
from controlplane.scenarios import stories
from tests.support import story

GOOD = """
apiVersion: dsctl/v1
kind: Story
metadata: {id: T1, title: A test}
spec:
  fleet: {nodes: 2}
  load: {levels: {standard: {rate: 5}}}
  limits: {error_ratio: 0.01, latency_p99_seconds: 1}
  window_seconds: 40
  timeline:
    - {at_seconds: 0, inject: {fault: poison_cache, node: node-1}}
    - {by_seconds: 20, expect: {incident: cache, node: node-1}}
"""

HELD = "{level: premium, from_seconds: 5, until_seconds: 35, limits: {error_ratio: 0, latency_p99_seconds: 1}}"


def test_every_shipped_story_is_read_and_s4_is_among_them():
    """The package's own stories are valid, have unique ids and come in the order of these."""
    ids = [one.id for one in stories.shipped()]
    assert "S4" in ids
    assert ids == sorted(set(ids))


def test_s4_wants_the_flush_in_auto_mode_and_only_the_incident_in_observe_mode():
    """In observe mode a story expects to be told, and nothing more."""
    (s4,) = stories.choose(("S4",), every=False)
    assert [e.expect.runbook for e in s4.expectations(policies.Mode.AUTO)] == [None, "flush-cache", None]
    assert [str(e.expect) for e in s4.expectations(policies.Mode.OBSERVE)] == ["an incident of cache on node-1"]


def test_a_good_story_is_accepted():
    """The text the refusals below are made from is itself accepted."""
    assert stories.parse(GOOD, source="t.yaml").id == "T1"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("window_seconds: 40", "windows_seconds: 40", "t.yaml:5: spec: field 'window_seconds' is missing"),
        ("incident: cache", "incident: cash", "t.yaml:12: spec.timeline[1].by.expect.incident"),
        (
            "incident: cache",
            "incident: cache, runbook: x",
            "exactly one of incident, runbook, verdict, rung and in_service",
        ),
        ("incident: cache", "rung: 2, opened_by: x", "opened_by says who opens an incident"),
        ("at_seconds: 0", "at_seconds: 3", "nothing is done at second 0"),
        (
            "at_seconds: 0, inject",
            "at_seconds: 0, load: {levels: {batch: {rate: 1}}}, inject",
            "exactly one of inject and load",
        ),
        ("window_seconds: 40", "window_seconds: 25", "window_seconds must be at least 30"),
        ("window_seconds: 40", f"window_seconds: 40\n  held: [{HELD}]", "window_seconds must be at least 45"),
        ("rate: 5", "rate: 5000", "less than or equal to 500"),
        ("standard: {", "express: {", "'premium', 'standard' or 'batch'"),
        ("levels: {standard: {rate: 5}}", "levels: {}", "at least 1 item"),
        ("node: node-1}}\n    - {by", "node: ../etc}}\n    - {by", "pattern"),
        ("kind: Story", "kind: Story\nkind: Story", "given twice"),
    ],
)
def test_what_is_wrong_with_a_story_is_said(old: str, new: str, said: str):
    """A story with a fault is refused at load, with the place and the reason."""
    with pytest.raises(errors.InvalidInputError, match=r"t\.yaml:\d+") as refused:
        stories.parse(GOOD.replace(old, new), source="t.yaml")
    assert said in str(refused.value)


def test_an_unknown_scenario_is_refused_with_those_there_are():
    """Whoever mistypes an id is shown the known ones."""
    with pytest.raises(errors.NotFoundError, match=r"no scenario S99; there are .*S4"):
        stories.choose(("S4", "S99"), every=False)


def test_without_ids_variants_are_left_out():
    """`dsctl demo up` alone plays each situation once; `--scenarios all` its variants, too."""
    chosen = [one.id for one in stories.choose((), every=False)]
    assert {"S2", "S4", "S5"} <= set(chosen)
    assert not any("-" in name for name in chosen)
    assert stories.choose(("S4",), every=True) == stories.shipped()


def test_a_story_knows_every_level_that_it_uses_at_any_time():
    """Clients need a key for each of them from the start."""
    told = story.told(story.at(0).load(batch=5, premium=1), window_seconds=30)
    assert told.levels() == ("premium", "standard", "batch")
    assert [traffic.rate for traffic in told.traffic()] == [10, 6]


def test_the_test_language_builds_the_same_story_as_the_file():
    """Tests and YAML speak of one model."""
    built = story.told(
        story.at(0).inject("poison_cache", on="node-1"),
        story.by(20).expect_incident("cache", on="node-1"),
        window_seconds=40,
    )
    assert built.spec.timeline == stories.parse(GOOD, source="t.yaml").spec.timeline


def test_s3_wants_the_node_restarted_before_it_dies_and_the_best_level_unharmed():
    """In observe mode the leak is told of, and the node dies of it."""
    (s3,) = stories.choose(("S3",), every=False)
    assert [str(e.expect) for e in s3.expectations(policies.Mode.OBSERVE)] == [
        "an incident of leak on node-3, opened by leak"
    ]
    assert [e.expect.runbook for e in s3.expectations(policies.Mode.AUTO)][1] == "restart-leaking-node"
    assert [(one.level, one.from_seconds) for one in s3.spec.held] == [("premium", 0)]
