"""What the service makes of nodes that do not answer as they should, and how far it goes in each mode."""

from pathlib import Path

import pytest

from tests.support import fake_node, service

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

Trouble = fake_node.Trouble
FLUSHED = ["POST /admin/v1/cache/flush"]


def flush_keys(node: fake_node.FakeNode) -> list[str | None]:
    """Return the key of each flush that reached the node's door."""
    return [key for method, _, _, key in node.calls if method == "POST"]


def said(rig: service.Rig, run_id: str, kind: str) -> list[str]:
    """Return what the log of a run says about one kind of event."""
    data = [one["data"] for one in rig.events(run_id) if one["kind"] == kind]
    return [str(one.get("error") or one.get("answer") or one.get("sentence")) for one in data]


def test_every_doubt_about_a_node_is_settled_by_looking(tmp_path: Path) -> None:
    """Lost requests and answers, a 500, a hanging node, one that refuses: each run ends, and says what was found."""
    troubles = {
        "loses": Trouble.LOSE_ANSWER,
        "breaks": Trouble.FAIL_AFTER_EFFECT,
        "hangs": Trouble.HANG,
        "misses": Trouble.LOSE_REQUEST,
        "busy": Trouble.BUSY,
        "refuses": Trouble.BARE_503,
    }
    with service.installed(tmp_path, names=[*troubles, "calm"]) as rig:
        rig.until_scraped()
        for name, trouble in troubles.items():
            rig.nodes[name].trouble = trouble
        rig.nodes["refuses"].is_lasting = True
        ids = {name: _accepted(rig, name) for name in troubles}
        ends = {name: rig.ended(run_id) for name, run_id in ids.items()}

        for name in ("loses", "breaks", "hangs"):
            assert ends[name]["verdict"] == "recovered", rig.story()
            assert said(rig, ids[name], "step_probed") == ["applied"], rig.story()
            assert len(flush_keys(rig.nodes[name])) == 1, "what was done is not sent again"
        for name in ("misses", "busy"):
            assert ends[name]["verdict"] == "recovered", rig.story()
            assert len(said(rig, ids[name], "step_failed")) == 1, rig.story()
        for name in set(troubles) - {"refuses"}:
            assert rig.nodes[name].effects == FLUSHED, rig.story()
            assert set(flush_keys(rig.nodes[name])) == {f"{ids[name]}:flush"}
        assert "no answer within 3 s" in said(rig, ids["hangs"], "step_failed")[0]

        assert ends["refuses"]["state"] == "failed", rig.story()
        assert "did not happen" in ends["refuses"]["sentence"]
        assert "503" in ends["refuses"]["sentence"]
        assert said(rig, ids["refuses"], "step_probed") == ["not applied"] * 3, "three tries, each looked after"
        assert rig.nodes["refuses"].effects == []


def _accepted(rig: service.Rig, name: str) -> str:
    answer = rig.order(name)
    assert answer is not None
    assert answer.status_code == 201, answer.text
    return answer.json()["run_id"]


def test_a_node_that_is_gone_is_held_and_dealt_with_when_it_is_back(tmp_path: Path) -> None:
    """Nobody listens there: people are told so, the loop holds and spends no attempt; back again, it is cured."""
    with service.installed(tmp_path) as rig:
        rig.server.call("POST", "/api/v1/automation/pause", {"reason": "until the node is gone"})
        node = rig.poison("n1")
        rig.incident(lambda one: "paused" in one["sentence"], "the incident is held")
        rig.take_down("n1")
        rig.server.call("POST", "/api/v1/automation/resume", {})
        refused = rig.order("n1")
        assert refused is not None
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:dsctl:problem:unavailable"), refused.text
        assert "chat/n1 cannot be reached" in refused.json()["detail"], refused.text
        told = rig.cli("remediate", "flush-cache", "--node", "n1", "--yes")
        assert told.returncode == 1, told.stderr
        assert "chat/n1 cannot be reached" in told.stderr
        held = rig.incidents()[0]
        assert held["state"] in {"open", "closed"}, rig.story()
        assert rig.runs() == [], rig.story()
        assert held["attempts"] == 0, rig.story()

        rig.serve("n1")
        rig.poison("n1")
        cured = rig.incident(lambda one: one["verdict"] == "recovered" and one["state"] == "closed", "it is cured")
        assert node.effects == FLUSHED, rig.story()
        assert cured["attempts"] == 1, rig.story()


@pytest.mark.parametrize(
    ("mode", "begins", "holds"),
    [
        ("observe", "observing: policy cache-poisoned would run flush-cache on chat/n1", "cache_wrong_ratio is 1"),
        ("suggest", "suggested: policy cache-poisoned would run", "run `dsctl remediate flush-cache --node n1`"),
    ],
)
def test_below_auto_it_says_what_it_would_do_and_does_nothing(
    tmp_path: Path, mode: str, begins: str, holds: str
) -> None:
    """The same alert in a lower mode: an open incident, the sentence kept as a decision, no run, no effect."""
    with service.installed(tmp_path, mode=mode) as rig:
        node = rig.poison("n1")
        incident = rig.incident(lambda one: one["sentence"].startswith(begins), f"{mode} says what it would do")
        assert holds in incident["sentence"], incident["sentence"]
        rig.server.wait_ticks(3)
        assert rig.incidents()[0]["state"] == "open"
        assert (rig.runs(), node.effects) == ([], [])
        [decision] = rig.decisions()
        assert (decision["outcome"], decision["policy"]) == ("held", "cache-poisoned")
        assert decision["sentence"] == incident["sentence"]
        if mode == "suggest":
            words = incident["sentence"].rpartition("`dsctl ")[2].rstrip("`").split()
            done = rig.cli(*words, "--yes")
            assert done.returncode == 0, done.stdout + done.stderr
            assert node.effects == FLUSHED


def test_the_kill_switch_refuses_with_its_reason(tmp_path: Path) -> None:
    """Paused: the decision names who holds the brake and why; resumed: the loop acts by itself."""
    with service.installed(tmp_path) as rig:
        assert rig.cli("automation", "pause", "--reason", "rollout of v7").returncode == 0
        node = rig.poison("n1")
        incident = rig.incident(lambda one: "paused" in one["sentence"], "the incident is held")
        assert "admin: rollout of v7" in incident["sentence"]
        rig.server.wait_ticks(3)
        denied = rig.decisions()[0]
        assert denied["outcome"] == "denied"
        [answer] = [one for one in denied["answers"] if not one["is_passed"]]
        assert answer["gate"] == "kill_switch"
        assert "rollout of v7" in answer["sentence"]
        assert (rig.runs(), node.effects) == ([], [])
        assert rig.cli("automation", "resume").returncode == 0
        assert rig.closed()["verdict"] == "recovered"
        assert node.effects == FLUSHED
