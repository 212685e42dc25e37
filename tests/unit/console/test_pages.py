"""The console's pages: who sees them, what they show, and that nothing in them can run."""

import re
from collections.abc import Mapping
from html import parser

import pytest

from controlplane.api import guarded
from controlplane.api.rights import Right
from controlplane.console import door, pages, sessions
from controlplane.domain import outcomes
from tests.support import api, console
from tests.support.clock import FakeClock

# Only these may be asked for by nobody in particular.
PUBLIC = {"GET /sign-in", "POST /sign-in", "POST /sign-out", "GET /static/{name}"}
# What each role may do, written out a second time on purpose.
MAY_VIEW = {None: False, "viewer": True, "operator": True, "approver": True, "admin": True, "events": False}


@pytest.fixture
def fakes(clock: FakeClock) -> api.Fakes:
    return api.Fakes(clock)


def path_of(route: guarded.Route, run_id: str) -> str:
    return route.path.replace("{run_id}", run_id).replace("{name}", "console.css")


def test_every_page_is_guarded_and_only_signing_in_is_public(fakes: api.Fakes) -> None:
    """No page comes in past the guarded route, and none of them is part of the API's description."""
    served = [route for route in console.served(fakes).routes if isinstance(route, door.PageRoute)]
    assert {f"{method} {route.path}" for route in served for method in route.methods or ()} == {
        f"{route.method} {route.path}" for route in pages.ROUTES
    }
    stated = {f"{route.method} {route.path}": route.right for route in pages.ROUTES}
    assert {name for name, right in stated.items() if right is Right.PUBLIC} == PUBLIC
    assert {name for name, right in stated.items() if right is Right.APPROVER} == {"POST /runs/{run_id}/approval"}
    assert set(stated.values()) == {Right.PUBLIC, Right.VIEWER, Right.APPROVER}
    assert not any(route.include_in_schema for route in served)


@pytest.mark.parametrize("role", MAY_VIEW)
async def test_pages_admit_exactly_who_may_view(role: str | None, fakes: api.Fakes) -> None:
    """Whoever may not is turned away at each page: to the form without a token, with 403 for one of another role."""
    run = console.run(fakes)
    console.finish(fakes, run.id)
    async with console.http(fakes, role) as browser:
        for route in pages.ROUTES:
            if route.method != "GET" or route.right is Right.PUBLIC:
                continue
            answer = await browser.get(path_of(route, run.id))
            is_turned_away = answer.status_code in {401, 403} or "/sign-in" in answer.headers.get("location", "")
            assert is_turned_away is not MAY_VIEW[role], route.path


async def test_signed_out_people_are_led_to_the_form_and_back(fakes: api.Fakes) -> None:
    """The page that was asked for stands in the form, and is where signing in leads."""
    run = console.run(fakes)
    async with console.http(fakes) as browser:
        asked = await browser.get(f"/runs/{run.id}")
        form = await browser.get(asked.headers["location"])
        signed = await console.signed_in(browser, next=f"/runs/{run.id}")
        page = await browser.get(signed.headers["location"])
    assert (asked.status_code, asked.headers["location"]) == (303, f"/sign-in?next=/runs/{run.id}")
    assert f'value="/runs/{run.id}"' in form.text
    assert (signed.status_code, page.status_code) == (303, 200)
    assert "flush-cache" in page.text


async def test_the_cookie_is_out_of_reach_and_says_nothing(fakes: api.Fakes) -> None:
    """No script reads it, no other site sends it, TLS keeps it secure, and it is not the token."""
    async with console.http(fakes) as browser:
        plain = (await console.signed_in(browser)).headers["set-cookie"]
    async with console.http(fakes, base_url="https://dsctl") as browser:
        secure = (await console.signed_in(browser)).headers["set-cookie"]
    assert re.fullmatch(r"dsctl_session=[\w-]{43}; HttpOnly; Path=/; SameSite=strict", plain)
    assert secure.endswith("; Secure")
    assert "token-viewer" not in plain


@pytest.mark.parametrize(
    ("token", "status", "said"),
    [
        ("", 401, "token"),
        ("token-nobody", 401, "unknown, revoked or expired"),
        ("token-events", 403, "events has the role events"),
        ("\x01\r\nSet-Cookie: a=b", 401, "unknown"),
    ],
)
async def test_a_token_that_may_not_view_opens_no_session(token: str, status: int, said: str, fakes: api.Fakes) -> None:
    """The form says why, in the words of the API, and keeps nothing that was typed."""
    async with console.http(fakes) as browser:
        answer = await browser.post("/sign-in", data={"token": token, "next": "/runs"})
    assert (answer.status_code, "set-cookie" in answer.headers) == (status, False)
    assert said in answer.text
    assert "token-" not in answer.text


