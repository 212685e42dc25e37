"""`dsctl demo up`: a local fleet, trouble, and what becomes of it.

Called by the command line, which passes plain values. Starts everything, plays the chosen stories one after the other,
prints a table, writes demo-report.json into the working directory, and stops everything, whatever happened. Owns the
event loop while it runs.
"""

import asyncio
import contextlib
import importlib.util
import json
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from rich.console import Console

from controlplane import clock
from controlplane.demo import clients, configuration, constants, drill, fleet, history, processes, report
from controlplane.domain import errors, policies
from controlplane.scenarios import remote, reports, runner, stories

_INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C


def up(only: tuple[str, ...], mode: str, keep: bool, scenarios_all: bool) -> int:
    """Play the scenarios named in `only` (all of them when empty) in mode `auto` or `observe`.

    Returns 0 when each ended as it should: in auto mode recovered, in observe mode not recovered. With `keep` the fleet
    stays until Ctrl-C. Raises NotFoundError and InvalidInputError for unknown names before anything is started.
    """
    chosen = _in_order(stories.choose(only, every=scenarios_all))
    if mode not in stories.BOTH:
        raise errors.InvalidInputError(f"the demo plays in mode auto or observe, not {mode!r}", place="--mode")
    _check_installed()
    try:
        return asyncio.run(_up(chosen, policies.Mode(mode), keep=keep))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("stopped; everything that was started has been ended\n")
        return _INTERRUPTED


def _check_installed() -> None:
    """The node and the clients come with extras that a control plane does without."""
    missing = [name for name in ("torch", "transformers", "locust") if importlib.util.find_spec(name) is None]
    if missing:
        raise errors.GiveUpError(
            f"the demo needs {', '.join(missing)}; install them with: pip install 'dsctl[node,load]'"
        )


