"""Local fleets with real processes: found again, restarted once per key, and nobody else's process touched."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from actions.local import definitions, fleet, processes
from controlplane import clock
from controlplane.domain import errors
from tests.support import local_fleets, prometheus

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("deaf", child.pid, flush=True)
time.sleep(600)
"""
# As a node with much memory to give back: its main thread has ended, its files are open for another second.
LINGERING = """
import ctypes, os, signal, threading, time
def end(*_):
    threading.Thread(target=lambda: (time.sleep(1.0), os._exit(0))).start()
    ctypes.CDLL(None).pthread_exit(None)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    with local_fleets.ended(tmp_path / "fleet"):
        yield tmp_path / "fleet"


def record_file(folder: Path, name: str = "a") -> Path:
    return folder / "state" / f"{name}.json"


def of_process(pid: int, name: str) -> bytes:
    """What the kernel says of a process."""
    return Path(f"/proc/{pid}/{name}").read_bytes()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_a_node_is_started_once_and_found_again(folder: Path) -> None:
    """A second start, and another control plane over the same folder, find the very same process."""
    local = local_fleets.write(folder, {"a": local_fleets.SLEEPER})
    assert str(local.status("a")) == "not started"
    await local.start("a")
    pid = local_fleets.pid(local, "a")
    await local.start("a")
    successor = fleet.LocalFleet("chat", folder, clock.SystemClock())
    assert successor.status("a").is_running
    assert local_fleets.pid(successor, "a") == pid
    await successor.stop("a")
    assert not is_running(pid)
    assert str(local.status("a")) == "not started"


async def test_a_node_belongs_to_nobody_and_gets_no_secret_of_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leads its own session, is nobody's child here, and does not see variables of the control plane."""
    monkeypatch.setenv("DSCTL_TOKEN", "secret")
    local = local_fleets.write(folder, {"a": local_fleets.SLEEPER})
    await local.start("a")
    pid = local_fleets.pid(local, "a")
    assert os.getsid(pid) == pid
    parent = int(of_process(pid, "stat").rpartition(b")")[2].split()[1])
    assert parent != os.getpid()
    assert b"DSCTL_TOKEN" not in of_process(pid, "environ")


async def test_one_key_restarts_once(folder: Path) -> None:
    """A repeat under the same key finds the work done, also after another restart, also when the node has died since."""
    local = local_fleets.write(folder, {"a": local_fleets.SLEEPER})
    await local.start("a")
    first = local_fleets.pid(local, "a")
    await local.restart("a", "run_1:restart")
    second = local_fleets.pid(local, "a")
    assert first != second
    assert not is_running(first)
    assert (await local.restart("a", "run_1:restart")).is_running
    assert local_fleets.pid(local, "a") == second
    await local.restart("a", "run_2:restart")
    third = local_fleets.pid(local, "a")
    os.kill(third, signal.SIGKILL)
    prometheus.until(lambda: not is_running(third), "the node has ended")
    for key in ("run_1:restart", "run_2:restart"):
        again = await local.restart("a", key)
        assert not again.is_running
        assert str(again) == f"process {third}, which has ended"


async def test_a_restart_that_was_cut_off_after_the_end_is_completed(folder: Path) -> None:
    """The old process is gone, the new one was never started: the same key starts it."""
    local = local_fleets.write(folder, {"a": local_fleets.SLEEPER})
    await local.start("a")
    os.kill(local_fleets.pid(local, "a"), signal.SIGKILL)
    assert (await local.restart("a", "run_1:restart")).is_running


