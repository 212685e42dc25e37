"""The boards: equal to what is checked in, complete, loadable, and about metrics that somebody exports."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from controlplane.api import app as api_app
from dashboards import build, fleet, panels
from tests.support import boards

BOARD = boards.read()
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
SCHEMA = Path(__file__).parent / "classic.schema.json"
PROVISIONING = build.FOLDER / "provisioning"
# Its difference is taken by hand: a rate does not see the first count of a series, and most runbooks end rarely.
RAW_COUNTERS = {"dsctl_runs_total"}


def test_what_is_checked_in_is_what_is_generated() -> None:
    """After a change of a board or of a profile: python -m dashboards.build."""
    assert {path.name for path in build.FOLDER.glob("*.json")} == set(build.boards())
    for name, text in build.boards().items():
        assert (build.FOLDER / name).read_text(encoding="utf-8") == text


def test_the_board_is_what_grafana_can_load() -> None:
    """Names, types and places are those of the classic model; what it does not know is not there."""
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(BOARD)


def test_the_schema_refuses_what_it_should() -> None:
    """A misspelt key, a fixed datasource and a panel without a unit are noticed."""
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    for path, wrong in (
        (("panels", 1, "targts"), []),
        (("panels", 1, "datasource", "uid"), "prometheus"),
        (("panels", 1, "fieldConfig", "defaults", "unit"), ""),
        (("uid",), "other"),
    ):
        broken = boards.read()
        place: Any = broken
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = wrong
        assert not validator.is_valid(broken), path


def test_the_uid_never_changes() -> None:
    """Alerts link to the board by it."""
    assert (BOARD["uid"], fleet.UID) == ("dsctl-fleet", "dsctl-fleet")


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    """A title, one or two sentences, a unit, and what stands there while nobody knows."""
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["noValue"] == "no data"
    assert panel["datasource"] == panels.DATASOURCE
    assert [target["datasource"] for target in panel["targets"]] == [panels.DATASOURCE] * len(panel["targets"])


def test_panels_have_their_own_ids_and_places() -> None:
    """None lies on another and none stands out of the grid."""
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= panels.COLUMNS
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_every_expression_is_about_metrics_that_somebody_exports() -> None:
    """A profile reads each of them, or the control plane tells it: a misspelt name is an empty panel for ever."""
    named = {who: boards.metrics(expr) for who, expr in boards.expressions(BOARD)}
    assert all(named.values())
    known = boards.told()
    assert {who: names - known for who, names in named.items() if names - known} == {}


def test_rates_suit_the_zoom_and_counters_are_never_shown_raw() -> None:
    """Ranges follow the scrape interval unless a panel says over which time, and a counter stands in a rate."""
    for who, expr in boards.expressions(BOARD):
        assert set(re.findall(r"\[([^\]]+)\]", expr)) <= {"$__rate_interval", "1h"}, who
        inside = set(re.findall(r"(?:rate|increase)\(([\w:]+)", expr))
        counters = {name for name in boards.metrics(expr) if name.endswith(("_total", "_bucket"))}
        assert counters - inside <= RAW_COUNTERS, who


def test_names_of_metrics_are_found_in_promql() -> None:
    """The check above would be worth nothing if it overlooked a name or took a label for one."""
    expr = 'sum by (le, node) (rate(a:b_total{c="d e"}[5m] offset 1h)) / on (x) e_f > bool 3 or max(g) * $objective'
    assert boards.metrics(expr) == {"a:b_total", "e_f", "g"}


def test_links_lead_to_pages_of_the_console() -> None:
    """What a person sees on the board is a click away from what dsctl did."""
    links = [*BOARD["links"], *(link for panel in PANELS for link in panel.get("links", ()))]
    assert {link["url"] for link in links} == {"${console}/runs"}
    assert all(link["targetBlank"] for link in links)
    [console] = [one for one in BOARD["templating"]["list"] if one["name"] == "console"]
    assert console["skipUrlSync"] is True
    assert not any(route.path == "/runs" for route in api_app.ROUTES)  # a page, and no route of the API


def test_the_console_of_a_site_is_written_into_its_boards() -> None:
    """The address is a parameter of the command that writes the files."""
    [text] = build.boards("https://dsctl.example/").values()
    [console] = [one for one in json.loads(text)["templating"]["list"] if one["name"] == "console"]
    assert console["query"] == "https://dsctl.example"


def test_the_forecast_is_a_band_between_two_series_that_are_there() -> None:
    """The edges of the band are legends of the panel's own queries."""
    [panel] = [one for one in PANELS if one.get("repeat")]
    legends = {target["legendFormat"] for target in panel["targets"]}
    named = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
    assert named == {"forecast p10", "forecast p90"}
    assert named < legends
    assert panel["repeat"] == "service"


def test_a_runs_end_is_marked_on_every_panel() -> None:
    """The mark names runbook, state and verdict, and needs no token of Grafana's."""
    [runs] = BOARD["annotations"]["list"]
    assert (runs["enable"], runs["titleFormat"], runs["tagKeys"]) == (True, "{{runbook}}", "runbook,state,verdict")
    assert runs["step"] == "60s"
    assert "offset 1m" in runs["expr"]


def test_grafana_is_told_where_the_boards_lie() -> None:
    """The provider reads a folder and lets nobody edit what the next start would overwrite."""
    [provider] = yaml.safe_load((PROVISIONING / "dashboards" / "dsctl.yaml").read_text(encoding="utf-8"))["providers"]
    assert (provider["type"], provider["allowUiUpdates"], provider["disableDeletion"]) == ("file", False, True)
    assert provider["options"]["path"]
    [source] = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))[
        "datasources"
    ]
    assert (source["type"], source["access"]) == ("prometheus", "proxy")
