"""Says which signals of a service can be read, on how many of its nodes, and why not elsewhere.

Called by the API, for `dsctl doctor` and for the page of signals. Judges a view that was read before. Pure functions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from controlplane.domain import signals as sig
from controlplane.domain import windows


class Standing(StrEnum):
    """How a signal of a service stands."""

    FOUND = "found"
    PARTIAL = "partial"  # on some nodes only
    UNREACHABLE = "unreachable"
    MISSING = "missing"
    STALE = "stale"
    IDLE = "idle"  # exported, but nothing was counted yet
    UNMAPPED = "unmapped"


# What one unknown reading says about its signal; the first of these that occurs is the most telling.
_STANDINGS: Mapping[sig.UnknownReason, Standing] = {
    sig.UnknownReason.SOURCE_UNREACHABLE: Standing.UNREACHABLE,
    sig.UnknownReason.NO_SERIES: Standing.MISSING,
    sig.UnknownReason.STALE: Standing.STALE,
    sig.UnknownReason.TARGET_DOWN: Standing.STALE,
    sig.UnknownReason.NOT_FINITE: Standing.IDLE,
    sig.UnknownReason.NOT_IN_PROFILE: Standing.UNMAPPED,
}


@dataclass(frozen=True, slots=True)
class Coverage:
    """One signal of one service: `found` of `expected` places have a value; `detail` says why the others have none."""

    service: str
    signal: str
    state: Standing
    found: int
    expected: int
    detail: str = ""


def of(view: windows.ServiceView) -> list[Coverage]:
    """Return one row per signal of the service, by name: its nodes', or the service's own where no node has it."""
    names = sorted({*view.signals, *(name for node in view.nodes.values() for name in node.signals)})
    return [_row(view.service, name, _readings(view, name)) for name in names]


def _readings(view: windows.ServiceView, name: str) -> Mapping[str, sig.Reading]:
    on_nodes = {node.node: node.signals[name] for node in view.nodes.values() if name in node.signals}
    return on_nodes or {"the service": view.signals[name]}


def _row(service: str, signal: str, readings: Mapping[str, sig.Reading]) -> Coverage:
    unknown = {where: reading for where, reading in readings.items() if isinstance(reading, sig.Unknown)}
    found = len(readings) - len(unknown)
    detail = "; ".join(f"{where}: {reading}" for where, reading in sorted(unknown.items()))
    return Coverage(service, signal, _standing(found, list(unknown.values())), found, len(readings), detail)


def _standing(found: int, unknown: Sequence[sig.Unknown]) -> Standing:
    if not unknown:
        return Standing.FOUND
    if found:
        return Standing.PARTIAL
    given = {reading.reason for reading in unknown}
    return next(standing for reason, standing in _STANDINGS.items() if reason in given)
