"""The report of a demo: `demo-report.json`, whose keys other tools read. Pure."""

from collections.abc import Sequence

from controlplane.domain import outcomes, policies
from controlplane.scenarios import judging, runner


def as_json(mode: policies.Mode, results: Sequence[runner.ScenarioResult]) -> dict[str, outcomes.Json]:
    """Return the report; every time counts in seconds from the first injection of its scenario."""
    return {"mode": mode.value, "scenarios": [_scenario(result) for result in results]}


def _scenario(result: runner.ScenarioResult) -> outcomes.Json:
    clients = result.clients
    return {
        "id": result.story.id,
        "title": result.story.metadata.title,
        "verdict": clients.verdict.value,
        "opened_by": result.opened_by,
        "detected_s": result.detected_seconds,
        "acted_s": result.acted_seconds,
        "recovered_s": clients.recovered_seconds,
        "before": clients.before.as_json(),
        "during": clients.during.as_json(),
        "after": clients.after.as_json(),
        "held": [_held(one) for one in clients.held],
        "runs": list(result.runs),
        "lost_to_scale_in": result.num_lost,
        "expected": [_expectation(one) for one in result.met],
        "complaints": list(result.complaints),
    }


def _held(one: judging.HeldSeen) -> outcomes.Json:
    held = one.held
    return {
        "level": held.level,
        "from_s": held.from_seconds,
        "until_s": held.until_seconds,
        "limit": {
            "p99_s": held.limits.latency_p99_seconds,
            "error_ratio": held.limits.error_ratio,
            "rejected_ratio": held.limits.rejected_ratio,
        },
        **one.seen.as_json(),
        "is_kept": one.is_kept,
    }


def _expectation(one: judging.Met | judging.Missed) -> outcomes.Json:
    at = one.at_seconds if isinstance(one, judging.Met) else None
    return {"what": str(one.entry.expect), "by_s": one.entry.by_seconds, "at_s": at}