@pytest.mark.parametrize(
    "wanted", ["//evil.example", "https://evil.example/", "/\\evil.example", "/runs/../x", "javascript:x"]
)
async def test_signing_in_leads_to_no_other_server(wanted: str, fakes: api.Fakes) -> None:
    """Whatever a link says, the way goes on to a page of ours."""
    async with console.http(fakes) as browser:
        form = await browser.get("/sign-in", params={"next": wanted})
        answer = await console.signed_in(browser, next=wanted)
    assert answer.headers["location"] == "/runs"
    assert "evil" not in form.text


async def test_a_session_ends_with_its_token(fakes: api.Fakes) -> None:
    """Revoking the token is enough: the next click leads to the form."""
    async with console.http(fakes) as browser:
        await console.signed_in(browser, "operator")
        before = await browser.get("/runs")
        await fakes.tokens.revoke("operator")
        after = await browser.get("/runs")
    assert (before.status_code, after.status_code) == (200, 303)


async def test_signing_out_ends_the_session_and_not_only_the_cookie(fakes: api.Fakes) -> None:
    """A copy of the cookie is worth nothing afterwards."""
    async with console.http(fakes) as browser:
        await console.signed_in(browser)
        copy = browser.cookies[door.COOKIE]
        left = await browser.post("/sign-out")
        browser.cookies.set(door.COOKIE, copy)
        again = await browser.get("/runs")
    assert (left.status_code, left.headers["location"]) == (303, "/sign-in")
    assert 'dsctl_session=""' in left.headers["set-cookie"]
    assert again.status_code == 303


async def test_signing_in_again_gives_a_new_session_and_ends_the_old_one(fakes: api.Fakes) -> None:
    """An id that somebody planted in the browser before is not the one that counts afterwards."""
    async with console.http(fakes) as browser:
        browser.cookies.set(door.COOKIE, "planted")
        await console.signed_in(browser)
        [first] = [one.value for one in browser.cookies.jar if one.value != "planted"]
        browser.cookies.clear()
        browser.cookies.set(door.COOKIE, str(first))
        second = await console.signed_in(browser)
        browser.cookies.clear()
        browser.cookies.set(door.COOKIE, str(first))
        again = await browser.get("/runs")
    assert str(first) not in second.headers["set-cookie"]
    assert again.status_code == 303


async def test_sessions_end_after_a_shift_and_after_a_long_rest(fakes: api.Fakes, clock: FakeClock) -> None:
    """Use renews a session, but not for ever."""
    async with console.http(fakes) as browser:
        await console.signed_in(browser)
        for _ in range(7):
            clock.move(sessions.MAX_IDLE_SECONDS * 0.8)
            assert (await browser.get("/runs")).status_code == 200
        clock.move(sessions.MAX_IDLE_SECONDS * 0.8)
        assert (await browser.get("/runs")).status_code == 303
        await console.signed_in(browser)
        clock.move(sessions.MAX_IDLE_SECONDS + 1)
        assert (await browser.get("/runs")).status_code == 303


def test_sessions_are_bounded(clock: FakeClock) -> None:
    """When there is no room, whoever was away longest has to sign in again."""
    held = sessions.Sessions(clock)
    ids = [held.open("t") for _ in range(sessions.MAX_SESSIONS)]
    assert held.token(ids[0]) == "t"
    held.open("t")
    assert len(held) == sessions.MAX_SESSIONS
    assert (held.token(ids[0]), held.token(ids[1])) == ("t", None)


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}]
)
@pytest.mark.parametrize("path", ["/sign-in", "/sign-out"])
async def test_forms_of_other_sites_are_refused(path: str, headers: Mapping[str, str], fakes: api.Fakes) -> None:
    """Neither does another site sign anybody in, nor out."""
    async with console.http(fakes) as browser:
        await console.signed_in(browser)
        answer = await browser.post(path, data={"token": "token-admin"}, headers=headers)
        still = await browser.get("/runs")
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    assert "viewer" in still.text


async def test_every_answer_carries_the_policy_and_no_page_has_anything_inline(fakes: api.Fakes) -> None:
    """Pages, redirects, errors, files and streams: nothing but this server's own files may be loaded or run."""
    run = console.run(fakes)
    console.finish(fakes, run.id)
    async with console.http(fakes, "viewer") as browser, console.http(fakes) as stranger:
        answers = [await browser.get(path_of(route, run.id)) for route in pages.ROUTES if route.method == "GET"]
        answers += [await stranger.get("/runs"), await browser.get("/runs/run_0"), await console.signed_in(stranger)]
        answers += [await stranger.post("/sign-in", data={"token": "x"}), await browser.get("/runs?unfinished=perhaps")]
    assert {answer.headers["content-security-policy"] for answer in answers} == {door.POLICY}
    assert {answer.headers["x-content-type-options"] for answer in answers} == {"nosniff"}
    for answer in answers:
        if answer.headers.get("content-type", "").startswith("text/html"):
            assert inline_in(answer.text) == []


