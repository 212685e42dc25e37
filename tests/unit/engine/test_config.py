"""Policy files: taken as a whole or refused with file, line and reason."""

import re
from pathlib import Path

import pytest

from controlplane import strictyaml
from controlplane.domain import errors, lanes, policies
from controlplane.engine import config

KNOWN = config.Known(
    services=("chat", "search"),
    runbooks={"flush-cache": lanes.Lane.NODES, "scale-out": lanes.Lane.CAPACITY},
    signals=("queue_depth", "cache_wrong_ratio"),
)
LIBRARY = Path(config.__file__).parent / "library"

GOOD = """
apiVersion: dsctl/v1
kind: Policy
metadata: {name: queue-pressure}
spec:
  services: [chat]
  when: finding.signal == "queue_depth" && finding.severity in ["warning", "critical"]
  hold: 1m
  runbook: scale-out
  inputs: {replicas: "${plan.desired_replicas}"}
  mode: auto
  guard: {cooldown: 5m30s, max_per_hour: 6, max_attempts: 2, max_unavailable: {percent: 10, nodes: 1}}
"""


def load(text: str, *, ceiling: policies.Mode = policies.Mode.AUTO) -> policies.Policy:
    (policy,) = config.load({"a.yaml": text}, KNOWN, ceiling=ceiling)
    return policy


def test_a_policy_file_becomes_a_policy() -> None:
    """Every field of the format reaches the value, durations in seconds."""
    assert load(GOOD) == policies.Policy(
        name="queue-pressure",
        services=("chat",),
        when='finding.signal == "queue_depth" && finding.severity in ["warning", "critical"]',
        runbook="scale-out",
        mode=policies.Mode.AUTO,
        hold_seconds=60.0,
        inputs={"replicas": "${plan.desired_replicas}"},
        guard=policies.GuardLimits(330.0, 6, 2, policies.MaxUnavailable(10.0, 1)),
        lane=lanes.Lane.CAPACITY,
    )


def test_limits_have_the_documented_defaults() -> None:
    """A policy without a guard gets the domain's limits and acts at once."""
    text = GOOD[: GOOD.index("  guard")].replace("  hold: 1m\n", "")
    assert load(text).guard == policies.GuardLimits()
    assert load(text).hold_seconds == 0.0


def test_how_people_are_asked_can_be_chosen() -> None:
    """One person within an hour unless the policy says otherwise; a slip of the pen is refused."""
    assert load(GOOD).approval == policies.ApprovalRule(quorum=1, expires_seconds=3600.0)
    chosen = load(f"{GOOD}  approval: {{quorum: 2, expires: 30m}}\n")
    assert chosen.approval == policies.ApprovalRule(quorum=2, expires_seconds=1800.0)
    for wrong in ("quorum: 0", "quorum: 11", "expires: 9s", "until: 1h"):
        with pytest.raises(errors.InvalidInputError, match="approval"):
            load(f"{GOOD}  approval: {{{wrong}}}\n")


def test_known_signals_may_be_asked_for() -> None:
    """A condition that reads a signal of the catalogue loads."""
    text = GOOD.replace('finding.signal == "queue_depth" &&', 'signal("queue_depth") > 100 &&')
    assert load(text).when.startswith('signal("queue_depth")')


def test_a_star_means_every_service() -> None:
    """Policies that come along do not know the user's services."""
    assert load(GOOD.replace("[chat]", '["*"]')).services == ("chat", "search")


