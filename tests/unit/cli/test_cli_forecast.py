"""`dsctl forecast`: what people read of forecasts and capacity plans, and what scripts do."""

import json
import sys
from collections.abc import Callable, Generator
from dataclasses import replace

import pytest

from controlplane.cli import failures, main
from controlplane.domain import capacity, forecasts
from tests.support import api
from tests.support import builders as b
from tests.support.clock import START

Cli = Callable[..., tuple[int, str, str]]
PLAN = b.capacity_plan(
    desired=4,
    predicted=4,
    gate=capacity.Gate(True, "open: error at 60 s ahead is 10%, repeating the last value gives 20%"),
    sentence="needs 4 nodes: 40 requests/s foretold (forecast); 3 are there, 3 ready; grows cold to 1",
)


@pytest.fixture(scope="module")
def served() -> Generator[tuple[api.fastapi.FastAPI, str]]:
    application = api.app.create_app(api.Fakes(api.system_clock()).house())
    with api.serving(application) as url:
        yield application, url


@pytest.fixture
def fakes(served: tuple[api.fastapi.FastAPI, str]) -> api.Fakes:
    made = api.Fakes(api.system_clock())
    made.feed.planned = {"chat": capacity.Outlook("chat", PLAN, b.forecast())}
    served[0].state.house = made.house()
    return made


@pytest.fixture
def cli(
    served: tuple[api.fastapi.FastAPI, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    monkeypatch.setenv("DSCTL_SERVER", served[1])
    monkeypatch.setenv("DSCTL_TOKEN", "token-viewer")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dsctl", "forecast", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.run()
        seen = capsys.readouterr()
        return int(ended.value.code or 0), seen.out, seen.err

    return call


@pytest.mark.usefixtures("fakes")
def test_show_gives_the_band_and_how_good_it_has_been(cli: Cli) -> None:
    """The naive forecasts stand beside the error: whoever reads it can judge."""
    code, out, _ = cli("show")
    assert code == 0
    assert "chat: now 10 requests/s; error 10.0% at 60 s ahead (20.0% repeating the last value" in out
    assert "40.0% repeating yesterday" in out
    assert out.splitlines()[1].split() == ["TIME", "(UTC)", "P10", "P50", "P90"]
    assert out.splitlines()[3].split()[-3:] == ["30", "35", "40"]


@pytest.mark.usefixtures("fakes")
def test_plan_gives_nodes_and_the_sentence(cli: Cli) -> None:
    """One row a service, and why."""
    code, out, _ = cli("plan")
    assert (code, out.splitlines()[1].split()) == (0, ["chat", "3", "3", "4", "3", "4", "open"])
    assert f"chat: {PLAN.sentence}" in out


@pytest.mark.usefixtures("fakes")
def test_explain_gives_every_need_with_its_arithmetic(cli: Cli) -> None:
    """And the gate, the horizon, the pools, and who speaks in the ensemble."""
    code, out, _ = cli("explain", "--service", "chat")
    assert code == 0
    for part in (
        PLAN.gate.sentence,
        "looks 60 s ahead",
        PLAN.needs[0].sentence,
        "PLACEABLE",
        "prophet 70%, last_value 30%",
    ):
        assert part in out


def test_what_nobody_can_foretell_says_why(cli: Cli, fakes: api.Fakes) -> None:
    """Neither zero nor an empty table."""
    why = forecasts.NoForecast("chat", forecasts.NoForecastReason.TOO_SHORT, "3 of 24 steps")
    fakes.feed.planned = {"chat": capacity.Outlook("chat", capacity.NoPlan("chat", START, "arrivals are unknown"), why)}
    assert "chat: no forecast: the history is too short (3 of 24 steps)" in cli("show")[1]
    assert "chat: arrivals are unknown" in cli("plan")[1]
    assert "no forecast: the history is too short" in cli("explain")[1]


def test_json_has_everything_for_scripts(cli: Cli, fakes: api.Fakes) -> None:
    """Times, bounds, needs and numbers; null where something is not known."""
    code, out, _ = cli("plan", "-o", "json")
    [item] = json.loads(out)["items"]
    assert (code, item["plan"]["desired"], item["plan"]["needs"][0]["numbers"]) == (0, 4, {"rps": 30.0})
    assert [point["p90"] for point in item["forecast"]["points"]] == [12.0, 40.0]
    assert item["forecast"]["accuracy"]["skill_last_value"] == 0.5
    fakes.feed.planned = {"chat": capacity.Outlook("chat", replace(PLAN, predicted=None), b.forecast())}
    assert json.loads(cli("plan", "-o", "json")[1])["items"][0]["plan"]["predicted"] is None


@pytest.mark.usefixtures("fakes")
def test_an_unknown_service_is_named_with_those_there_are(cli: Cli) -> None:
    """Its capacity may just not be dsctl's to plan."""
    code, _, err = cli("plan", "--service", "search")
    assert code == failures.Exit.NOT_FOUND
    assert "capacity of service 'search' is not planned; it is for chat" in err


def test_no_service_at_all_says_what_is_missing(cli: Cli, fakes: api.Fakes) -> None:
    """A newcomer learns where to read on."""
    fakes.feed.planned = {}
    assert "no service states pools whose nodes dsctl may start" in cli("plan")[1]
