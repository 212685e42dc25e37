"""The catalogue of canonical signals: the words in which the product speaks about measurements.

`wiring` loads it once at start; profiles, the reader and `doctor` check names against it. Pure but for reading
the file that ships in this package. Never talks to Prometheus.
"""

import importlib.resources
from collections.abc import Mapping

import pydantic

from controlplane import strictyaml
from controlplane.domain import signals as sig

Catalogue = Mapping[str, sig.Signal]


class _Row(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    unit: str
    scopes: list[sig.Scope] = pydantic.Field(min_length=1)
    combine: sig.Combine
    help: str = pydantic.Field(min_length=1)
    fresh_seconds: float = pydantic.Field(default=30.0, gt=0)


class _File(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    signals: dict[str, _Row]


def load() -> Catalogue:
    """Return the catalogue that ships with the product, by name."""
    source = importlib.resources.files("controlplane.observe") / "catalogue.yaml"
    return parse(source.read_text(encoding="utf-8"), source="catalogue.yaml")


def parse(text: str, *, source: str) -> Catalogue:
    """Return the catalogue in `text`; raises InvalidInputError with file and line."""
    rows = strictyaml.parse(_File, text, source=source).signals
    return {name: _signal(name, row) for name, row in rows.items()}


def _signal(name: str, row: _Row) -> sig.Signal:
    return sig.Signal(
        name=name,
        unit=row.unit,
        scopes=tuple(row.scopes),
        combine=row.combine,
        help=row.help,
        fresh_seconds=row.fresh_seconds,
    )