class Inline(parser.HTMLParser):
    """Collects what a strict policy would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag == "style" or (tag == "script" and "src" not in names):
            self.found.append(tag)
        self.found += [name for name in names if name == "style" or name.startswith("on")]
        self.found += [value for name, value in names.items() if name in {"src", "href", "action"} and value[:1] != "/"]


def inline_in(html: str) -> list[str]:
    found = Inline()
    found.feed(html)
    return found.found


async def test_a_run_is_told_from_who_asked_to_what_came_of_it(fakes: api.Fakes, clock: FakeClock) -> None:
    """Header, order, steps, difference, verification, refusals, log and commands stand on one page."""
    run = console.run(fakes)
    console.finish(fakes, run.id)
    denied = outcomes.Decision(
        "dec_1", clock.now(), "chat", "chat/n1", "flush-cache", "denied", "flushed 60 s ago", incident_id="inc_1"
    )
    other = outcomes.Decision("dec_2", clock.now(), "chat", "chat/n1", "reboot", "allowed", "fine", incident_id="inc_1")
    fakes.decisions.rows += [denied, other]
    clock.move(240)
    async with console.http(fakes, "viewer") as browser:
        html = (await browser.get(f"/runs/{run.id}")).text
    text = shown(html)
    for wanted in (
        "flush-cache on chat/n1",
        "succeeded recovered asked for 4 min ago",
        "recovered after 4 s",
        "Asked by alex Because wrong answers",
        "Incident inc_1",
        "flush flush-cache tier=l1 done",
        "chat/n1 cache entries 12 0",
        "cache_wrong_ratio must recover within 1 min and hold for 10 s.",
        "cache_wrong_ratio is 0, at most 0.01, held for 10 s",
        "flush-cache on chat/n1: flushed 60 s ago",
        "step finished flush flushed 12 entries",
        "dsctl remediate flush-cache --node n1 --input tier=l1 --reason 'wrong answers'",
    ):
        assert wanted in text, wanted
    assert "reboot" not in text
    assert "dsctl runs cancel" not in text
    assert "data-stream" not in html


def shown(html: str) -> str:
    """Return the text of a page as a reader sees it, blanks folded."""

    class Text(parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.said: list[str] = []

        def handle_data(self, data: str) -> None:
            self.said.append(data)

    found = Text()
    found.feed(html)
    return " ".join(" ".join(found.said).split())


async def test_a_run_that_goes_on_is_followed_from_its_last_event(fakes: api.Fakes) -> None:
    """The page names its stream and what it has already, and says how to stop the run by hand."""
    run = console.run(fakes)
    async with console.http(fakes, "viewer") as browser:
        html = (await browser.get(f"/runs/{run.id}")).text
    assert f'data-stream="/runs/{run.id}/events-stream?after=1"' in html
    assert f"dsctl runs cancel {run.id}" in html
    assert "flush flush-cache tier=l1 running" in shown(html)


async def test_hostile_text_is_text(fakes: api.Fakes, clock: FakeClock) -> None:
    """Names and reasons come from people and from the fleet: none of them becomes markup anywhere."""
    evil = console.HOSTILE
    run = console.run(fakes, requested_by=evil, reason=evil, service=evil, node=evil, inputs={evil: evil})
    fakes.runs.event(run.id, api.runs.RunEventKind.STEP_FAILED, "flush", error=evil)
    fakes.runs.end(run.id, outcomes.RunState.FAILED, outcomes.Verdict.WORSE, evil)
    fakes.automation.brakes[evil] = evil
    fakes.decisions.rows.append(
        outcomes.Decision("dec_1", clock.now(), evil, evil, evil, "denied", evil, incident_id="inc_1")
    )
    fakes.tokens.rows["evil"] = api.TokenInfo(evil, "viewer", clock.now())
    async with console.http(fakes, "evil") as browser:
        answers = [
            await browser.get(f"/runs/{run.id}"),
            await browser.get("/runs"),
            await browser.get(f"/runs/{run.id}/events-stream"),
            await browser.get("/runs/%3Cimg%20src=x%20onerror=alert(1)%3E"),
            await browser.get("/sign-in", params={"next": evil}),
        ]
    assert all("{{7*7}}" in answer.text for answer in answers[:3])  # nor does the server take it for a template
    for answer in answers:
        found = Inline()
        found.feed(answer.text)
        assert "img" not in found.tags
        assert found.found == []


async def test_secrets_among_inputs_are_hidden(fakes: api.Fakes) -> None:
    """An input that is called a token is shown neither in the page nor in the command to copy."""
    run = console.run(fakes, inputs={"api_token": "hunter2", "tier": "l1"})
    async with console.http(fakes, "viewer") as browser:
        html = (await browser.get(f"/runs/{run.id}")).text
    assert "hunter2" not in html
    assert "api_token=***" in html


async def test_the_list_shows_the_newest_and_where_they_stand(fakes: api.Fakes) -> None:
    """Newest first; a filter is in the address; an empty list says what to type."""
    first, second = console.run(fakes), console.run(fakes, node="n2", service="code")
    console.finish(fakes, first.id)
    async with console.http(fakes, "viewer") as browser:
        everything = (await browser.get("/runs")).text
        going_on = (await browser.get("/runs?unfinished=true")).text
        of_code = (await browser.get("/runs?service=code")).text
        nothing = (await browser.get("/runs?service=nope")).text
        wrong = await browser.get("/runs", params={"service": "<b>"})
        root = await browser.get("/")
    assert everything.index(second.id) < everything.index(first.id)
    assert (first.id in going_on, second.id in going_on) == (False, True)
    assert (first.id in of_code, second.id in of_code) == (False, True)
    assert "dsctl remediate flush-cache" in nothing
    assert (wrong.status_code, root.headers["location"]) == (422, "/runs")


async def test_a_long_list_says_that_there_is_more(fakes: api.Fakes) -> None:
    """Fifty are shown, and how to see the others."""
    for _ in range(51):
        console.run(fakes)
    async with console.http(fakes, "viewer") as browser:
        html = (await browser.get("/runs")).text
    assert html.count('class="id"') == 50
    assert "Only the newest 50" in html


async def test_whoever_holds_the_brake_is_named_on_every_page(fakes: api.Fakes) -> None:
    """The kill switch is seen before anything else."""
    fakes.automation.brakes["sam"] = "network change"
    run = console.run(fakes)
    async with console.http(fakes, "viewer") as browser:
        texts = [shown((await browser.get(path)).text) for path in ("/runs", f"/runs/{run.id}")]
    assert all("Automation is paused by sam : network change" in text.replace("sam:", "sam :") for text in texts)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [("/runs/run_0", 404, "no run run_0"), ("/runs?unfinished=x", 422, "unfinished"), ("/static/x.css", 404, "reload")],
)
async def test_errors_are_pages(path: str, status: int, said: str, fakes: api.Fakes) -> None:
    """A person reads the API's words in a page, with a way back."""
    async with console.http(fakes, "viewer") as browser:
        answer = await browser.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert said in answer.text
    assert 'href="/runs"' in answer.text


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"token": "token-admin"}', "application/json", 415),
        (b"token=%ff%fe", "application/x-www-form-urlencoded", 400),
        (b"a=1&" * 20, "application/x-www-form-urlencoded", 400),
        (b"token=" + b"x" * guarded.MAX_BODY_BYTES, "application/x-www-form-urlencoded", 413),
    ],
    ids=["json", "bytes", "many", "large"],
)
async def test_forms_that_are_none(body: bytes, kind: str, status: int, fakes: api.Fakes) -> None:
    """What is no form opens no session and breaks nothing."""
    async with console.http(fakes) as browser:
        answer = await browser.post("/sign-in", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, "set-cookie" in answer.headers) == (status, False)


