"""Says for `dsctl doctor` which signals of a service are found, missing or stale, and which profile would fit.

Called by the API for `doctor`. Judges a view that was read before; only `fitting` asks Prometheus, one query per
profile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from controlplane import promql
from controlplane.domain import services, windows
from controlplane.domain import signals as sig
from controlplane.observe import catalogue as cat
from controlplane.observe import profiles, prometheus


class Standing(StrEnum):
    """How a signal of a service stands."""

    FOUND = "found"
    PARTIAL = "partial"  # on some nodes only
    IDLE = "idle"  # exported, but nothing was counted yet
    MISSING = "missing"
    STALE = "stale"
    UNREACHABLE = "unreachable"
    UNMAPPED = "unmapped"


_STANDINGS: Mapping[sig.UnknownReason, Standing] = {
    sig.UnknownReason.SOURCE_UNREACHABLE: Standing.UNREACHABLE,
    sig.UnknownReason.NO_SERIES: Standing.MISSING,
    sig.UnknownReason.TARGET_DOWN: Standing.STALE,
    sig.UnknownReason.STALE: Standing.STALE,
    sig.UnknownReason.NOT_FINITE: Standing.IDLE,
    sig.UnknownReason.NOT_IN_PROFILE: Standing.UNMAPPED,
}


@dataclass(frozen=True, slots=True)
class Coverage:
    """One signal of one service. `nodes` are those without a value; `detail` is the reason an operator reads."""

    service: str
    signal: str
    standing: Standing
    detail: str = ""
    nodes: tuple[str, ...] = ()


def of(view: windows.ServiceView, catalogue: cat.Catalogue) -> list[Coverage]:
    """Return one row per signal of the catalogue, in its order."""
    return [_row(view, name) for name in catalogue]


def _row(view: windows.ServiceView, signal: str) -> Coverage:
    readings = {node: one.signals[signal] for node, one in view.nodes.items() if signal in one.signals}
    unknown = {node: reading for node, reading in readings.items() if isinstance(reading, sig.Unknown)}
    whole = view.signals.get(signal)
    blanks = tuple(sorted(unknown))
    if isinstance(whole, sig.Value) or len(unknown) < len(readings):
        standing = Standing.PARTIAL if unknown else Standing.FOUND
        return Coverage(view.service, signal, standing, str(unknown[blanks[0]]) if blanks else "", blanks)
    why = whole or (unknown[blanks[0]] if blanks else sig.Unknown(sig.UnknownReason.NOT_IN_PROFILE))
    return Coverage(view.service, signal, _STANDINGS[why.reason], str(why), blanks)


async def fitting(
    client: prometheus.PrometheusClient, service: services.Service, known: Mapping[str, profiles.Profile]
) -> list[str]:
    """Return the profiles whose engine exports something for this service, most series first.

    Raises RetryLaterError when the store does not answer.
    """
    found: list[tuple[float, str]] = []
    for name, profile in sorted(known.items()):
        query = f"count({profile.detect}{{{promql.selector(service.selector)}}})"
        found += [(-sample.value, name) for sample in await client.instant(query)]
    return [name for _, name in sorted(found)]
