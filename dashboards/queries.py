"""The PromQL of the boards: the profiles' own, for whatever engine a service runs, over the services that are chosen.

Used by `fleet`. Pure: profiles come in as values. A board must not ask another question than the rules and the reader
do, so nothing is worded anew here: each signal is what the first engine that has it says, or what the next one does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controlplane import promql
from controlplane.domain import signals as sig

# What Grafana fills in: the chosen services, and a range that suits the zoom and holds four scrapes.
SELECTOR = 'service=~"$service"'
WINDOW = "$__rate_interval"
_SERVICE, _NODE = ("service",), ("service", "node")
# How nodes add up to their service; a quantile or a ratio does not, and is asked for at the service.
_AGGREGATORS = {sig.Combine.SUM: "sum", sig.Combine.MEAN: "avg", sig.Combine.MAX: "max", sig.Combine.MIN: "min"}


@dataclass(frozen=True, slots=True)
class Queries:
    """Writes expressions from the engines' queries, in their order: the first that has data for a service counts."""

    engines: Sequence[promql.EngineQueries]
    catalogue: Mapping[str, sig.Signal]

    def service(self, signal: str, window: str = WINDOW, selector: str = SELECTOR) -> str:
        """Return a signal as one series per service; raises KeyError when no engine has it."""
        asked = [engine.signals[signal].service for engine in self.engines if signal in engine.signals]
        parts = [_render(one, _SERVICE, window, selector) for one in asked if one is not None]
        return _first(parts) if parts else self._added_up(signal, window, selector)

    def node(self, signal: str, window: str = WINDOW, selector: str = SELECTOR) -> str:
        """Return a signal as one series per node; raises KeyError when no engine has it."""
        asked = [engine.signals[signal].node for engine in self.engines if signal in engine.signals]
        parts = [_render(one, _NODE, window, selector) for one in asked if one is not None]
        if not parts:
            raise KeyError(signal)
        return _first(parts)

    def _added_up(self, signal: str, window: str, selector: str) -> str:
        how = _AGGREGATORS[self.catalogue[signal].combine]
        return f"{how} by (service) ({self.node(signal, window, selector)})"


def _first(parts: Sequence[str]) -> str:
    """Return an expression of the first part that has data; one that another has as its own last choice goes."""
    known = [part for part in dict.fromkeys(parts) if not any(part in other for other in parts if other != part)]
    return known[0] if len(known) == 1 else " or ".join(f"({part})" for part in known)


def _render(template: promql.Template, by: tuple[str, ...], window: str, selector: str) -> str:
    return template.render(selector=selector, by=by, window=window)
