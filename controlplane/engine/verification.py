"""The `Verifier` port: reads the windows before and after a run's action and has `verify` judge them.

Called by runs while they wait for a verdict. Concurrency: async; holds no state, so any number of runs may ask at
once. The only thing it does to the world is read the metrics store.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from controlplane.domain import errors, outcomes, plans, ports, services
from controlplane.engine import verify

# Long enough for a median that one scrape does not decide, short enough to lie within the trouble.
_BEFORE_SECONDS = 120.0


class Verification:
    """Judges runs against the services' limits."""

    def __init__(self, reader: ports.SignalReader, known: Mapping[str, services.Service], clock: ports.Clock) -> None:
        self._reader = reader
        self._services = known
        self._clock = clock

    async def judge(self, plan: plans.Plan, acted_at: datetime, began_at: datetime) -> outcomes.Verification:
        """Read before and after, compare with untouched nodes, and say the verdict or to keep watching."""
        spec, service = plan.verify, self._services.get(plan.request.service)
        if spec is None or service is None:
            why = "the runbook verifies nothing" if spec is None else f"service {plan.request.service} is not managed"
            return outcomes.Judged(outcomes.Verdict.UNKNOWN, f"unknown: {why}", has_control=False)
        now = max(self._clock.now(), acted_at)
        start = began_at - timedelta(seconds=_BEFORE_SECONDS)
        try:
            before = await self._reader.read_window(service.name, spec.signals, start, began_at)
            after = await self._reader.read_window(service.name, spec.signals, acted_at, now)
        except errors.RetryLaterError as error:
            return _unreachable(spec, acted_at, now, error)
        targets = (plan.request.node,) if plan.request.node else ()
        touched = {*targets, *plan.blast.touched, *plan.blast.unavailable}
        controls = tuple(sorted(set(after.nodes) - touched)) if targets else ()
        return verify.judge(
            verify.Case(
                spec=spec,
                service=service,
                before=before,
                after=after,
                targets=targets,
                controls=controls,
                began_at=began_at,
                acted_at=acted_at,
                now=now,
            )
        )


def _unreachable(
    spec: plans.VerifySpec, acted_at: datetime, now: datetime, error: errors.RetryLaterError
) -> outcomes.Verification:
    """Keep watching while the metrics store does not answer; at the deadline say unknown."""
    left = spec.within_seconds - (now - acted_at).total_seconds()
    if left <= 0:
        return outcomes.Judged(outcomes.Verdict.UNKNOWN, f"unknown at the deadline: {error}", has_control=False)
    return outcomes.Watching(f"watching: {error}", max(1.0, min(error.delay_seconds, left)))
