"""kill -9 of the whole service between a step's intention and its outcome, and SIGTERM in the middle of a wait."""

from pathlib import Path

import pytest

from controlplane.runs.failpoints import Point
from tests.support import fake_node, service

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FLUSH = "/admin/v1/cache/flush"
POINTS = (Point.BEFORE_EFFECT, Point.AFTER_EFFECT, Point.IN_COMMIT)


def flush_keys(node: fake_node.FakeNode) -> list[str | None]:
    """Return the key of each flush the node was sent."""
    return [key for _, path, _, key in node.calls if path == FLUSH]


def check_flushed_once(rig: service.Rig, name: str, run_id: str, point: Point) -> None:
    """The node was flushed once, by one call, and the log says that the run was taken over and looked first."""
    node = rig.nodes[name]
    assert node.effects == [f"POST {FLUSH}"], rig.story()
    assert flush_keys(node) == [f"{run_id}:flush"], rig.story()
    kinds = [one["kind"] for one in rig.events(run_id)]
    assert "reclaimed" in kinds, rig.story()
    probes = [one["data"]["answer"] for one in rig.events(run_id) if one["kind"] == "step_probed"]
    assert probes[-1] == ("not applied" if point is Point.BEFORE_EFFECT else "applied"), rig.story()
    assert kinds.count("step_finished") == 1, rig.story()
    assert kinds[-1] == "ended", rig.story()


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_run_of_the_loop_survives_kill_9(tmp_path: Path, point: Point) -> None:
    """An alert starts a run, the service dies in its step; the next start ends it, flushed once, incident closed."""
    with service.installed(tmp_path, failpoint=f"{point}:1") as rig:
        rig.poison("n1")
        rig.server.wait_killed()
        rig.server.start()
        incident = rig.closed()
        [run] = rig.runs()
        assert (run["state"], run["verdict"]) == ("succeeded", "recovered"), rig.story()
        assert (incident["run_id"], incident["attempts"]) == (run["id"], 1), rig.story()
        check_flushed_once(rig, "n1", run["id"], point)
        assert rig.timeline(incident)[0].startswith("opened by alert:CacheAnswersWrong"), rig.story()
        assert run["id"] in rig.timeline(incident)[-1], rig.story()


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_run_of_a_person_survives_kill_9(tmp_path: Path, point: Point) -> None:
    """A person's run dies in its step; the next start ends it, and the same order under the same key is answered."""
    with service.installed(tmp_path, failpoint=f"{point}:1") as rig:
        rig.until_scraped()
        accepted = rig.order("n1", key="once")
        rig.server.wait_killed()
        rig.server.start()
        [run] = rig.runs()
        run_id = run["id"]
        assert accepted is None or accepted.json().get("run_id") == run_id, accepted.text
        rig.until_seen()
        again = rig.order("n1", key="once")
        assert again is not None
        assert (again.status_code, again.json()["run_id"]) == (200, run_id), again.text
        assert rig.ended(run_id)["state"] == "succeeded", rig.story()
        check_flushed_once(rig, "n1", run_id, point)
        assert [one["id"] for one in rig.runs()] == [run_id]


def test_a_graceful_stop_keeps_a_verification_waiting(tmp_path: Path) -> None:
    """SIGTERM while a run waits for its verdict ends the service with 0; the next start goes on waiting, no flush twice."""
    with service.installed(tmp_path) as rig:
        rig.poison("n1")
        rig.incident(lambda one: one["state"] == "verifying", "the flush is done")
        assert rig.server.stop() == 0, rig.server.log.read_text()[-3000:]
        assert rig.server.events("stopping"), "it ended without closing anything"
        rig.server.start()
        incident = rig.closed()
        [run] = rig.runs()
        assert (run["state"], run["verdict"]) == ("succeeded", "recovered"), rig.story()
        assert incident["verdict"] == "recovered"
        assert len(flush_keys(rig.nodes["n1"])) == 1, rig.story()