@pytest.mark.parametrize("ceiling", list(policies.Mode))
@pytest.mark.parametrize("mode", list(policies.Mode))
def test_no_policy_goes_beyond_the_ceiling(mode: policies.Mode, ceiling: policies.Mode) -> None:
    """The more careful of the policy's mode and the setting counts."""
    order = list(policies.Mode)
    found = load(GOOD.replace("mode: auto", f"mode: {mode}"), ceiling=ceiling).mode
    assert order.index(found) == min(order.index(mode), order.index(ceiling))


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("kind: Policy", "kind: Polizei", 3, "kind"),
        ("dsctl/v1", "dsctl/v2", 2, "apiVersion"),
        ("name: queue-pressure", "name: Queue Pressure", 4, "metadata.name"),
        ("hold: 1m", "hold: 60", 8, "no duration"),
        ("hold: 1m", "hold: ''", 8, "no duration"),
        ("hold: 1m", "hold: 8h90d", 8, "no duration"),
        ("hold: 1m", "hold: 999h", 8, "too long; a duration here is at most 168h"),
        ("hold: 1m", "hold: 1m\n  hold: 2m", 9, "given twice"),
        ("hold: 1m", "wait: 1m", 8, "unknown field 'wait'"),
        ("[chat]", "[chta]", 6, "unknown service 'chta'; did you mean 'chat'?"),
        ("[chat]", "[]", 6, "services"),
        ("runbook: scale-out", "runbook: scale-uot", 9, "unknown runbook 'scale-uot'; did you mean 'scale-out'?"),
        ("  runbook: scale-out\n", "", 5, "'runbook' is missing"),
        ('"queue_depth" &&', 'signal("queue") &&', 7, "unknown signal 'queue'"),
        ("finding.signal ==", "finding.signl ==", 7, "undeclared reference to 'finding.signl'"),
        ("plan.desired", "inputs.desired", 10, "undeclared reference"),
        ("mode: auto", "mode: yolo", 11, "mode"),
        ("max_per_hour: 6", "max_per_hour: 0", 12, "max_per_hour"),
        ("max_per_hour: 6", 'max_per_hour: "6"', 12, "max_per_hour"),
        ("percent: 10", "percent: 0", 12, "percent"),
        ("percent: 10", "percent: 101", 12, "percent"),
        ("nodes: 1}", "nodes: -1}", 12, "nodes"),
        ("nodes: 1}", "nodes: 1.5}", 12, "nodes"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(old: str, new: str, line: int, reason: str) -> None:
    """Unknown words, wrong types, duplicate keys and expressions that cannot work name file, line and reason."""
    assert old in GOOD
    with pytest.raises(errors.InvalidInputError, match=re.escape(reason)) as refused:
        load(GOOD.replace(old, new, 1))
    assert refused.value.place == f"a.yaml:{line}"


def test_nothing_is_taken_when_one_file_is_wrong() -> None:
    """All or none: a good file before a bad one changes nothing."""
    with pytest.raises(errors.InvalidInputError, match=r"b\.yaml:3"):
        config.load({"a.yaml": GOOD, "b.yaml": GOOD.replace("kind: Policy", "kind: X")}, KNOWN)


def test_two_policies_of_one_name_are_refused() -> None:
    """A name stands for one policy: cooldowns and attempts are counted under it."""
    with pytest.raises(
        errors.InvalidInputError, match=r"b\.yaml: policy 'queue-pressure' is already defined in a\.yaml"
    ):
        config.load({"b.yaml": GOOD, "a.yaml": GOOD}, KNOWN)


def test_policies_are_asked_in_the_order_of_their_files() -> None:
    """File names decide, not the order in which a folder is listed."""
    files = {"20-b.yaml": GOOD, "10-a.yaml": GOOD.replace("queue-pressure", "earlier")}
    assert [policy.name for policy in config.load(files, KNOWN)] == ["earlier", "queue-pressure"]


def test_the_policies_that_come_along_are_sound() -> None:
    """Every shipped policy loads against the shipped catalogue and runbooks, and is capped by the setting."""
    root = LIBRARY.parent.parent
    catalogue = strictyaml.load((root / "observe/catalogue.yaml").read_text(), source="catalogue.yaml")
    assert isinstance(catalogue, dict)
    assert isinstance(catalogue["signals"], dict)
    runbooks = {path.stem: lanes.Lane.NODES for path in (root / "runs/library").glob("*.yaml")}
    files = {path.name: path.read_text() for path in LIBRARY.glob("*.yaml")}
    known = config.Known(services=("chat",), runbooks=runbooks, signals=list(catalogue["signals"]))
    found = config.load(files, known, ceiling=policies.Mode.OBSERVE)
    assert [policy.name for policy in found] == ["cache-poisoned", "bad-node", "leak", "overload", "surge", "surplus"]
    assert {policy.mode for policy in found} == {policies.Mode.OBSERVE}


LADDER = (
    GOOD.rstrip()
    + """
  ladder: {up_after: 5s, settle: 10s, down_below: 0.6, down_after: 30s, top: 2}
"""
)


def test_a_ladder_is_read_with_its_pace() -> None:
    """What is left out has the shipped pace; a policy without one has none."""
    [found] = config.load({"a.yaml": LADDER}, KNOWN)
    assert found.ladder == policies.Ladder(1.0, 5.0, 10.0, 0.6, 30.0, 2)
    [plain] = config.load({"a.yaml": GOOD}, KNOWN)
    assert plain.ladder is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("down_below: 1.0", "must be below up_above"),
        ("top: 5", "less than or equal to 4"),
        ("up_after: 0s", "at least 1s"),
        ("rungs: 3", "rungs"),
    ],
)
def test_a_ladder_that_could_flap_or_does_not_exist_is_refused(wrong: str, said: str) -> None:
    """With the place and the reason."""
    text = GOOD.rstrip() + f"\n  ladder: {{{wrong}}}\n"
    with pytest.raises(errors.InvalidInputError, match=said):
        config.load({"a.yaml": text}, KNOWN)
