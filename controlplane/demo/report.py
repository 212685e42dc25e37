"""What the demo prints at its end: one row for each scenario, and what did not go as it should."""

from collections.abc import Iterable, Sequence

from rich import box, table
from rich.console import Console

from controlplane.scenarios import runner
from controlplane.scenarios import samples as smp


def show(console: Console, results: Sequence[runner.ScenarioResult]) -> None:
    """Print both tables; times count from the injection, P99 and error ratio are what clients saw."""
    console.print(
        _table(
            "what happened",
            ("id", "injected", "detected by", "acted", "recovered", "verdict"),
            (_happened(result) for result in results),
        )
    )
    console.print(
        _table(
            "what clients saw (P99, wrong or failed answers)",
            ("id", "before", "during", "after"),
            (_saw(result) for result in results),
        )
    )
    for result in results:
        for complaint in result.complaints:
            console.print(f"{result.story.id}: {complaint}", markup=False, soft_wrap=True)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> table.Table:
    drawn = table.Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def _happened(result: runner.ScenarioResult) -> tuple[str, ...]:
    injected = "\n".join(f"{at.inject.fault}\non {at.inject.node}" for at in result.story.injections())
    detected = f"{result.opened_by}\n{_seconds(result.detected_seconds)}" if result.opened_by else "nobody"
    acted, recovered = _seconds(result.acted_seconds), _seconds(result.clients.recovered_seconds)
    return result.story.id, injected, detected, acted, recovered, result.clients.verdict.value


def _saw(result: runner.ScenarioResult) -> tuple[str, ...]:
    clients = result.clients
    return result.story.id, _measure(clients.before), _measure(clients.during), _measure(clients.after)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _measure(seen: smp.Measure) -> str:
    if seen.p99_seconds is None or seen.error_ratio is None:
        return "no request"
    return f"{seen.p99_seconds * 1000:.0f} ms, {seen.error_ratio:.1%}"
