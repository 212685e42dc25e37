"""Benchmark `intake`: alerts through the real HTTP door into a SQLite file, and what is left of them after `kill -9`.

A real server on a fresh installation, with a real bearer token, the file written with synchronous=FULL; the senders are a
process of their own. Every alert is a new one, as webhook version 4 words it, about one of 500 nodes. One alert a
notification and 50 are told apart, each first as fast as the answers come, and then at the rate that is asked for, where
an answer's time counts from when the notification was due. At the end more clients than the door lets wait send while the
server is killed; what was answered 202 has to be in the file, and sent again to the next start it changes nothing.
"""

import argparse
import asyncio
import json
import math
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import intake_load as loads
from benchmarks import intake_server, runner
from benchmarks import intake_storm as storms

BATCH = 50
# What is asked for on SQLite.
_SINGLE_PER_S = 300.0
_BATCHED_PER_S = 1000.0
_NUM_CLIENTS = 32
# The door lets 64 notifications wait.
_CROWD = 100
_KILL_AFTER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many notifications each part sends."""

    singles: int = 3000
    batches: int = 200
    paced_singles: int = 3000
    paced_batches: int = 200
    burst: int = 20_000
    commits: int = 2000
    storm: int = 10_000


@dataclass(frozen=True, slots=True)
class Killed:
    """What the kill in the middle of a burst left behind."""

    answered: int
    stored: int
    lost: int
    overloaded: int
    without_retry_after: int
    in_doubt: int
    repeated_as_new: int
    changed: int
    restart_s: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let the size be chosen; tests take a small one."""
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual number of notifications")


def measure(context: runner.Context) -> dict[str, runner.Figure]:
    """Return rates, times of answers and what was lost."""
    scale: float = context.options.scale
    sizes = Sizes(*(max(1, int(one * scale)) for one in asdict(Sizes()).values()))
    with tempfile.TemporaryDirectory(prefix="dsctl-intake-") as folder:
        server = intake_server.Server.installed(Path(folder))
        try:
            server.start()
            figures = _rates(server, sizes, context)
            killed = kill_in_burst(server, sizes.burst)
            context.say(f"kill: {killed}")
        finally:
            server.stop()
    return {
        **figures,
        **_behind(sizes, context),
        "answered": killed.answered,
        "accepted": killed.answered,
        "stored": killed.stored,
        "lost": killed.lost,
        "kill": _plain(asdict(killed)),
    }


def _behind(sizes: Sizes, context: runner.Context) -> dict[str, runner.Figure]:
    """Return what the store does without a door, and how long ticks take while very many alerts fire."""
    with tempfile.TemporaryDirectory(prefix="dsctl-store-") as folder:
        per_s = asyncio.run(storms.commits(Path(folder), sizes.commits))
    with tempfile.TemporaryDirectory(prefix="dsctl-storm-") as folder:
        storm = asyncio.run(storms.storm(Path(folder), sizes.storm))
    context.say(f"store alone: {per_s:.0f}/s; {storm}")
    return {"commit_per_s": per_s, "storm": _plain(asdict(storm))}


def _rates(server: intake_server.Server, sizes: Sizes, context: runner.Context) -> dict[str, runner.Figure]:
    token = server.webhook_token()
    parts = {
        "single": (sizes.singles, 1, 0.0),
        "batched": (sizes.batches, BATCH, 0.0),
        "single_paced": (sizes.paced_singles, 1, _SINGLE_PER_S),
        "batched_paced": (sizes.paced_batches, BATCH, _BATCHED_PER_S / BATCH),
    }
    came: dict[str, loads.Came] = {}
    first = 0
    for name, (num_posts, size, per_s) in parts.items():
        load = loads.Load(intake_server.HOST, server.port, token, _NUM_CLIENTS, num_posts, size, first, per_s)
        came[name] = finish(send(load))
        context.say(f"{name}: {_told(came[name], size)}")
        first += num_posts
    (server.folder / "token").write_text(token, encoding="utf-8")
    (server.folder / "next").write_text(str(first), encoding="utf-8")
    numbers = server.numbers()
    num_ticks = numbers["dsctl_tick_duration_seconds_count"]
    single = len(came["single"].answered) / came["single"].seconds
    batched = BATCH * len(came["batched"].answered) / came["batched"].seconds
    return {
        "single_per_s": single,
        "batched_per_s": batched,
        "per_s": single,
        "per_s_batched": batched,
        "answer_p99_s": p99([*came["single_paced"].answer_s, *came["batched_paced"].answer_s]),
        "single_p99_s": p99(came["single_paced"].answer_s),
        "batched_p99_s": p99(came["batched_paced"].answer_s),
        "single_max_s": max(came["single_paced"].answer_s),
        "batched_max_s": max(came["batched_paced"].answer_s),
        "single_full_p99_s": p99(came["single"].answer_s),
        "batched_full_p99_s": p99(came["batched"].answer_s),
        "overloaded": sum(one.overloaded for one in came.values()),
        "alerts": sum(size * num_posts for num_posts, size, _ in parts.values()),
        "ticks": int(num_ticks),
        "tick_mean_s": numbers["dsctl_tick_duration_seconds_sum"] / max(1.0, num_ticks),
        "details": {name: _told(one, parts[name][1]) for name, one in came.items()},
    }