async def test_files_come_from_the_package_and_may_be_kept(fakes: api.Fakes) -> None:
    """Each file has its type; the address a page names holds its version, and only that one is kept for ever."""
    async with console.http(fakes) as browser:
        form = (await browser.get("/sign-in")).text
        named = re.findall(r'(?:href|src)="(/static/[^"]+)"', form)
        kept = [await browser.get(path) for path in named]
        old = await browser.get("/static/console.css?v=old")
        outside = [await browser.get(f"/static/{name}") for name in ("..%2Fpages.py", "%2e%2e", "pages.py")]
    assert {path.split("?")[0] for path in named} == {f"/static/{name}" for name in console.rendered().assets}
    assert sorted(answer.headers["content-type"] for answer in kept) == [
        "image/svg+xml",
        "text/css; charset=utf-8",
        "text/javascript; charset=utf-8",
    ]
    assert all("immutable" in answer.headers["cache-control"] for answer in kept)
    assert old.headers["cache-control"] == "no-cache"
    assert {answer.status_code for answer in outside} == {404}


async def test_the_api_is_as_it_was(fakes: api.Fakes) -> None:
    """Its document holds no page, a session's cookie opens none of its routes, and JSON stays JSON."""
    async with console.http(fakes) as browser:
        await console.signed_in(browser, "admin")
        document = (await browser.get("/api/v1/openapi.json")).json()
        listed = await browser.get("/api/v1/runs")
    assert not any(path.startswith(("/runs", "/sign", "/static")) for path in document["paths"])
    assert (listed.status_code, listed.headers["content-type"]) == (401, "application/problem+json")
