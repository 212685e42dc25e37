"""Panels of Grafana's classic model: one small function for each kind, and the grid they are laid out on.

Used by `fleet`. Pure: values in, plain dictionaries out. What a panel asks is an expression that somebody else wrote;
here is only how it is shown. Every panel reads the datasource that the board's variable names, never a fixed one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
# Grafana's grid has 24 columns.
COLUMNS = 24
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"


@dataclass(frozen=True, slots=True)
class Query:
    """One expression and how its series are called; Grafana fills in labels, as in `{{service}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel before it has a place. `body` is what differs between the kinds; `repeat` names a variable."""

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    width: int
    height: int
    body: Json
    repeat: str = ""
    links: Sequence[Json] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and the panels under it."""

    title: str
    panels: Sequence[Panel] = field(default_factory=tuple)


def stat(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    steps: Sequence[tuple[float | None, str]],
    texts: Mapping[int, str] | None = None,
    decimals: int | None = None,
    links: Sequence[Json] = (),
) -> Panel:
    """Return a panel with the newest value, coloured by `steps` (from, colour); `texts` replace whole numbers."""
    mapped = {str(number): {"text": text, "index": index} for index, (number, text) in enumerate((texts or {}).items())}
    defaults: Json = {
        "thresholds": {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]},
        "color": {"mode": "thresholds"},
        "mappings": [{"type": "value", "options": mapped}] if mapped else [],
        "noValue": "no data",  # nobody knows is not zero
    } | ({} if decimals is None else {"decimals": decimals})
    options = {
        "graphMode": "none" if texts else "area",
        "colorMode": "background" if texts else "value",
        "justifyMode": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    body: Json = {"type": "stat", "fieldConfig": {"defaults": defaults, "overrides": list[Json]()}, "options": options}
    return Panel(title, description, unit, (query,), 4, 5, body, links=links)


def lines(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str,
    width: int = 12,
    highest: float | None = None,
    is_stacked: bool = False,
    is_steps: bool = False,
    band: tuple[str, str] | None = None,
    repeat: str = "",
    links: Sequence[Json] = (),
) -> Panel:
    """Return a panel with lines over time. `band` are the legends of its lower and upper edge."""
    custom: Json = {
        "drawStyle": "line",
        "lineWidth": 1,
        "lineInterpolation": "stepAfter" if is_steps else "linear",
        "fillOpacity": 25 if is_stacked else 0,
        "showPoints": "never",
        "spanNulls": False,  # a hole is a hole
        "stacking": {"mode": "normal" if is_stacked else "none", "group": "A"},
    }
    defaults: Json = {"custom": custom, "min": 0, "color": {"mode": "palette-classic"}, "noValue": "no data"}
    defaults |= {} if highest is None else {"max": highest}
    options: Json = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    overrides = [] if band is None else _band(*band)
    body: Json = {
        "type": "timeseries",
        "fieldConfig": {"defaults": defaults, "overrides": overrides},
        "options": options,
    }
    return Panel(title, description, unit, tuple(queries), width, 8, body, repeat=repeat, links=links)


def _band(low: str, high: str) -> list[Json]:
    """Fill the room between two lines, and do not draw their edges."""
    faint = [{"id": "custom.lineWidth", "value": 0}, {"id": "color", "value": {"mode": "fixed", "fixedColor": BLUE}}]
    fill = [{"id": "custom.fillBelowTo", "value": low}, {"id": "custom.fillOpacity", "value": 20}]
    return [_override(low, faint), _override(high, [*faint, *fill])]


def _override(legend: str, properties: list[Json]) -> Json:
    return {"matcher": {"id": "byName", "options": legend}, "properties": properties}


def link(title: str, url: str, tooltip: str) -> Json:
    """Return a link to another page, which opens beside the board."""
    return {
        "title": title,
        "type": "link",
        "icon": "external link",
        "tooltip": tooltip,
        "url": url,
        "tags": [],
        "asDropdown": False,
        "targetBlank": True,
        "includeVars": False,
        "keepTime": False,
    }


def laid_out(rows: Iterable[Row]) -> list[Json]:
    """Return headings and panels with their ids and places: from left to right, and down when a line is full."""
    found: list[Json] = []
    y = 0
    for row in rows:
        found.append(_heading(row, len(found) + 1, y))
        y += 1
        x = line_height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, line_height = 0, y + line_height, 0
            found.append(_placed(panel, len(found) + 1, x, y))
            x, line_height = x + panel.width, max(line_height, panel.height)
        y += line_height
    return found


def _heading(row: Row, number: int, y: int) -> Json:
    place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
    return {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}


def _placed(panel: Panel, number: int, x: int, y: int) -> Json:
    config = panel.body["fieldConfig"]
    placed = {
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "targets": [_target(query, place) for place, query in enumerate(panel.queries)],
        **panel.body,
        "fieldConfig": {**config, "defaults": {"unit": panel.unit, **config["defaults"]}},
    }
    placed |= {"links": list(panel.links)} if panel.links else {}
    if panel.repeat:
        placed |= {"repeat": panel.repeat, "repeatDirection": "h", "maxPerRow": 2}
    return placed


def _target(query: Query, place: int) -> Json:
    return {
        "refId": chr(ord("A") + place),
        "datasource": DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "range": True,
    }
