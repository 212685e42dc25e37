"""Runs one benchmark by name: progress to standard error, one JSON object as the last line of standard output.

A benchmark measures, together with what it is compared with, in one run; it never judges its figures, so that it ends
with status 0 whatever they are. Each is a module of this package with a function `measure(context)` that returns the
figures; it is imported only when it is asked for. A module with options of its own adds them in `add_options(parser)`. Plain functions; a benchmark may be whatever it needs.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import cast

Figure = None | bool | int | float | str | list["Figure"] | dict[str, "Figure"]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One entry: the module that measures, what it is about, and the keys that its figures must have."""

    module: str
    summary: str
    keys: tuple[str, ...]
    needs_data: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What a benchmark is given: the folder to read data from, if any, where to say how far it is, its own options."""

    data: Path | None
    say: Callable[[str], None]
    options: argparse.Namespace = field(default_factory=argparse.Namespace)


# A benchmark is added together with the module that measures it.
BENCHMARKS: Mapping[str, Benchmark] = {
    "burst": Benchmark(
        "benchmarks.burst",
        "200 findings at once on 200 nodes: how soon each leads to a run, and how many nodes are out at most",
        (
            "targets",
            "findings",
            "dispatched",
            "dispatch_p50_s",
            "dispatch_p99_s",
            "p50_s",
            "p99_s",
            "max_s",
            "blast_radius_exceeded",
            "eject",
        ),
    ),
    "intake": Benchmark(
        "benchmarks.intake",
        "alerts a second through the HTTP door into SQLite, and what kill -9 leaves of them",
        (
            "single_per_s",
            "batched_per_s",
            "single_p99_s",
            "batched_p99_s",
            "per_s",
            "per_s_batched",
            "answer_p99_s",
            "commit_per_s",
            "overloaded",
            "answered",
            "accepted",
            "stored",
            "lost",
        ),
    ),
    "crash": Benchmark(
        "benchmarks.crash",
        "kills the run engine again and again, on SQLite or PostgreSQL, and judges what is left",
        (
            "kills",
            "runs",
            "lost",
            "stuck",
            "out_of_order",
            "unannounced_repeats",
            "double_effects",
            "tokens_backwards",
            "over_slot",
            "seconds",
            "by_kind",
        ),
    ),
    "takeover": Benchmark(
        "benchmarks.takeover",
        "how long a run stands still when its replica dies, stops, sleeps or is started anew",
        ("takeover_p50_s", "takeover_max_s", "graceful_max_s", "late_changes", "sqlite_restart_max_s"),
    ),
    "runs": Benchmark(
        "benchmarks.runs",
        "five-step runs drained a second on SQLite and PostgreSQL, beside DBOS Transact on SQLite",
        ("sqlite_per_s", "dbos_sqlite_per_s", "dbos_ratio", "postgres_per_s", "postgres_2_replicas_per_s"),
    ),
    "forecast": Benchmark(
        "benchmarks.forecast",
        "error and bounds of forecasts of real request rates, against the last value and plain Prophet",
        (
            "series",
            "ratio_15m",
            "ratio_2h",
            "prophet_ratio_15m",
            "prophet_ratio_2h",
            "coverage",
            "coverage_min",
            "coverage_max",
            "pinball90",
            "cpu_s",
            "gate_closed",
        ),
        needs_data=True,
    ),
    "leaks": Benchmark(
        "benchmarks.leaks",
        "false alarms of the leak detector on real pods, and how soon it finds 2 % an hour",
        ("pods", "false_per_pod_day", "found_ratio", "minutes_2pct"),
        needs_data=True,
    ),
    "approvals": Benchmark(
        "benchmarks.approvals",
        "what a thousand runs that wait for people cost, and how soon an answer is followed",
        (
            "waiting",
            "threads_added",
            "tasks_added",
            "rss_added_mb",
            "idle_cpu_ratio",
            "answer_p50_s",
            "answer_max_s",
            "restart_live_s",
            "restart_step_s",
        ),
    ),
}


def main(arguments: Sequence[str], benchmarks: Mapping[str, Benchmark] = BENCHMARKS) -> int:
    """Run what the command line asks for; 0 when it ran, 2 when the question was wrong."""
    options, own = _parser(benchmarks).parse_known_args(arguments)
    if options.list:
        _list(benchmarks)
        return 0
    chosen = benchmarks.get(options.name)
    if chosen is None:
        sys.stderr.write(f"no benchmark {options.name!r}; there are: {', '.join(sorted(benchmarks)) or 'none yet'}\n")
        return 2
    if chosen.needs_data and options.data is None:
        sys.stderr.write(f"{options.name} reads data: say where with --data DIR\n")
        return 2
    module = importlib.import_module(chosen.module)
    context = Context(options.data, _silent if options.json else _say, _own_options(options.name, module, own))
    figures = _measure(chosen, module, context)
    sys.stdout.write(json.dumps({"benchmark": options.name, **figures}, allow_nan=False) + "\n")
    return 0


def _parser(benchmarks: Mapping[str, Benchmark]) -> argparse.ArgumentParser:
    known = ", ".join(sorted(benchmarks)) or "none yet"
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure one thing.", epilog=f"NAME: {known}"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("name", nargs="?", metavar="NAME")
    what.add_argument("--list", action="store_true", help="list the benchmarks and end")
    parser.add_argument("--data", type=_folder, metavar="DIR", help="folder with the data of benchmarks that read some")
    parser.add_argument("--json", action="store_true", help="no progress, only the JSON line")
    return parser


def _own_options(name: str, module: ModuleType, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the benchmark's own options; ends with status 2 for one that it does not have."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", add_help=False)
    if hasattr(module, "add_options"):
        module.add_options(parser)
    return parser.parse_args(arguments)


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return path


def _list(benchmarks: Mapping[str, Benchmark]) -> None:
    for name, benchmark in sorted(benchmarks.items()):
        sys.stdout.write(f"{name:12} {benchmark.summary}\n")
    if not benchmarks:
        sys.stderr.write("there is no benchmark yet\n")


def _measure(benchmark: Benchmark, module: ModuleType, context: Context) -> dict[str, Figure]:
    measure = cast("Callable[[Context], dict[str, Figure]]", module.measure)
    figures = measure(context)
    missing = [key for key in benchmark.keys if key not in figures]
    if missing:
        raise KeyError(f"{benchmark.module} promises {', '.join(missing)} and did not measure it")
    return figures


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _silent(text: str) -> None:
    del text