async def test_a_recycled_number_is_not_touched(folder: Path) -> None:
    """A record whose number belongs to somebody else now is a record of a dead process."""
    local = local_fleets.write(folder, {"a": local_fleets.SLEEPER})
    await local.start("a")
    await local.stop("a")
    stranger = await asyncio.create_subprocess_exec(*local_fleets.SLEEPER)
    try:
        document = json.loads(record_file(folder).read_text(encoding="utf-8"))
        stale = document | {"pid": stranger.pid, "started_ticks": 1, "boot_id": processes.boot_id()}
        record_file(folder).write_text(json.dumps(stale), encoding="utf-8")
        assert not local.status("a").is_running
        await local.restart("a", "run_1:restart")
        await local.stop("a")
        assert stranger.returncode is None
        assert is_running(stranger.pid)
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_process_that_became_another_program_is_left_alone(folder: Path) -> None:
    """Number and start time fit, the command line does not: a person has to look."""
    turns_into = (sys.executable, "-c", "import os; os.execv('/bin/sleep', ['sleep', '600'])")
    local = local_fleets.write(folder, {"a": turns_into})
    with contextlib.suppress(errors.GiveUpError):  # it may have turned already
        await local.start("a")
    record = definitions.read_record(record_file(folder))
    assert record is not None
    assert record.pid is not None
    pid = record.pid
    try:
        prometheus.until(lambda: b"sleep\x00600" in of_process(pid, "cmdline"), "it became another")
        for act in (local.stop("a"), local.restart("a", "run_1:restart")):
            with pytest.raises(errors.GiveUpError, match=r"now runs sleep 600; it is not touched"):
                await act
        assert is_running(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        prometheus.until(lambda: not is_running(pid), "it has ended")


async def test_a_deaf_node_is_killed_with_what_it_started(folder: Path) -> None:
    """SIGTERM first, and after the deadline SIGKILL for its whole session."""
    local = local_fleets.write(folder, {"a": (sys.executable, "-c", DEAF)}, stop_seconds=0.3)
    await local.start("a")
    log = folder / "a.log"
    prometheus.until(lambda: log.read_text(encoding="ascii").endswith("\n"), "it is deaf")
    child = int(log.read_text(encoding="ascii").split()[1])
    await local.stop("a")
    prometheus.until(lambda: not is_running(child), "its child has ended too")


@pytest.mark.parametrize("ends_by_itself", [False, True])
async def test_a_node_that_is_slow_to_go_is_waited_for(folder: Path, ends_by_itself: bool) -> None:
    """A process that counts as ended holds its lock until its memory is freed; the next one starts after that."""
    local = local_fleets.write(folder, {"a": (sys.executable, "-c", LINGERING)})
    await local.start("a")
    pid, log = local_fleets.pid(local, "a"), folder / "a.log"
    prometheus.until(lambda: log.read_text(encoding="ascii") == "ready\n", "it listens")
    if ends_by_itself:
        os.kill(pid, signal.SIGTERM)
        prometheus.until(lambda: not is_running(pid), "it counts as ended")
        assert (await local.start("a")).is_running
    else:
        assert (await local.restart("a", "run_1:restart")).is_running
    assert local_fleets.pid(local, "a") != pid


async def test_what_cannot_be_started_does_not_end_what_runs(folder: Path) -> None:
    """A program that is gone is noticed before the old process is ended; the refusal names it."""
    local = local_fleets.write(folder, {"a": local_fleets.SLEEPER})
    await local.start("a")
    pid = local_fleets.pid(local, "a")
    local_fleets.write(folder, {"a": ["program-of-nowhere"]})
    with pytest.raises(errors.GiveUpError, match=r"chat/a cannot be started: there is no program 'program-of-nowhere'"):
        await local.restart("a", "run_1:restart")
    assert is_running(pid)


async def test_a_program_that_the_kernel_refuses_leaves_no_record(folder: Path) -> None:
    """The launcher passes on what the kernel said, and the key is free for the next try."""
    local = local_fleets.write(folder, {"a": ["./broken"]})
    (folder / "broken").write_bytes(b"\x7fELF but not really")
    (folder / "broken").chmod(0o755)
    with pytest.raises(errors.GiveUpError, match=r"chat/a cannot be started: .*Exec format error"):
        await local.restart("a", "run_1:restart")
    assert not record_file(folder).exists()
    local_fleets.write(folder, {"a": local_fleets.SLEEPER})
    assert (await local.restart("a", "run_1:restart")).is_running


async def test_a_second_process_of_a_node_is_never_started(folder: Path) -> None:
    """Who lost the record finds the lock held: nothing is started beside the node."""
    local = local_fleets.write(folder, {"a": local_fleets.SLEEPER})
    await local.start("a")
    record = record_file(folder).read_bytes()
    record_file(folder).unlink()
    with pytest.raises(errors.GiveUpError, match=r"chat/a runs already, as a process that .*a\.json does not name"):
        await local.start("a")
    record_file(folder).write_bytes(record)
    assert local.status("a").is_running


async def test_two_who_restart_at_once_take_turns(folder: Path) -> None:
    """Two replicas with the same key end up with one new process."""
    local = local_fleets.write(folder, {"a": local_fleets.SLEEPER})
    await local.start("a")
    other = fleet.LocalFleet("chat", folder, clock.SystemClock())
    await asyncio.gather(local.restart("a", "run_1:restart"), other.restart("a", "run_1:restart"))
    document = json.loads(record_file(folder).read_text(encoding="utf-8"))
    assert document["keys"] == ["run_1:restart"]
    assert local.status("a").is_running


async def test_prometheus_is_told_which_nodes_there_are(folder: Path) -> None:
    """Nodes that were started are listed, also while they are restarted or dead; stopped ones are not."""
    nodes = {"a": local_fleets.SLEEPER, "b": local_fleets.SLEEPER}
    local = local_fleets.write(folder, nodes, targets_file="targets/nodes.json")

    def listed() -> list[tuple[str, str]]:
        found = json.loads((folder / "targets" / "nodes.json").read_text(encoding="utf-8"))
        return [(one["labels"]["node"], one["targets"][0]) for one in found]

    await local.start("a")
    assert listed() == [("a", "127.0.0.1:1")]
    await local.start("b")
    await local.restart("a", "run_1:restart")
    assert listed() == [("a", "127.0.0.1:1"), ("b", "127.0.0.1:2")]
    await local.stop("a")
    assert listed() == [("b", "127.0.0.1:2")]


async def test_nodes_outlive_who_started_them(folder: Path) -> None:
    """kill -9 of the control plane ends no node, and the successor restarts the very same one."""
    local = local_fleets.write(folder, {"a": local_fleets.SLEEPER})
    script = (
        "import asyncio, os, signal, sys; from pathlib import Path\n"
        "from actions.local import fleet; from controlplane import clock\n"
        "local = fleet.LocalFleet('chat', Path(sys.argv[1]), clock.SystemClock())\n"
        "asyncio.run(local.start('a'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(folder))
    assert await ended.wait() == -signal.SIGKILL
    pid = local_fleets.pid(local, "a")
    assert local.status("a").is_running
    await local.restart("a", "run_1:restart")
    assert not is_running(pid)
    assert local.status("a").is_running
