"""The commands against a real server over fakes: what they print, and how they exit."""

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastapi
import pytest
import yaml

from controlplane.api import house, rights
from controlplane.cli import client, failures, following, options, state
from controlplane.cli.commands import auth, doctor
from controlplane.domain import outcomes, runs
from tests.support import api, command_line

Recovered = (outcomes.RunState.SUCCEEDED, outcomes.Verdict.RECOVERED, "p99 back in its band after 4 s")


@pytest.fixture
def address(served: tuple[fastapi.FastAPI, str], fakes: api.Fakes) -> str:
    application, url = served
    application.state.house = fakes.house()
    return url


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> command_line.Cli:
    """The command line with nothing of this machine around it."""
    for variable in ("DSCTL_SERVER", "DSCTL_TOKEN", "DSCTL_TOKEN_FILE", "DSCTL_CONTEXT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("DSCTL_DATA_DIR", str(tmp_path / "data"))

    return command_line.caller(monkeypatch, capsys)


@pytest.fixture
def cli(bare: command_line.Cli, address: str, monkeypatch: pytest.MonkeyPatch) -> command_line.Cli:
    monkeypatch.setenv("DSCTL_SERVER", address)
    monkeypatch.setenv("DSCTL_TOKEN", "token-admin")
    return bare


def test_remediate_shows_asks_nothing_with_yes_and_ends_with_the_verdict(
    cli: command_line.Cli, fakes: api.Fakes
) -> None:
    """One command shows the difference, orders what it showed, follows it, and exits 0 when it recovered."""
    fakes.remediator.ends = Recovered
    done = cli("remediate", "flush-cache", "--node", "n1", "--yes", "--reason", "wrong answers", "--input", "tier=l1")
    assert (done.code, done.err) == (0, "")
    for part in ("chat/n1  cache entries  12", "kill_switch  pass", "flushed 12 entries", "verdict recovered"):
        assert part in done.out
    asked = fakes.remediator.requests[0]
    assert (asked.requested_by, asked.reason, asked.inputs) == ("admin", "wrong answers", {"tier": "l1"})
    assert asked.dedup_key is not None


def test_dry_run_prints_the_difference_and_does_nothing(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """--dry-run changes nothing and asks nothing; as JSON it is the API's preview."""
    shown = cli("remediate", "flush-cache", "--node", "chat/n1", "--dry-run")
    as_json = cli("remediate", "flush-cache", "--node", "n1", "--service", "chat", "--dry-run", "-o", "json")
    assert (shown.code, as_json.code) == (0, 0)
    assert "TARGET   WHAT           BEFORE  AFTER\nchat/n1  cache entries  12      0" in shown.out
    assert json.loads(as_json.out)["plan"]["changes"][0]["after"] == 0
    assert fakes.remediator.requests == []


def test_without_a_terminal_nothing_is_done_unasked(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """Without --yes and without somebody to ask, the command refuses and says how to go on."""
    refused = cli("remediate", "flush-cache", "--node", "n1")
    assert refused.code == failures.Exit.USAGE
    assert "--yes" in refused.err
    assert fakes.remediator.requests == []


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("yes\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_only_yes_is_yes(
    cli: command_line.Cli, fakes: api.Fakes, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    """On a terminal the question names runbook and target, and anything but yes does nothing."""

    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return answer

    fakes.remediator.ends = Recovered
    monkeypatch.setattr(sys, "stdin", Terminal())
    done = cli("remediate", "flush-cache", "--node", "n1")
    assert done.code == code
    assert "Carry out flush-cache on chat/n1? [y/N]" in done.err
    assert bool(fakes.remediator.requests) is (code == 0)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (Recovered, 0),
        ((outcomes.RunState.FAILED, outcomes.Verdict.NOT_RECOVERED, "still wrong"), 8),
        ((outcomes.RunState.NEEDS_HUMAN, None, "look at n1"), 8),
        ((outcomes.RunState.CANCELLED, None, "stopped"), 8),
        ((outcomes.RunState.ROLLED_BACK, outcomes.Verdict.WORSE, "undone"), 9),
    ],
)
def test_exit_code_says_how_the_run_ended(
    cli: command_line.Cli, fakes: api.Fakes, ending: tuple[outcomes.RunState, outcomes.Verdict | None, str], code: int
) -> None:
    """Scripts tell recovered, failed and rolled back apart; JSON is one document on standard output."""
    fakes.remediator.ends = ending
    done = cli("remediate", "flush-cache", "--node", "n1", "--yes", "-o", "json")
    assert done.code == code
    assert json.loads(done.out)["state"] == ending[0].value


def test_refusal_exits_6_with_the_reason(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """The guard's no is told apart from errors, before asking and, with --yes, by the server, which keeps it."""
    fakes.remediator.denied = api.DENIED
    unasked = cli("remediate", "flush-cache", "--node", "n1")
    assert (unasked.code, fakes.remediator.requests) == (6, [])
    ordered = cli("remediate", "flush-cache", "--node", "n1", "--yes", "-o", "json")
    assert ordered.code == 6
    assert len(fakes.remediator.requests) == 1
    error = json.loads(ordered.err.splitlines()[-1])["error"]
    assert (error["code"], "cooldown 300 s" in error["message"]) == ("refused", True)


def test_plan_that_changed_in_between_does_not_run(
    cli: command_line.Cli, fakes: api.Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was shown is what runs: otherwise the command ends with a conflict."""

    def confirm(question: str, settings: state.State) -> None:
        fakes.remediator.version = "2"

    monkeypatch.setattr(options, "confirm", confirm)
    done = cli("remediate", "flush-cache", "--node", "n1")
    assert done.code == 1
    assert "no longer the one" in done.err
    assert fakes.runs.rows == {}


def test_wait_that_times_out_says_that_the_run_goes_on(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """Exit 7 after the time given; the run is left alone and its id is told."""
    done = cli("remediate", "flush-cache", "--node", "n1", "--yes", "--wait-timeout", "0.2s")
    (run_id,) = fakes.runs.rows
    assert done.code == 7
    assert f"dsctl runs watch {run_id}" in done.err
    assert fakes.runs.cancelled == []


def test_no_wait_prints_the_id(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """--no-wait ends at once; -o name prints nothing but the id."""
    done = cli("remediate", "flush-cache", "--service", "chat", "--yes", "--no-wait", "-o", "name")
    (run_id,) = fakes.runs.rows
    assert (done.code, done.out) == (0, f"{run_id}\n")


def test_watch_prints_events_as_they_come(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """Events that happen while one watches are shown, in order, and the end is the exit code."""
    run = fakes.runs.add(fakes.remediator.plan(api.plans.PlanRequest("flush-cache", "chat", "n1", "me")))

    def happen() -> None:
        fakes.runs.event(run.id, runs.RunEventKind.STEP_STARTED, "flush")
        fakes.runs.end(run.id, *Recovered)

    timer = threading.Timer(0.3, happen)
    timer.start()
    done = cli("runs", "watch", run.id)
    timer.join()
    assert done.code == 0
    kinds = [line.split()[1] for line in done.out.splitlines()[:-1]]
    assert kinds == ["submitted", "step_started", "ended"]


def test_watching_survives_a_server_that_is_away(
    cli: command_line.Cli, fakes: api.Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart of the server in the middle is waited for, not an error."""
    run = fakes.runs.add(fakes.remediator.plan(api.plans.PlanRequest("flush-cache", "chat", "n1", "me")))
    calls: list[str] = []
    real = client.Client.get

    def flaky(self: client.Client, path: str, *rest: Any, **named: Any) -> Any:
        calls.append(path)
        if len(calls) == 2:
            raise failures.UnreachableError("connection refused", code="unreachable")
        if len(calls) == 3:
            fakes.runs.end(run.id, *Recovered)
        return real(self, path, *rest, **named)

    monkeypatch.setattr(client.Client, "get", flaky)
    done = cli("runs", "watch", run.id)
    assert done.code == 0
    assert "trying on" in done.err
    assert "verdict recovered" in done.out


def test_interrupted_watching_says_that_the_run_goes_on(cli: command_line.Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the watching with 130 and names the command that stops the run."""

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(client.Client, "get", interrupted)
    done = cli("runs", "watch", "run_1")
    assert done.code == 130
    assert "dsctl runs cancel run_1" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("remediate", "flush-cache", "--yes"), 2, "--service SERVICE or --node NODE"),
        (("remediate", "flush-cache", "--node", "n9", "--yes"), 5, "dsctl nodes list"),
        (("remediate", "flush-cache", "--node", "chat/n1", "--service", "other"), 2, "different services"),
        (("remediate", "nope", "--node", "n1", "--yes"), 5, "did you mean 'flush-cache'?"),
        (("remediate", "flush-cache", "--node", "n1", "--input", "tier"), 2, "name=value"),
        (("remediate", "flush-cache", "--node", "n1", "--input", "a=1", "--input", "a=2"), 2, "given twice"),
        (("remediate", "flush-cache", "--node", "n1", "--wait-timeout", "soon"), 2, "not a duration"),
        (("runs", "get", "run_0"), 5, "run_0"),
        (("runs", "get", "../tokens"), 5, "No such path"),
        (("runs", "list", "--status", "asleep"), 1, "state"),
        (("runbooks", "validate", "missing.yaml"), 2, "missing.yaml"),
        (("nodes", "nonsense"), 2, "No such command"),
    ],
)
def test_mistakes_are_told_with_a_way_on(
    cli: command_line.Cli, arguments: tuple[str, ...], code: int, says: str
) -> None:
    """Each mistake has its exit code and a sentence on standard error; standard output stays empty."""
    done = cli(*arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.err


def test_node_name_in_two_services_must_be_told_apart(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """A name that several services use is an error that lists them, never a guess."""
    assert fakes.feed.fleet is not None
    chat = fakes.feed.fleet.services["chat"]
    node = api.replace(chat.nodes["n1"], service="code")
    code = api.windows.ServiceView("code", {}, {"n1": node})
    fakes.feed.fleet = api.windows.FleetView(fakes.feed.fleet.at, {"chat": chat, "code": code})
    done = cli("remediate", "flush-cache", "--node", "n1", "--yes")
    assert done.code == 2
    assert "chat, code" in done.err
    assert "chat/n1" in done.err


async def test_incidents_and_their_timeline(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """Lists start with NAME and end with AGE; details and timeline speak the loop's own sentences."""
    await fakes.incidents.save(api.incident(), "opened by alert:CacheWrong")
    listed, one = cli("incidents", "list"), cli("incidents", "get", "inc_1")
    timeline, as_yaml = cli("incidents", "timeline", "inc_1"), cli("incidents", "list", "-o", "yaml")
    heading = listed.out.splitlines()[0].split()
    assert (heading[0], heading[-1]) == ("NAME", "AGE")
    assert "chat/n1" in listed.out
    assert "wrong answers from the cache of n1" in one.out
    assert timeline.out.endswith("opened by alert:CacheWrong\n")
    assert yaml.safe_load(as_yaml.out)["items"][0]["id"] == "inc_1"


async def test_text_from_the_fleet_cannot_steer_the_terminal(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """Escape sequences in an incident's sentence are made harmless in tables and in JSON."""
    evil = api.replace(api.incident(), sentence="ok\x1b]0;owned\x07\x9b2J\nroot")
    await fakes.incidents.save(evil, "note \x1b[2J")
    for arguments in (("list",), ("get", "inc_1"), ("timeline", "inc_1"), ("list", "-o", "json")):
        shown = cli("incidents", *arguments).out
        assert not set("\x1b\x07\x9b") & set(shown)


def test_nodes_say_what_is_unknown(cli: command_line.Cli) -> None:
    """A node nobody can read is neither up nor down; its signals name the reason."""
    listed, one = cli("nodes", "list"), cli("nodes", "get", "n2")
    rows = {line.split()[0]: line.split() for line in listed.out.splitlines()[1:]}
    assert (rows["n1"][2], rows["n2"][2], rows["n2"][4]) == ("yes", "-", "0/1")
    assert "last scrape is too old" in one.out
    assert cli("nodes", "list", "-o", "name").out == "chat/n1\nchat/n2\n"


def test_runs_list_events_and_cancel(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """A run can be listed, read and asked to stop under one's own name."""
    run = fakes.runs.add(fakes.remediator.plan(api.plans.PlanRequest("flush-cache", "chat", "n1", "me")))
    assert run.id in cli("runs", "list", "--status", "unfinished").out
    assert "submitted" in cli("runs", "events", run.id).out
    assert "asked for by me" in cli("runs", "get", run.id).out
    assert cli("runs", "cancel", run.id, "--reason", "wrong node").code == 0
    assert fakes.runs.cancelled == [(run.id, "admin (wrong node)")]


def test_kill_switch(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """Pausing needs a reason, shows who holds the brake, and is released."""
    assert cli("automation", "pause").code == 2
    assert "automation is paused" in cli("automation", "pause", "--reason", "network change").out
    assert "network change" in cli("automation", "status").out
    assert cli("automation", "resume").out == "automation is active\n"
    assert fakes.automation.brakes == {}


def test_runbooks_are_listed_read_and_checked(cli: command_line.Cli, tmp_path: Path) -> None:
    """The text of a runbook is printed as it is; a wrong file is refused with its line."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("kind: Runbook\n", encoding="utf-8")
    bad.write_text("kind: Poem\n", encoding="utf-8")
    assert "Empty a cache" in cli("runbooks", "list").out
    assert cli("runbooks", "get", "flush-cache").out == "kind: Runbook\n"
    assert "is a valid runbook" in cli("runbooks", "validate", "--server", str(good)).out
    refused = cli("runbooks", "validate", str(good), str(bad), "--server")
    assert (refused.code, refused.out.count("is a valid runbook"), "bad.yaml:1" in refused.out) == (1, 1, True)


def test_a_plan_shows_its_steps_and_its_difference(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """Before anybody asks for the runbook; nothing is done. As JSON it is the API's preview."""
    shown = cli("runbooks", "plan", "flush-cache", "--node", "n1", "--input", "tier=l1")
    assert (shown.code, fakes.remediator.requests) == (0, [])
    assert "STEP   DOES                 WHEN\nflush  flush-cache tier=l1  -" in shown.out
    assert "chat/n1  cache entries  12      0" in shown.out
    as_json = json.loads(cli("runbooks", "plan", "flush-cache", "--service", "chat", "-o", "json").out)
    assert as_json["plan"]["target"] == "chat"
    assert as_json["plan"]["steps"][0] | {"when": "", "decided": None} == as_json["plan"]["steps"][0]
    assert cli("runbooks", "plan", "flush-cache").code == failures.Exit.USAGE


def test_tokens_are_printed_alone_and_revoked(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """Standard output holds the secret and nothing else, so that it can go into a file."""
    made = cli("auth", "token", "create", "ci", "--role", "viewer", "--expires", "30d")
    assert made.out == "token-ci\n"
    assert fakes.tokens.rows["ci"].expires_at is not None
    listed = cli("auth", "token", "list")
    assert "token-ci" not in listed.out
    assert cli("auth", "token", "revoke", "ci").code == 0
    assert cli("auth", "token", "revoke", "ci").code == 5
    assert cli("auth", "whoami").out == "admin (admin)\n"


def test_doctor_says_what_is_wrong_and_what_to_do(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """Every dependency, the loop and each service's signals have a line, and problems have a hint."""
    fakes.readiness.checks.append(
        house.Check("alertmanager", is_ok=False, detail="connection refused", hint="Start Alertmanager.")
    )
    done = cli("doctor")
    assert done.code == 1
    for part in ("token", "admin (admin)", "connection refused", "alertmanager: Start Alertmanager."):
        assert part in done.out
    assert "1 of 3 found; queue_depth partial, success_ratio missing" in done.out
    fakes.readiness.checks.pop()
    assert cli("doctor", "-o", "json").code == 0


def test_doctor_without_server_or_token(bare: command_line.Cli, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not there and a token that is not valid are told apart."""
    monkeypatch.setenv("DSCTL_SERVER", "http://127.0.0.1:1")
    away = bare("doctor", "-o", "json")
    monkeypatch.setenv("DSCTL_SERVER", address)
    monkeypatch.setenv("DSCTL_TOKEN", "token-nobody")
    stranger = bare("doctor", "-o", "json")
    assert json.loads(away.out)["items"][-1]["name"] == "server"
    assert json.loads(stranger.out)["items"][-1]["name"] == "token"
    assert (away.code, stranger.code) == (1, 1)


def test_doctor_notices_packages_from_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another distribution's `actions` in front of ours is a failed check that names both places."""
    assert doctor.check_packages().state in {"ok", "warn"}
    stray = tmp_path / "actions"
    stray.mkdir()
    (stray / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "actions", raising=False)
    check = doctor.check_packages()
    assert (check.state, f"actions from {tmp_path}" in check.detail) == ("fail", True)


def test_unreachable_server_is_an_error_with_a_hint(bare: command_line.Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is exit 1, in the form asked for."""
    monkeypatch.setenv("DSCTL_SERVER", "http://127.0.0.1:1")
    plain, as_json = bare("runs", "list"), bare("runs", "list", "-o", "json")
    assert (plain.code, plain.out) == (1, "")
    assert "hint:  Is the server up" in plain.err
    assert json.loads(as_json.err)["error"]["code"] == "unreachable"


def test_missing_and_weak_tokens_exit_4(bare: command_line.Cli, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not being known and not being allowed are the same code, with different sentences."""
    monkeypatch.setenv("DSCTL_SERVER", address)
    nobody = bare("runs", "list")
    monkeypatch.setenv("DSCTL_TOKEN", "token-viewer")
    weak = bare("automation", "pause", "--reason", "x")
    assert (nobody.code, weak.code) == (4, 4)
    assert "viewer" in weak.err


def test_server_and_token_are_found_in_order(
    bare: command_line.Cli, address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Default token of this machine < context < environment < flag."""
    data, config = tmp_path / "data", tmp_path / "config" / "dsctl"
    data.mkdir()
    config.mkdir(parents=True)
    for role in ("viewer", "operator", "approver", "admin"):
        (tmp_path / role).write_text(f"token-{role}\n", encoding="utf-8")
    (data / "admin-token").write_text("token-admin\n", encoding="utf-8")
    assert bare("--server", address, "auth", "whoami").out == "admin (admin)\n"
    (config / "config.toml").write_text(
        f'current = "here"\n[contexts.here]\nserver = "{address}"\ntoken_file = "{tmp_path}/viewer"\n',
        encoding="utf-8",
    )
    assert bare("auth", "whoami").out == "viewer (viewer)\n"
    monkeypatch.setenv("DSCTL_TOKEN_FILE", str(tmp_path / "operator"))
    assert bare("auth", "whoami").out == "operator (operator)\n"
    assert bare("--token-file", str(tmp_path / "approver"), "auth", "whoami").out == "approver (approver)\n"
    assert bare("--context", "nowhere", "auth", "whoami").code == 2
    assert bare("--token-file", str(tmp_path / "missing"), "auth", "whoami").code == 4
    assert bare("--server", "localhost:8090", "auth", "whoami").code == 2


def test_rules_are_printed_from_a_services_file(bare: command_line.Cli, tmp_path: Path) -> None:
    """The rules need no server; a missing file is told with the option that names another."""
    path = tmp_path / "s.yaml"
    path.write_text("services: [{name: chat, profile: dsctl, selector: {service: chat}}]\n", encoding="utf-8")
    written, missing = bare("alerts", "rules", "--services", str(path)), bare("alerts", "rules", "--services", "nope")
    groups = [group["name"] for group in yaml.safe_load(written.out)["groups"]]
    assert groups[0] == "dsctl-chat"
    assert (missing.code, "--services FILE" in missing.err) == (5, True)


def test_broken_settings_stop_the_server_with_the_line(bare: command_line.Cli, tmp_path: Path) -> None:
    """`server check-config` refuses a wrong file before anything is built, as `start` does."""
    path = tmp_path / "dsctl.yaml"
    path.write_text("mode: yolo\n", encoding="utf-8")
    for verb in ("check-config", "start"):
        done = bare("server", verb, "--config", str(path))
        assert done.code == 2
        assert f"{path}:1" in done.err


def test_order_is_sent_again_under_the_same_key(
    cli: command_line.Cli, fakes: api.Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that breaks after the order was taken makes no second run."""
    fakes.remediator.ends = Recovered
    real = client.Client._call
    broken: list[str] = []

    def call(self: client.Client, method: str, path: str, *rest: Any) -> Any:
        answer = real(self, method, path, *rest)
        if path == "/runs" and not broken:
            broken.append(path)
            raise failures.UnreachableError("connection reset", code="unreachable")
        return answer

    monkeypatch.setattr(client.Client, "_call", call)
    done = cli("remediate", "flush-cache", "--node", "n1", "--yes")
    assert done.code == 0
    assert (len(broken), len(fakes.runs.rows)) == (1, 1)


def test_answers_that_are_not_ours_are_told() -> None:
    """A proxy's HTML page is an error that says so, not a traceback."""
    with pytest.raises(failures.CliError, match="not JSON"):
        client._understood(502, b"<html>")


def test_roles_are_those_of_the_api() -> None:
    """The command line's list of roles is the API's."""
    assert [role.value for role in auth.Role] == [role.value for role in rights.Role]


def test_every_exit_code_has_a_meaning() -> None:
    """The table in the documentation names each code."""
    assert set(failures.MEANINGS) == set(failures.Exit)


def test_errors_of_the_house_keep_their_kind() -> None:
    """A problem's slug is the error's code for scripts."""
    with pytest.raises(failures.CliError) as caught:
        client._understood(503, json.dumps({"type": "urn:dsctl:problem:overloaded", "detail": "full"}).encode())
    assert (caught.value.code, caught.value.exit_code) == ("overloaded", failures.Exit.ERROR)


@pytest.mark.parametrize("address", ["http://", "http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:port"])
def test_address_that_is_none_is_wrong_usage(bare: command_line.Cli, address: str) -> None:
    """It is told from a server that does not answer."""
    seen = bare("--server", address, "runs", "list")
    assert (seen.code, "is no address of a server" in seen.err) == (2, True)


@pytest.mark.parametrize("token", ["two\nlines", "caf\u00e9"])
def test_token_that_is_none_is_not_sent(
    bare: command_line.Cli, address: str, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """A token file that holds something else is named as the cause."""
    monkeypatch.setenv("DSCTL_TOKEN", token)
    seen = bare("--server", address, "runs", "list")
    assert (seen.code, "no token has" in seen.err) == (4, True)


def test_durations_have_an_end() -> None:
    """No calendar reaches a million years."""
    with pytest.raises(failures.CliError, match="longer than ten years"):
        options.duration("999999999d")


def test_verdict_is_not_said_twice() -> None:
    """The sentence of a run mostly begins with its verdict."""
    run = {"id": "run_1", "state": "succeeded", "verdict": "recovered", "sentence": "recovered: p99 is back"}
    assert following.ending(run) == "run_1 succeeded: recovered: p99 is back"
    assert following.ending(run | {"sentence": "p99 is back"}) == "run_1 succeeded, verdict recovered: p99 is back"
    assert following.ending(run | {"verdict": None, "sentence": ""}) == "run_1 succeeded"


def test_demo_of_no_story_is_wrong_usage(bare: command_line.Cli) -> None:
    """`--only ,` is a slip of the hand and not a wish for all of them."""
    seen = bare("demo", "up", "--only", ",")
    assert (seen.code, "--only names no story" in seen.err) == (2, True)


async def test_a_long_sentence_is_cut_in_the_list_and_whole_below_it(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """A row stays a row; nothing is lost."""
    sentence = "closed: " + "recovered, and this is why; " * 10
    await fakes.incidents.save(replace(api.incident(), sentence=sentence), "closed")
    assert f"{sentence[:89]}\u2026" in cli("incidents", "list").out
    assert sentence.strip() in cli("incidents", "get", "inc_1").out
