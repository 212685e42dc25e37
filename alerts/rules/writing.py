"""What every rule is made of, and the PromQL of one service that rules are written from.

Used by `conditions` (which says what is bad) and `generate` (which writes the file). Pure. The expressions of an
engine come in as values, because this package must not know how profiles are read.
"""

from dataclasses import dataclass

from alerts.rules import pace
from controlplane import promql
from controlplane.domain import findings, services

# The range of rates where a rule does not ask for another one. Shorter than the shortest hold of two minutes: a spike
# stays in a rate for the whole range, and must be gone from it before the hold is over.
WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert. `hold_seconds` is how long it must last, before the pace; text may use Prometheus's templates.

    `stage` tells rules of one alert apart that differ only in their threshold; 0 where there is one.
    """

    alert: str
    expr: str
    hold_seconds: float
    severity: findings.Severity
    fault: findings.FaultClass
    signal: str
    summary: str
    description: str
    threshold: float | None = None
    is_per_node: bool = False
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes PromQL about one service. An expression is None where the engine does not tell the signal."""

    service: services.Service
    queries: promql.EngineQueries
    pace: pace.Pace

    @property
    def selector(self) -> str:
        """The matchers of the service."""
        return promql.selector(self.service.selector)

    def whole(self, signal: str, window_seconds: float = WINDOW_SECONDS) -> str | None:
        """Return a signal of the service as one series, without labels of nodes."""
        asked = self.queries.signals.get(signal)
        if asked is None or asked.service is None:
            return None
        return self._render(asked.service, self._by(is_per_node=False), window_seconds)

    def total(self, signal: str) -> str | None:
        """Return a signal of the service, added up over its nodes where the engine tells only about nodes."""
        node = self.node(signal)
        return self.whole(signal) or (node and f"sum({node})")

    def node(self, signal: str, *, offset_seconds: float = 0.0) -> str | None:
        """Return a signal as one series per node, now or some time ago."""
        asked = self.queries.signals.get(signal)
        if asked is None or asked.node is None:
            return None
        return self._render(asked.node, self._by(is_per_node=True), WINDOW_SECONDS, offset_seconds)

    def volume(self, signal: str, *, is_per_node: bool) -> str | None:
        """Return the number of events behind a ratio within the usual window."""
        asked = self.queries.signals.get(signal)
        if asked is None or asked.volume is None:
            return None
        return self._render(asked.volume, self._by(is_per_node=is_per_node), WINDOW_SECONDS)

    def up(self) -> str:
        """Return `up` as one series per node: 1, or 0 when the scrape fails."""
        label = self.queries.node_label
        matchers = f'{self.selector}{self.queries.node_matcher},{label}!=""'
        return f"max by ({', '.join(self._by(is_per_node=True))}) (up{{{matchers}}})"

    def _by(self, *, is_per_node: bool) -> tuple[str, ...]:
        names = tuple(sorted(self.service.selector))
        return tuple(dict.fromkeys((*names, self.queries.node_label))) if is_per_node else names

    def _render(
        self, template: promql.Template, by: tuple[str, ...], window_seconds: float, offset_seconds: float = 0.0
    ) -> str:
        offset = promql.duration(self.pace.hold(offset_seconds)) if offset_seconds else ""
        window = promql.duration(self.pace.window(window_seconds))
        return f"({template.render(selector=self.selector, by=by, window=window, offset=offset)})"
