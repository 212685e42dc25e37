"""Routes of policies: standing, record, reset, and the ledgers of runbooks."""

from datetime import timedelta
from typing import Any

import pytest

from controlplane.domain import policies, trust
from controlplane.engine import trust as engine
from tests.support import api
from tests.support import builders as b
from tests.support.clock import START, FakeClock
from tests.support.trusts import deeds

Mode = policies.Mode
DEMOTION = trust.Entry(
    "cache-poisoned", trust.Kind.DEMOTED, START, "dsctl", "2 runs in a row made it worse", Mode.AUTO, Mode.APPROVE
)


def standing(verdicts: str = "rrw", held: trust.Trust | None = None, **fields: Any) -> trust.Standing:
    policy = b.policy(**{"written": Mode.AUTO} | fields)
    found = deeds(verdicts)
    return engine.stand(policy, found, found, held or trust.Trust(), trust.Thresholds(), Mode.AUTO)


@pytest.fixture
def fakes(clock: FakeClock) -> api.Fakes:
    made = api.Fakes(clock)
    made.trustees.rows = {
        "cache-poisoned": standing(held=trust.Trust(DEMOTION)),
        "bad-node": standing("r" * 35, name="bad-node", mode=Mode.SUGGEST, written=Mode.SUGGEST),
    }
    return made


async def test_policies_are_listed_with_all_that_decides_how_far_they_go(fakes: api.Fakes) -> None:
    """Mode of the file, ceiling, demotion, mode in force, record, proposal."""
    async with fakes.http("viewer") as http:
        body = (await http.get("/api/v1/policies")).json()
    taken, good = body["items"]
    assert body["apiVersion"] == "dsctl/v1"
    assert (taken["mode"], taken["ceiling"], taken["effective"]) == ("auto", "auto", "approve")
    assert taken["demotion"]["sentence"] == (
        "policy cache-poisoned was taken from auto to approve: 2 runs in a row made it worse"
    )
    assert (taken["ledger"]["recovered"], taken["ledger"]["worse"]) == (2, 1)
    assert taken["ledger_of"]["chat"] == taken["ledger"]
    assert taken["proposal"] is None
    assert good["proposal"]["mode"] == "approve"
    assert good["runbook_ledger"]["success"]["low"] == pytest.approx(0.901, abs=1e-3)


async def test_one_policy_by_its_name(fakes: api.Fakes) -> None:
    """An unknown one is named with those there are."""
    async with fakes.http("viewer") as http:
        found = await http.get("/api/v1/policies/bad-node")
        missing = await http.get("/api/v1/policies/nobody")
    assert (found.json()["name"], missing.status_code) == ("bad-node", 404)
    assert missing.json()["detail"] == "no policy is named 'nobody'; known are cache-poisoned, bad-node"


async def test_a_reset_takes_an_operator_and_a_reason(fakes: api.Fakes) -> None:
    """Kept under the name of the token."""
    path = "/api/v1/policies/cache-poisoned/reset"
    async with fakes.http("viewer") as http:
        assert (await http.post(path, json={"reason": "mended"})).status_code == 403
    async with fakes.http("operator") as http:
        assert (await http.post(path, json={})).status_code == 422
        answer = await http.post(path, json={"reason": "mended"})
        missing = await http.post("/api/v1/policies/nobody/reset", json={"reason": "mended"})
    assert (answer.status_code, answer.json()["name"], missing.status_code) == (200, "cache-poisoned", 404)
    assert fakes.trustees.resets == [("cache-poisoned", "operator", "mended")]


async def test_the_ledger_of_a_runbook(fakes: api.Fakes) -> None:
    """In all, by service, by who asked; a runbook that never ran has an empty one, an unknown one is an error."""
    async with fakes.http("viewer") as http:
        empty = (await http.get("/api/v1/runbooks/flush-cache/ledger")).json()
        fakes.trustees.books["flush-cache"] = engine.book([*deeds("rn"), *deeds("r", policy=None)])
        full = (await http.get("/api/v1/runbooks/flush-cache/ledger")).json()
        missing = await http.get("/api/v1/runbooks/nothing/ledger")
    assert (empty["total"]["runs"], empty["total"]["success"]) == (0, None)
    assert (full["total"]["runs"], full["policies"][""]["runs"], full["services"]["chat"]["runs"]) == (3, 1, 3)
    assert full["total"]["to_recover"] == {"median": 60.0, "p90": 60.0}
    assert full["total"]["last_at"] == (START + timedelta(minutes=1)).isoformat().replace("+00:00", "Z")
    assert missing.status_code == 404
