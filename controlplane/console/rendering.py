"""Turns values into HTML: the templates, the filters they use, and the files that come with the pages.

Made once by `pages.add`. Everything a template is given is escaped, without exception: reasons, names and sentences come
from people and from the fleet. Templates know no undefined names. Blocks while it reads small files, at the start.
"""

import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import jinja2

from controlplane.domain import errors

_PACKAGE = "controlplane.console"
_MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file that a page loads; `version` changes with its content, so that browsers may keep it."""

    content: bytes
    media_type: str
    version: str


class Rendering:
    """The templates and the assets. Safe from any thread."""

    def __init__(self) -> None:
        self.assets = _read_assets()
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader(_PACKAGE),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"instant": instant, "clock": clock_time, "value": value, "asset": self._asset_url}

    def page(self, template: str, **values: Any) -> str:
        """Return the HTML of a template, whole page or part."""
        return self._templates.get_template(template).render(values)

    def asset(self, name: str) -> Asset:
        """Return a file of the pages; raises NotFoundError."""
        found = self.assets.get(name)
        if found is None:
            raise errors.NotFoundError("no such file; reload the page that asked for it")
        return found

    def _asset_url(self, name: str) -> str:
        return f"/static/{name}?v={self.asset(name).version}"


def _read_assets() -> Mapping[str, Asset]:
    """Read every file once: what is served can then be nothing but one of them, whatever a path says."""
    folder = importlib.resources.files(_PACKAGE) / "static"
    found: dict[str, Asset] = {}
    for file in folder.iterdir():
        kind = _MEDIA_TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            content = file.read_bytes()
            found[file.name] = Asset(content, kind, hashlib.sha256(content).hexdigest()[:12])
    return MappingProxyType(found)


def instant(at: datetime) -> str:
    """Return an instant for people.

    >>> instant(datetime(2026, 3, 2, 9, 0, 5, tzinfo=UTC))
    '2026-03-02 09:00:05 UTC'
    """
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def clock_time(at: datetime) -> str:
    """Return the time of day of an instant, in UTC."""
    return f"{at.astimezone(UTC):%H:%M:%S}"


def value(what: object) -> str:
    """Return a JSON value as people read it.

    >>> value("l1"), value(None), value(True), value(0.25), value({"rung": 2})
    ('l1', '-', 'yes', '0.25', '{"rung": 2}')
    """
    if isinstance(what, bool):
        return "yes" if what else "no"
    if what is None or what == "":
        return "-"
    if isinstance(what, str):
        return what
    return f"{what:.6g}" if isinstance(what, float) else json.dumps(what, default=str)
