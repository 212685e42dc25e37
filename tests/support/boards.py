"""The checked-in boards as tests read them: their expressions, and the metrics these are about."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controlplane import telemetry
from controlplane.observe import catalogue, profiles
from dashboards import build, fleet
from tests.support.clock import FakeClock

FLEET = build.FOLDER / f"{fleet.UID}.json"
# What Grafana would fill in.
_VARIABLES = {"$__rate_interval": "1m", "$objective": "0.995", "$service": "chat"}
_WORDS = {"or", "and", "unless", "on", "ignoring", "by", "without", "offset", "bool", "group_left", "group_right"}
_LABEL_LIST = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_ASIDE = re.compile(r'"(?:[^"\\]|\\.)*"|\{[^{}]*\}|\[[^\]]*\]|\boffset\s+\w+')
_NAME = re.compile(r"(?<![\w:$])[a-zA-Z_:][\w:]*(?![\w:]*\s*\()")


def read(path: Path = FLEET) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def expressions(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what asks, and the PromQL it asks."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in board["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]


def filled_in(expr: str) -> str:
    for name, value in _VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def metrics(expr: str) -> set[str]:
    """Return the names of the metrics in an expression."""
    bare = _ASIDE.sub(" ", _LABEL_LIST.sub(" ", filled_in(expr)))
    return set(_NAME.findall(bare)) - _WORDS


def told() -> set[str]:
    """Return every metric that a profile reads or the control plane exports now."""
    known = catalogue.load()
    shipped = [profiles.load(name, known).queries for name in profiles.names()]
    texts = [
        template.text.replace("{selector", "{service")
        for queries in shipped
        for one in queries.signals.values()
        for template in (one.node, one.service)
        if template is not None
    ]
    exposed = telemetry.Telemetry(FakeClock()).exposition().decode()
    return {name for text in texts for name in metrics(text)} | set(
        re.findall(r"^# TYPE (\S+) ", exposed, re.MULTILINE)
    )