@dataclass(slots=True)
class _Stage:
    """What a demo is made of. `is_kept` says that the folder stays, because its logs tell what went wrong."""

    folder: Path
    console: Console
    clock: clock.SystemClock
    processes: processes.Processes
    started_at: float
    is_kept: bool = True
    local: fleet.LocalFleet | None = None

    @classmethod
    def open(cls) -> "_Stage":
        folder, time = Path(tempfile.mkdtemp(prefix="dsctl-demo-")), clock.SystemClock()
        console = Console(highlight=False, soft_wrap=True)
        return cls(folder, console, time, processes.Processes(folder, time), time.monotonic())

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        self.console.print(f"[{self.clock.monotonic() - self.started_at:6.1f} s] {text}", markup=False)

    async def close(self) -> None:
        """End every process, then the folder."""
        try:
            if self.local is not None:
                await self.local.stop()
        finally:
            await self.processes.stop_all()
        if self.is_kept:
            self.say(f"the files and logs of this demo are kept in {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


async def _up(chosen: Sequence[stories.Story], mode: policies.Mode, *, keep: bool) -> int:
    _end_on_sigterm()
    stage = _Stage.open()
    try:
        results = await _perform(stage, chosen, mode, keep=keep)
        stage.is_kept = not all(result.is_as_expected for result in results)
    except asyncio.CancelledError:
        stage.is_kept = False
        raise
    finally:
        await asyncio.shield(stage.close())
    return 0 if all(result.is_as_expected for result in results) else 1


async def _perform(
    stage: _Stage, chosen: Sequence[stories.Story], mode: policies.Mode, *, keep: bool
) -> list[runner.ScenarioResult]:
    needs = [story.spec.fleet for story in chosen]
    size = configuration.Size(max(one.nodes for one in needs), max(one.spare for one in needs))
    files = configuration.Files.open(stage.folder, size)
    local = fleet.LocalFleet(files, stage.processes, stage.clock, stage.say)
    stage.local = local
    plot = _plot(chosen[0], stage.clock.now())
    await local.start(mode, plot)
    results = await _play(stage, chosen, mode, local, files, plot)
    report.show(Console(highlight=False), results)
    _write_report(mode, results)
    stage.say(f"wrote {constants.REPORT}")
    if keep:
        stage.console.print(_invitation(files), markup=False)
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C is how it is meant to end
            await asyncio.Event().wait()
    return results


def _plot(first: stories.Story, now: datetime) -> fleet.Plot | None:
    """Return when the peak is due that the first story's past leads up to; a full minute, after all has started."""
    spec = first.spec
    if spec.past is None:
        return None
    before = constants.START_SECONDS + spec.warm_seconds + spec.before_seconds
    return fleet.Plot(spec.past, history.next_minute(now + timedelta(seconds=before)))


def _in_order(chosen: Sequence[stories.Story]) -> list[stories.Story]:
    """Put the story with a past first: its peak is due at a time of day, whatever is played before it."""
    with_past = [story for story in chosen if story.spec.past is not None]
    if len(with_past) > 1:
        raise errors.InvalidInputError(
            f"{' and '.join(story.id for story in with_past)} each need a past of their own; play them one by one",
            place="--only",
        )
    return [*with_past, *(story for story in chosen if story.spec.past is None)]


def _end_on_sigterm() -> None:
    """End on SIGTERM and on a closed terminal as on Ctrl-C: by cancelling, so that everything is stopped."""
    task = cast("asyncio.Task[int]", asyncio.current_task())
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


async def _play(
    stage: _Stage,
    chosen: Sequence[stories.Story],
    mode: policies.Mode,
    local: fleet.LocalFleet,
    files: configuration.Files,
    plot: fleet.Plot | None,
) -> list[runner.ScenarioResult]:
    def tell(line: runner.Progress) -> None:
        stage.say(f"{line.scenario} {line.at_seconds:+6.1f} s  {line.text}")

    load = clients.Clients(stage.processes, files)
    results: list[runner.ScenarioResult] = []
    async with (
        remote.client(files.addresses.server, local.server_token()) as http,
        drill.open_drill(files, stage.clock) as fleet_drill,
    ):
        player = runner.Runner(fleet=fleet_drill, control=remote.Api(http), load=load, clock=stage.clock, tell=tell)
        for number, story in enumerate(chosen, start=1):
            stage.say(f"{story.id}: {story.metadata.title} (mode {mode})")
            await load.start(story, story.spec.longest_seconds + constants.LOAD_MARGIN_SECONDS)
            peak_at = plot.peak_at if plot is not None and story.spec.past is not None else None
            result = await player.play(story, mode, peak_at=peak_at)
            if number < len(chosen):
                stage.say(f"{story.id} is over: {result.clients.verdict}; waiting until everything is at rest")
                result = result.with_complaints(await player.settle(story))
            results.append(result)
            await load.stop()
    return results


def _write_report(mode: policies.Mode, results: Sequence[runner.ScenarioResult]) -> None:
    text = json.dumps(reports.as_json(mode, results), indent=2, allow_nan=False)
    Path(constants.REPORT).write_text(text + "\n", encoding="utf-8")


def _path_to_dsctl() -> list[str]:
    """Return what makes the commands below work where `dsctl` was called by its path, as `make demo` does."""
    if shutil.which("dsctl") is not None:
        return []
    return [f'  export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"']


def _invitation(files: configuration.Files) -> str:
    """Return the addresses, and what can be tried."""
    at = files.addresses
    lines = [
        "",
        f"control plane  {at.server}",
        f"gateway        {at.gateway}",
        f"prometheus     {at.prometheus}",
        f"alertmanager   {at.alertmanager}",
        f"files, logs    {files.folder}",
        "",
        "Try, in another terminal (the clients have gone; incidents, runs and the fleet are there):",
        *_path_to_dsctl(),
        f"  export DSCTL_SERVER={at.server} DSCTL_TOKEN_FILE={files.server_token_file}",
        "  dsctl incidents list",
        f"  dsctl remediate flush-cache --service {constants.SERVICE} --node {next(iter(at.nodes))} --dry-run",
        "  dsctl doctor",
        "",
        "Ctrl-C stops everything and removes the files.",
    ]
    return "\n".join(lines)
