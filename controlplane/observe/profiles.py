"""Profiles: one YAML file per engine, from canonical signals to PromQL.

`wiring` loads the profiles the services name; the reader, `doctor` and the rule generator use them. A new engine
is one more file in a folder of the user's (`search_path`), which also wins over a shipped file of the same name.
Everything is checked when it is read: unknown signals and keys, metrics that no selector narrows, units that do
not fit. Blocks while it reads small files; never talks to Prometheus.
"""

import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from controlplane import promql, strictyaml
from controlplane.domain import errors
from controlplane.domain import signals as sig
from controlplane.observe import catalogue as cat

# A factor per unit an exporter may use, by the base unit of the catalogue.
_FACTORS: Mapping[str, Mapping[str, float]] = {
    "seconds": {"milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9},
    "bytes": {"kibibytes": 2.0**10, "mebibytes": 2.0**20, "gibibytes": 2.0**30},
    "ratio": {"percent": 0.01},
}
_PLACEHOLDERS = frozenset({"selector", "window", "by"})
# `{` that opens neither a placeholder nor the braces of a selector: matchers without our selector.
_BARE_BRACE = re.compile(r"\{(?!selector[,}]|window\}|by\})")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_GATEWAY = "gateway"

Arrivals = Literal["gateway", "completions_plus_queue_growth"]
Query = Annotated[str, pydantic.Field(min_length=1, max_length=2000)]


@dataclass(frozen=True, slots=True)
class Profile:
    """One engine's metrics. `detect` is a metric that only this engine has; mix-ins are already merged."""

    engine: str
    detect: str
    arrivals: Arrivals | None
    queries: promql.EngineQueries


class _Entry(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    query: Query | None = None
    node: Query | None = None
    service: Query | None = None
    volume: Query | None = None
    unit: str | None = None
    source: str | None = None


class _File(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    engine: str = pydantic.Field(pattern=f"^{_NAME.pattern}$")
    detect: str = pydantic.Field(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")
    job: str = ""
    node_label: str = pydantic.Field(default="node", pattern=f"^{promql.LABEL.pattern}$")
    mixins: list[str] = []
    arrivals: Arrivals | None = None
    signals: dict[str, Query | _Entry]


def load(name: str, catalogue: cat.Catalogue, *, search_path: Sequence[Path] = ()) -> Profile:
    """Return the profile `name` with its mix-ins merged; the profile's own signals win over theirs.

    Raises NotFoundError when no folder has it, InvalidInputError with file and line when it is wrong.
    """
    document = _read(name, search_path)
    own = parse(document, catalogue)
    merged: dict[str, promql.SignalQueries] = {}
    for mixin in strictyaml.check(_File, document).mixins:
        merged |= _as_mixin(parse(_read(mixin, search_path), catalogue), own, document)
    merged |= own.queries.signals
    others = sorted({q.source for q in merged.values() if q.source})
    queries = promql.EngineQueries(own.queries.node_label, merged, own.queries.job, tuple(others))
    return Profile(own.engine, own.detect, own.arrivals, queries)


def load_all(
    names: Sequence[str], catalogue: cat.Catalogue, *, search_path: Sequence[Path] = ()
) -> Mapping[str, Profile]:
    """Return each named profile once."""
    return {name: load(name, catalogue, search_path=search_path) for name in sorted(set(names))}


def names(search_path: Sequence[Path] = ()) -> list[str]:
    """Return the names of every profile that can be loaded."""
    folders = [*search_path, _shipped()]
    return sorted({entry.name.removesuffix(".yaml") for f in folders for entry in _files(f)})


def parse(document: strictyaml.Document, catalogue: cat.Catalogue) -> Profile:
    """Return the profile in one document, without its mix-ins; raises InvalidInputError."""
    file = strictyaml.check(_File, document)
    signals = {name: _queries(_Place(document, name), file, catalogue) for name in file.signals}
    _check_arrivals(document, file, signals)
    return Profile(file.engine, file.detect, file.arrivals, promql.EngineQueries(file.node_label, signals, file.job))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a profile a signal stands, to say it in refusals."""

    document: strictyaml.Document
    signal: str

    def refuse(self, message: str) -> errors.InvalidInputError:
        place = self.document.place(("signals", self.signal))
        return errors.InvalidInputError(f"signals.{self.signal}: {message}", place=place)


def _queries(place: _Place, file: _File, catalogue: cat.Catalogue) -> promql.SignalQueries:
    signal = catalogue.get(place.signal)
    if signal is None:
        raise place.refuse(f"no such signal in the catalogue{strictyaml.suggest(place.signal, list(catalogue))}")
    given = file.signals[place.signal]
    entry = _Entry(query=given) if isinstance(given, str) else given
    node, service = _scoped(place, entry, signal)
    factor = _factor(place, entry.unit, signal.unit)
    return promql.SignalQueries(
        node=_template(place, node, factor),
        service=_template(place, service, factor),
        volume=_template(place, entry.volume, 1.0),
        source=entry.source or "",
    )


def _scoped(place: _Place, entry: _Entry, signal: sig.Signal) -> tuple[str | None, str | None]:
    """Spread `query` over the scopes the signal has; without `{by}` it names the node's label itself."""
    if entry.query is None and entry.node is None and entry.service is None:
        raise place.refuse("give a query, or one for node or service")
    if entry.query is not None and (entry.node is not None or entry.service is not None):
        raise place.refuse("give either one query for both scopes, or node and service apart")
    shared = entry.query if entry.query and "{by}" in entry.query else None
    node = entry.node or entry.query
    service = entry.service or shared
    if sig.Scope.NODE not in signal.scopes:
        node, service = None, service or entry.query
        if entry.node is not None:
            raise place.refuse("is measured on services only; give a service query")
    return node, service


def _factor(place: _Place, unit: str | None, base: str) -> float:
    if unit is None or unit == base:
        return 1.0
    known = _FACTORS.get(base, {})
    if unit not in known:
        usable = ", ".join([base, *known])
        raise place.refuse(f"unit {unit!r} cannot be turned into {base}; usable are {usable}")
    return known[unit]


def _template(place: _Place, text: str | None, factor: float) -> promql.Template | None:
    if text is None:
        return None
    unknown = [word for word in re.findall(r"\{(\w+)\}", text) if word not in _PLACEHOLDERS]
    if unknown:
        raise place.refuse(f"unknown placeholder {{{unknown[0]}}}; known are {{by}}, {{selector}}, {{window}}")
    if not promql.Template(text).has_selector:
        raise place.refuse("has no {selector}: the query would read the metrics of other services too")
    if _BARE_BRACE.search(text):
        raise place.refuse('matchers must begin with the selector, as in x{selector,code="500"}')
    return promql.Template(text if factor == 1.0 else f"({text}) * {factor:.12g}")


def _check_arrivals(document: strictyaml.Document, file: _File, signals: Mapping[str, promql.SignalQueries]) -> None:
    """The statement where arrivals come from must fit the query, or people read the wrong demand."""
    rate = signals.get("request_rate")
    if (rate is None) == (file.arrivals is None) and (
        rate is None or (file.arrivals == _GATEWAY) == (rate.source == _GATEWAY)
    ):
        return
    message = (
        "arrivals must say what request_rate counts: gateway (with source: gateway) or completions_plus_queue_growth"
    )
    raise errors.InvalidInputError(message, place=document.place(("arrivals",)))


def _as_mixin(mixin: Profile, own: Profile, document: strictyaml.Document) -> Mapping[str, promql.SignalQueries]:
    """Return the signals of a mix-in, with its job as their source."""
    place = document.place(("mixins",))
    if not mixin.queries.job:
        raise errors.InvalidInputError(f"mix-in {mixin.engine} must name its job", place=place)
    if mixin.queries.node_label != own.queries.node_label:
        message = f"mix-in {mixin.engine} tells nodes apart by {mixin.queries.node_label!r}, this profile does not"
        raise errors.InvalidInputError(message, place=place)
    job = mixin.queries.job
    return {
        name: promql.SignalQueries(q.node, q.service, q.volume, q.source or job)
        for name, q in mixin.queries.signals.items()
    }


def _read(name: str, search_path: Sequence[Path]) -> strictyaml.Document:
    if not _NAME.fullmatch(name):
        raise errors.InvalidInputError(f"profile name {name!r} must be lower-case letters, digits, - and _")
    for folder in (*search_path, _shipped()):
        for entry in _files(folder):
            if entry.name == f"{name}.yaml":
                return strictyaml.read(entry.read_text(encoding="utf-8"), source=str(entry))
    raise errors.NotFoundError(f"no profile {name!r}{strictyaml.suggest(name, names(search_path))}")


def _files(folder: Traversable) -> list[Traversable]:
    return [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")] if folder.is_dir() else []


def _shipped() -> Traversable:
    return importlib.resources.files("controlplane.observe") / "profiles"
