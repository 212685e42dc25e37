"""Who may call what: every route against every role, and proof that none was forgotten."""

import fastapi
import pytest
from fastapi import routing

from controlplane.api import app, guarded
from controlplane.api.rights import Right
from controlplane.domain import errors
from tests.support import api
from tests.support.clock import FakeClock

# What each role may do, written out a second time on purpose: a change of rights must be made twice.
GRANTS = {
    None: {"public"},
    "viewer": {"public", "token", "viewer"},
    "operator": {"public", "token", "viewer", "operator"},
    "approver": {"public", "token", "viewer", "operator", "approver"},
    "admin": {"public", "token", "viewer", "operator", "approver", "admin"},
    "events": {"public", "token", "events"},
}
PUBLIC = {"/livez", "/readyz", "/metrics", "/api/v1/openapi.json"}


def test_every_route_states_its_right_and_only_the_known_ones_are_public() -> None:
    """The application holds nothing but guarded routes, and what is public is exactly this list."""
    routes = app.bare_app().routes
    assert all(isinstance(route, guarded.GuardedRoute) for route in routes)
    rights = {route.path: guarded.stated_right(route) for route in routes if isinstance(route, routing.APIRoute)}
    assert {path for path, right in rights.items() if right is Right.PUBLIC} == PUBLIC
    assert len(routes) == len(app.ROUTES)


def test_route_without_a_right_cannot_be_built() -> None:
    """Forgetting the right is an error when the application is put together, not a hole when it runs."""
    bare = fastapi.FastAPI()
    with pytest.raises(errors.InvariantBrokenError, match="states no right"):
        bare.router.add_api_route("/open", lambda: None, route_class_override=guarded.GuardedRoute)


@pytest.mark.parametrize("role", GRANTS)
async def test_routes_admit_exactly_the_roles_they_state(role: str | None, clock: FakeClock) -> None:
    """Nobody without the right comes past the door of any route, whatever the body; whoever has it does."""
    seen: dict[str, bool] = {}
    async with api.Fakes(clock).http(role) as http:
        for route in app.ROUTES:
            answer = await http.request(route.method, route.path.replace("{", "").replace("}", ""))
            is_turned_away = answer.status_code == (401 if role is None else 403)
            assert is_turned_away == (answer.status_code in {401, 403})
            seen[f"{route.method} {route.path}"] = not is_turned_away
    assert seen == {f"{route.method} {route.path}": route.right.value in GRANTS[role] for route in app.ROUTES}


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer token-nobody", "Basic dG9rZW4tYWRtaW46", "token-admin", "Bearer \x01"]
)
async def test_bad_credentials_are_401_with_the_way_to_send_good_ones(header: str, clock: FakeClock) -> None:
    """Whatever is wrong with the header, the answer is the same kind and names the scheme."""
    async with api.Fakes(clock).http(None) as http:
        answer = await http.get("/api/v1/runs", headers={"Authorization": header})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


async def test_token_of_an_unknown_role_may_nothing(clock: FakeClock) -> None:
    """A role that a newer version wrote into the database opens no door here."""
    fakes = api.Fakes(clock)
    fakes.tokens.rows["future"] = api.TokenInfo("future", "superuser", clock.now())
    async with fakes.http("future") as http:
        reading, writing = await http.get("/api/v1/runs"), await http.post("/api/v1/runs", json={})
    assert (reading.status_code, writing.status_code) == (403, 403)


@pytest.mark.parametrize(
    ("headers", "is_let_in"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://dsctl"}, False),
        ({"Origin": "http://dsctl"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://dsctl.evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://[broken"}, False),
    ],
)
async def test_pages_of_other_sites_change_nothing(headers: dict[str, str], is_let_in: bool, clock: FakeClock) -> None:
    """A browser on behalf of another site is refused before anything is looked at, even with a good token."""
    fakes = api.Fakes(clock)
    async with fakes.http("admin") as http:
        answer = await http.post("/api/v1/automation/pause", json={"reason": "test"}, headers=headers)
        reading = await http.get("/api/v1/automation", headers=headers)
    assert (answer.status_code == 200) is is_let_in
    assert bool(fakes.automation.brakes) is is_let_in
    assert reading.status_code == 200
    if not is_let_in:
        assert answer.json()["type"] == "urn:dsctl:problem:cross-site"
