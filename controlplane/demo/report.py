"""What the demo prints at its end: one row for each scenario, and what did not go as it should."""

from collections.abc import Iterable, Iterator, Sequence

from rich import box, table
from rich.console import Console

from controlplane.scenarios import runner, stories
from controlplane.scenarios import samples as smp

_NOTHING = smp.measure(())


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
            "what clients saw (P99, wrong or failed answers, refused with 429)",
            ("id", "level", "before", "during", "after"),
            (row for result in results for row in _saw(result)),
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
    injected = "\n".join(map(_deed, result.story.deeds()))
    by = (result.opened_by or "nobody").replace(":", ":\n")
    detected = f"{by}\n{_seconds(result.detected_seconds)}" if result.opened_by else by
    acted, recovered = _seconds(result.acted_seconds), _seconds(result.clients.recovered_seconds)
    return result.story.id, injected, detected, acted, recovered, result.clients.verdict.value


def _deed(deed: stories.At) -> str:
    if deed.inject is not None:
        return f"{deed.inject.fault}\non {deed.inject.node}"
    return str(deed)


def _saw(result: runner.ScenarioResult) -> Iterator[tuple[str, ...]]:
    """Yield a row for each level, and above them one for what the story promises a level in its middle."""
    clients = result.clients
    stretches = (clients.before, clients.during, clients.after)
    for one in clients.held:
        held = one.held
        when = f"{held.from_seconds:g} to {held.until_seconds:g} s:"
        yield result.story.id, held.level, "", f"{when}\n{_measure(one.seen)}", ""
    for level in result.story.levels():
        seen = (stretch.levels.get(level, _NOTHING) for stretch in stretches)
        yield result.story.id, level, *map(_measure, seen)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _measure(seen: smp.Measure) -> str:
    if seen.rejected_ratio is None:
        return "no request"
    if seen.p99_seconds is None or seen.error_ratio is None:
        return "all refused"
    return f"{seen.p99_seconds * 1000:.0f} ms, {seen.error_ratio:.1%}, {seen.rejected_ratio:.0%}"
