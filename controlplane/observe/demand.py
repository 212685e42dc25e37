"""Reads how much has arrived at a service, in bins of equal length: the `DemandReader` that forecasts are made from.

`wiring` makes one beside the reader. A bin holds the mean rate of arrivals, refused ones included, as the profile's
`request_rate` counts them at service scope. A bin that the store knows nothing about is absent, never zero: what was not
measured did not stop arriving. Concurrency: async; long spans are asked for in pieces, one after the other.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from controlplane import promql
from controlplane.domain import errors, services, windows
from controlplane.observe import profiles, prometheus

SIGNAL = "request_rate"
# Prometheus answers at most 11,000 points a series.
_MAX_POINTS = 10_000


class PrometheusDemand:
    """Implements the `DemandReader` port."""

    def __init__(
        self,
        client: prometheus.PrometheusClient,
        managed: Sequence[services.Service],
        known: Mapping[str, profiles.Profile],
    ) -> None:
        self._client = client
        self._services = {one.name: one for one in managed}
        self._profiles = known

    async def history(self, service: str, start: datetime, end: datetime, step_seconds: int) -> windows.Series:
        """Return arrivals per second by bin, only of bins that ended by `end`; times are where bins begin.

        Raises NotFoundError for a service that is not managed or whose profile counts no arrivals, RetryLaterError
        when the store does not answer.
        """
        query = self._query(service, step_seconds)
        first = math.ceil(start.timestamp() / step_seconds) * step_seconds
        last = math.floor(end.timestamp() / step_seconds) * step_seconds
        points: dict[float, float] = {}
        # The rate over a range is known where the range ends: one step after its bin began.
        for begin in range(first + step_seconds, last + 1, step_seconds * _MAX_POINTS):
            until = min(last, begin + step_seconds * (_MAX_POINTS - 1))
            for track in await self._client.between(query, begin, until, step_seconds):
                points |= {time - step_seconds: max(0.0, value) for time, value in track.points if math.isfinite(value)}
        return windows.Series(tuple(sorted(points)), tuple(points[time] for time in sorted(points)))

    def _query(self, name: str, step_seconds: int) -> str:
        service = self._services.get(name)
        if service is None:
            raise errors.NotFoundError(f"service {name!r} is not managed; services.yaml names those that are")
        asked = self._profiles[service.profile].queries.signals.get(SIGNAL)
        if asked is None or (asked.service or asked.node) is None:
            raise errors.NotFoundError(f"profile {service.profile} does not say what arrives at {name}; map {SIGNAL}")
        by = sorted(service.selector)
        if asked.service is not None:
            return asked.service.render(
                selector=promql.selector(service.selector), by=by, window=promql.duration(step_seconds)
            )
        # Where only nodes are counted, the sum over them is what arrives.
        node = asked.node or promql.Template("")
        text = node.render(selector=promql.selector(service.selector), by=by, window=promql.duration(step_seconds))
        return f"sum by ({', '.join(by)}) ({text})"