def send(load: loads.Load) -> "subprocess.Popen[bytes]":
    """Start the senders."""
    command = [sys.executable, "-m", "benchmarks.intake_load"]
    senders = subprocess.Popen(command, cwd=intake_server.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert senders.stdin is not None  # noqa: S101  # asked for above
    senders.stdin.write(json.dumps(asdict(load)).encode())
    senders.stdin.close()
    senders.stdin = None
    return senders


def finish(senders: "subprocess.Popen[bytes]") -> loads.Came:
    """Wait for the senders and return what came of it."""
    written, _ = senders.communicate(timeout=600)
    if senders.returncode:
        raise intake_server.ServerError("the senders failed")
    return loads.Came(**json.loads(written))


def kill_in_burst(
    server: intake_server.Server, num_posts: int, *, after_seconds: float = _KILL_AFTER_SECONDS
) -> Killed:
    """Kill the server while many send, look into its file, start it again and send everything once more."""
    token_file, next_file = server.folder / "token", server.folder / "next"
    token = token_file.read_text(encoding="utf-8") if token_file.exists() else server.webhook_token()
    first = int(next_file.read_text(encoding="utf-8")) if next_file.exists() else 0
    load = loads.Load(intake_server.HOST, server.port, token, _CROWD, num_posts, 1, first)
    before = server.numbers().get(_STORED, 0.0)
    senders = send(load)
    pause = threading.Event()
    while server.numbers().get(_STORED, 0.0) == before:  # until they have begun
        pause.wait(0.05)
    pause.wait(after_seconds)
    server.kill()
    came = finish(senders)
    there = _rows(server.database, load)
    started = _seconds(server)
    tried = sorted(
        {*came.answered, *came.known, *(number for number in range(first, first + num_posts) if number in there)}
    )
    again = finish(
        send(loads.Load(load.host, load.port, load.token, 8, len(tried), 1, per_s=0.0, numbers=tuple(tried)))
    )
    after = _rows(server.database, load)
    lost = [number for number in came.answered if number not in there]
    return Killed(
        answered=len(came.answered),
        stored=len(there),
        lost=len(lost),
        overloaded=came.overloaded,
        without_retry_after=came.without_retry_after,
        in_doubt=len(set(there) - set(came.answered)),
        repeated_as_new=len(again.answered),
        changed=sum(after[number] != row for number, row in there.items()),
        restart_s=started,
    )


_STORED = 'dsctl_alerts_received_total{result="stored",source="alertmanager"}'


def _seconds(server: intake_server.Server) -> float:
    from controlplane import clock

    time = clock.SystemClock()
    began = time.monotonic()
    server.start()
    return time.monotonic() - began


def _rows(database: Path, load: loads.Load) -> Mapping[int, tuple[object, ...]]:
    """Return what the file holds of each notification of a load: its alert, but for when it was last told."""
    query = "SELECT fingerprint, status, starts_at, ends_at, document FROM alert"
    with closing(sqlite3.connect(database)) as connection:
        found = {row[0]: row[1:] for row in connection.execute(query)}
    numbers = range(load.first, load.first + load.num_posts)
    return {number: row for number in numbers if (row := found.get(loads.fingerprint(number, 0)))}


def _told(came: loads.Came, size: int) -> dict[str, runner.Figure]:
    answered = len(came.answered)
    return {
        "alerts_per_s": size * answered / came.seconds if came.seconds else None,
        "p50_s": _at(came.answer_s, 0.5),
        "p99_s": p99(came.answer_s),
        "answered": answered,
        "overloaded": came.overloaded,
        "broken": came.broken,
        "odd": _plain(came.odd),
    }


def p99(seconds: Sequence[float]) -> float | None:
    """Return the value that one in a hundred exceeds."""
    return _at(seconds, 0.99)


def _at(seconds: Iterable[float], share: float) -> float | None:
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _plain(values: Mapping[str, Any]) -> dict[str, runner.Figure]:
    return dict(values)
