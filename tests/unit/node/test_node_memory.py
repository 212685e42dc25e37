"""Memory of a node: what leaks on purpose, the end at the limit, and what a look inside tells."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference_node import capture, errors, faults, leases, memory
from tests.support import node_fakes
from tests.support.clock import FakeClock

MEGABYTE = 1_000_000


def trouble(clock: FakeClock, **given: int) -> faults.Faults:
    return faults.Faults(is_enabled=True, book=leases.LeaseBook(clock), poison=lambda _: 0, **given)


def test_a_leak_takes_real_memory_and_gives_it_back_when_it_ends(clock: FakeClock) -> None:
    """The resident memory of the process grows by what leaked, and shrinks again once the fault is off."""
    leaking = trouble(clock)
    leaking.switch_on(faults.Fault.LEAK, 60, {"bytes_per_second": 40 * MEGABYTE})
    before = memory.resident_bytes() or 0
    leaking.leak(2.0)
    grown = (memory.resident_bytes() or 0) - before
    assert leaking.leaked_bytes == 80 * MEGABYTE
    assert 70 * MEGABYTE < grown < 90 * MEGABYTE
    assert leaking.switch_off(faults.Fault.LEAK)
    assert leaking.leaked_bytes == 0
    assert (memory.resident_bytes() or 0) - before < 20 * MEGABYTE


def test_a_leak_never_holds_more_than_the_limit(clock: FakeClock) -> None:
    """However fast and however long; and at a rate below a byte a step nothing is lost to rounding."""
    leaking = trouble(clock, memory_limit_bytes=3 * MEGABYTE)
    leaking.switch_on(faults.Fault.LEAK, 60, {"bytes_per_second": 100 * MEGABYTE})
    for _ in range(5):
        leaking.leak(1.0)
    assert leaking.leaked_bytes == 3 * MEGABYTE
    leaking.switch_off(faults.Fault.LEAK)
    leaking.switch_on(faults.Fault.LEAK, 60, {"bytes_per_second": 2})
    for _ in range(8):
        leaking.leak(0.25)
    assert leaking.leaked_bytes == 4


def test_a_drill_never_takes_more_than_a_gibibyte_of_the_machine(clock: FakeClock) -> None:
    """Where the node has no limit, or a larger one; shown without taking it."""
    assert trouble(clock)._max_leak == trouble(clock, memory_limit_bytes=1 << 40)._max_leak == 1 << 30


async def test_a_leak_ends_with_its_lease() -> None:
    """Whoever drilled and died leaves nothing behind."""
    async with node_fakes.served_node() as served:
        body = {"ttl_seconds": 5, "bytes_per_second": MEGABYTE}
        assert (await served.admin("PUT", "/faults/leak", body)).json()["parameters"] == {"bytes_per_second": MEGABYTE}
        for _ in range(4):
            await served.move(1.0)
        assert served.node.faults.leaked_bytes == 4 * MEGABYTE
        await served.move(1.5)
        assert served.node.faults.leaked_bytes == 0
        assert await served.metric('dsctl_node_fault_active{fault="leak"}') == 0


@pytest.mark.parametrize("body", [{}, {"factor": 2}, {"bytes_per_second": 0}, {"bytes_per_second": 1 << 40}])
async def test_a_leak_needs_a_sensible_rate(body: dict[str, int]) -> None:
    """A drill that nobody bounded is refused."""
    async with node_fakes.served_node() as served:
        assert (await served.admin("PUT", "/faults/leak", {"ttl_seconds": 5, **body})).status_code == 422


@pytest.mark.parametrize(
    ("given", "held", "is_ended"), [(100, 101, True), (100, 100, False), (None, 101, False), (100, None, False)]
)
def test_a_process_ends_itself_above_its_own_limit_only(
    clock: FakeClock, given: int | None, held: int | None, is_ended: bool
) -> None:
    """A limit of the control group is the kernel's to keep, and what nobody can measure ends nothing."""
    ended: list[bool] = []
    keeper = memory.Keeper(
        trouble=trouble(clock), given_bytes=given, time=clock, end=lambda: ended.append(True), resident=lambda: held
    )
    keeper.check()
    assert bool(ended) is is_ended


async def test_the_limit_is_shown_as_a_metric() -> None:
    """What a leak runs into; far above what this process holds, for it would end itself."""
    async with node_fakes.served_node(memory_limit_bytes=1 << 50) as served:
        assert await served.metric("dsctl_node_memory_limit_bytes") == 1 << 50
        assert (await served.metric("dsctl_node_threads") or 0) >= 1


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        pytest.param({}, None, id="nothing is known"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000\n"}, 1000, id="container"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/pods/p1\n",
                "sys/fs/cgroup/pods/p1/memory.max": "max\n",
                "sys/fs/cgroup/pods/memory.max": "900\n",
                "sys/fs/cgroup/memory.max": "2000\n",
            },
            900,
            id="the smallest above it",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "700\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            700,
            id="version 1",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../..\n", "sys/fs/cgroup/memory.max": "50\n"}, 50, id="outside the mount"
        ),
    ],
)
def test_the_limit_of_the_control_group_is_found(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    """In a container, in a nested group, with either version, and where there is none."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory.cgroup_limit(tmp_path) == limit


def deep(level: int, secret: str, then: Callable[[], None]) -> None:
    if level:
        deep(level - 1, secret, then)
    else:
        then()


def test_a_look_inside_is_bounded_and_tells_no_secret() -> None:
    """A hundred threads, deep in calls that carry a prompt: places in code, and far less than the promised size."""
    release, started = threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        started.release()
        release.wait(10)

    threads = [threading.Thread(target=deep, args=(80, "the prompt of somebody", wait)) for _ in range(100)]
    for thread in threads:
        thread.start()
    for _ in threads:
        started.acquire()
    try:
        found: dict[str, Any] = {**capture.take(), "profile": capture.profile(2)}
    finally:
        release.set()
        for thread in threads:
            thread.join()
    text = json.dumps(found)
    assert len(text) < capture.MAX_BYTES
    assert len(found["stacks"]) == capture.MAX_THREADS
    assert all(len(each["frames"]) <= capture.MAX_FRAMES for each in found["stacks"])
    assert "prompt of somebody" not in text
    assert "test_node_memory.py" in text
    assert found["num_threads"] > 100


async def test_a_capture_names_what_the_node_is_doing_and_is_made_once_per_key() -> None:
    """The same key gives the first answer again."""
    async with node_fakes.served_node(memory_limit_bytes=1 << 50) as served:
        await served.ask("a secret prompt", key="key-standard")
        first = (await served.admin("POST", "/capture", key="k1")).json()
        assert first["engine"] == {"running": 0, "waiting": 0, "is_alive": True}
        assert first["resident_bytes"] > 0
        assert first["memory_limit_bytes"] == 1 << 50
        assert first["num_open_files"] > 0
        assert first["cuda"] is None
        for secret in ("a secret prompt", "key-standard", "admin-token"):
            assert secret not in json.dumps(first)
        assert (await served.admin("POST", "/capture", key="k1")).json() == first


async def test_a_capture_that_takes_too_long_is_given_up() -> None:
    """Whoever wants to restart the node is not kept waiting."""
    release = threading.Event()

    def look() -> dict[str, Any]:
        release.wait(5)
        return {}

    async with node_fakes.served_node() as served:
        with pytest.raises(errors.AdminError, match=r"more than 0\.01 s"):
            await served.node.capture(look, 0.01)
        release.set()
