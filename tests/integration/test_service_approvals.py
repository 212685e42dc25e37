"""Mode approve through the real service: people are asked, the service dies meanwhile, somebody answers; or nobody has to."""

from datetime import datetime
from pathlib import Path

import pytest

from tests.support import prometheus as real
from tests.support import service

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FLUSH = "POST /admin/v1/cache/flush"
# The goal is half a second; this machine may be busy with other tests.
AT_ONCE_SECONDS = 5.0


def called(rig: service.Rig) -> list[str]:
    """Return the calls for approval that reached people."""
    alerts = [alert for body in list(rig.people.bodies) for alert in body["alerts"]]
    told = [alert for alert in alerts if alert["labels"]["alertname"] == "DsctlApprovalWanted"]
    return [alert["annotations"]["summary"] for alert in told]


def waits(one: service.Json) -> bool:
    return "waits for approval" in one["sentence"]


def seconds_between(events: list[service.Json], first: str, then: str) -> float:
    """Return the time from one kind of event to the next of another kind."""
    start = next(number for number, one in enumerate(events) if one["kind"] == first)
    end = next(one for one in events[start:] if one["kind"] == then)
    return (datetime.fromisoformat(end["at"]) - datetime.fromisoformat(events[start]["at"])).total_seconds()


def approver(rig: service.Rig) -> Path:
    held = rig.folder / "approver-token"
    held.write_text(rig.server.new_token("anna", "approver"), encoding="utf-8")
    return held


def test_people_are_asked_and_their_answer_or_the_end_of_the_trouble_decides(tmp_path: Path) -> None:
    """A kill while the run waits loses nothing; the yes acts at once; trouble that ends by itself takes its question back."""
    with service.installed(tmp_path, mode="approve") as rig:
        node = rig.poison("n1")
        incident = rig.incident(waits, "the incident waits for approval")
        [waiting] = rig.server.get("/approvals")["items"]
        run_id = waiting["run_id"]
        assert f"dsctl runs approve {run_id}" in incident["sentence"]
        assert (waiting["requested_by"], waiting["quorum"]) == ("policy:cache-poisoned", 1)
        [said, *_] = real.until(lambda: called(rig), "people are called", seconds=30)
        assert f"`dsctl runs approve {run_id}`" in said

        rig.server.kill()
        rig.server.start()
        assert (node.effects, [one["run_id"] for one in rig.server.get("/approvals")["items"]]) == ([], [run_id])
        rig.until_scraped()
        looked = rig.cli("runs", "approve", run_id, token_file=approver(rig))
        assert (looked.returncode, node.effects) == (2, []), looked.stdout + looked.stderr
        done = rig.cli("runs", "approve", run_id, "--yes", token_file=rig.folder / "approver-token")
        assert done.returncode == 0, done.stdout + done.stderr
        incident = rig.closed()
        assert (incident["run_id"], incident["verdict"], node.effects) == (run_id, "recovered", [FLUSH]), rig.story()
        events = rig.events(run_id)
        assert [one["data"]["by"] for one in events if one["kind"] == "approved"] == ["anna"]
        assert seconds_between(events, "approved", "step_started") < AT_ONCE_SECONDS, rig.story()

        rig.poison("n2")
        rig.incident(lambda one: one["node"] == "n2" and waits(one), "the other incident waits for approval")
        [waiting] = rig.server.get("/approvals")["items"]
        rig.nodes["n2"].is_poisoned = False
        ended = rig.ended(waiting["run_id"])
        assert (ended["state"], ended["acted_at"], rig.nodes["n2"].effects) == ("cancelled", None, []), rig.story()
        assert "no source reports incident" in ended["sentence"]
        assert rig.closed()["node"] == "n2", rig.story()
