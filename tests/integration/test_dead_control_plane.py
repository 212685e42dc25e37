"""kill -9 of the real server right after it acted: what it holds at a real gateway ends without it, and its start goes on.

The service stands as an operator installs it, with a real gateway beside it. Degradation and ejection are leases in the
gateway's memory: nobody has to be alive for full service to return.
"""

import contextlib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from controlplane.runs.failpoints import Point
from tests.support import fake_node, killable_gateway, prometheus, service
from tests.support.service_files import SERVICE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

# Long enough for a look at the gateway after the kill, also on a busy machine.
TTL_SECONDS = 6
Json = dict[str, Any]
KEEP_OUT: Json = {
    "apiVersion": "dsctl/v1",
    "kind": "Runbook",
    "metadata": {"name": "keep-out", "summary": "Take a node out for a few seconds"},
    "spec": {
        "inputs": {"node": {"type": "node"}},
        "steps": [{"name": "out", "action": "eject_node", "with": {"ttl_seconds": TTL_SECONDS}, "timeout": "5s"}],
    },
}
DEGRADE: Json = {"runbook": "degrade", "inputs": {"rung": 2, "ttl_seconds": TTL_SECONDS}}
EJECT: Json = {"runbook": "keep-out", "node": "n1"}
FULL = {"nodes": ["in_service", "in_service"], "rung": None, "shed": [], "leases": []}
DEGRADED = {**FULL, "rung": 2, "shed": ["batch"], "leases": ["levels"]}
EJECTED = {**FULL, "nodes": ["ejected", "in_service"], "leases": ["eject"]}


def shown(gateway: killable_gateway.KillableGateway) -> Json:
    """Return what a gateway holds back."""
    state = gateway.state()
    return {
        "nodes": [one["state"] for one in state["nodes"]],
        "rung": state["rung"],
        "shed": [name for name, level in state["levels"].items() if level["is_shed"]],
        "leases": [one["kind"].partition(":")[0] for one in state["leases"]],
    }


@pytest.mark.parametrize(("order", "held"), [(DEGRADE, DEGRADED), (EJECT, EJECTED)], ids=["degrade", "eject"])
def test_what_a_dead_control_plane_holds_ends_by_itself(tmp_path: Path, order: Json, held: Json) -> None:
    """It dies between the effect and its outcome; the lease holds, then ends; the next start ends the run and repeats nothing."""
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "runbooks" / "keep-out.yaml").write_text(yaml.safe_dump(KEEP_OUT), encoding="utf-8")
    with killable_gateway.running(tmp_path, {"n1": "http://127.0.0.1:1", "n2": "http://127.0.0.1:1"}) as gateway:
        (tmp_path / "gateway-token").write_text(fake_node.TOKEN, encoding="utf-8")
        behind = {SERVICE: {"admin_url": gateway.url, "token_file": "gateway-token"}}
        with service.installed(tmp_path, failpoint=f"{Point.AFTER_EFFECT}:1", gateways=behind) as rig:
            rig.until_scraped()
            with contextlib.suppress(httpx.TransportError):  # it may die over the answer
                rig.server.call("POST", "/api/v1/runs", {"service": SERVICE, "reason": "a test asks", **order})
            rig.server.wait_killed()
            assert shown(gateway) == held
            prometheus.until(lambda: shown(gateway) == FULL, "full service returns", seconds=5 * TTL_SECONDS)
            rig.server.start()
            [run] = rig.runs()
            assert rig.ended(run["id"])["state"] == "succeeded", rig.story()
            assert "reclaimed" in [one["kind"] for one in rig.events(run["id"])], rig.story()
            # Its key is remembered: what has ended does not begin again because somebody looks.
            assert shown(gateway) == FULL
