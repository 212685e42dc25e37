"""Processes of the demo: ready means answering, a dead one is named with its last words, and none is left behind."""

import asyncio
import sys
from pathlib import Path

import pytest

from controlplane import clock as system_clock
from controlplane.demo import processes
from controlplane.domain import errors

SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)


def is_running(pid: int) -> bool:
    """A process that has ended and was not collected by its new parent counts as gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def is_gone(pid: int) -> bool:
    """Wait for a killed process to end: the signal is sent, the kernel delivers it in its own time."""
    time = system_clock.SystemClock()
    until = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < until:
        await time.sleep(0.05)
    return not is_running(pid)


@pytest.fixture
def running(tmp_path: Path) -> processes.Processes:
    return processes.Processes(tmp_path, system_clock.SystemClock())


async def test_a_process_is_ready_when_it_answers_and_ends_with_its_children(running, tmp_path):
    """Stopping ends the whole group, so that a server's workers do not stay."""
    (port,) = processes.free_ports(1)
    command = processes.Command("web", [sys.executable, "-c", SERVER, str(port)], f"http://127.0.0.1:{port}/")
    await running.start(command)
    try:
        await running.wait_ready(command, 20)
        child = int((tmp_path / "web.log").read_text(encoding="ascii").split()[0])
        assert is_running(child)
    finally:
        await running.stop_all()
    assert await is_gone(child)


async def test_a_process_that_ends_early_is_named_with_its_last_words(running):
    """Whoever watches sees the reason, not only that it took too long."""
    command = processes.Command(
        "web", [sys.executable, "-c", "import sys; sys.exit('no such model')"], "http://127.0.0.1:1"
    )
    await running.start(command)
    with pytest.raises(errors.GiveUpError, match=r"(?s)web ended with status 1; the end of .*web\.log:.*no such model"):
        await running.wait_ready(command, 20)
    await running.stop_all()


async def test_a_process_that_never_answers_is_given_up_on(running):
    """The wait is bounded, and says for which address."""
    (port,) = processes.free_ports(1)
    command = processes.Command(
        "web", [sys.executable, "-c", "import time; time.sleep(60)"], f"http://127.0.0.1:{port}/"
    )
    await running.start(command)
    with pytest.raises(errors.GiveUpError, match=rf"web was not ready within 0\.3 s \(http://127\.0\.0\.1:{port}/\)"):
        await running.wait_ready(command, 0.3)
    await running.stop_all()


async def test_one_that_ignores_being_told_is_killed(tmp_path):
    """SIGTERM first, then SIGKILL: the demo's end does not depend on good manners."""
    running = processes.Processes(tmp_path, system_clock.SystemClock(), term_seconds=0.2)
    await running.start(processes.Command("deaf", [sys.executable, "-c", STUBBORN]))
    time = system_clock.SystemClock()
    while not (tmp_path / "deaf.log").read_text(encoding="ascii"):
        await time.sleep(0.02)
    async with asyncio.timeout(10):
        await running.stop("deaf")
    await running.stop("deaf")  # again is harmless


async def test_a_missing_program_is_said_before_anything_starts(running):
    """The message says how to get it."""
    with pytest.raises(errors.GiveUpError, match="there is no program 'prometheus-of-nowhere' here; run `make setup`"):
        await running.start(processes.Command("prometheus", ["prometheus-of-nowhere"]))


def test_free_ports_differ():
    """All are held until the last one is known."""
    ports = processes.free_ports(20)
    assert len(set(ports)) == 20
    assert all(port > 1023 for port in ports)
