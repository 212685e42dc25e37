"""A node of a process of its own that leaks until it holds more than it may."""

import re
import select
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from inference_node import memory

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

MEGABYTE = 1_000_000
# The real node over real HTTP with a model of integers, so that it starts in a second.
NODE = """
import asyncio, sys
from inference_node import logs, memory
from tests.support import paced_node

async def main():
    logs.configure()
    limit = memory.resident_bytes() + int(sys.argv[1])
    async with paced_node.served(memory_limit_bytes=limit) as url:
        print(f"ready url={url} limit={limit}", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
ADMIN = {"authorization": "Bearer admin-token"}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "node.log"


def start(log: Path, room_bytes: int) -> tuple[subprocess.Popen[str], str, int]:
    with log.open("w") as opened:
        process = subprocess.Popen(
            [sys.executable, "-c", NODE, str(room_bytes)],
            stdout=subprocess.PIPE,
            stderr=opened,
            text=True,
            cwd=Path(__file__).parents[2],
        )
    assert process.stdout is not None
    is_readable, _, _ = select.select([process.stdout], [], [], 60)
    line = process.stdout.readline() if is_readable else ""
    found = re.search(r"url=(\S+) limit=(\d+)", line)
    assert found, log.read_text()
    return process, found[1], int(found[2])


def test_a_leaking_node_ends_as_if_the_kernel_had_killed_it(log: Path) -> None:
    """It grows as its metrics show, ends with status 137 at the limit, and its log's last line says why and where."""
    process, url, limit = start(log, 60 * MEGABYTE)
    try:
        with httpx.Client(base_url=url, headers=ADMIN, timeout=10) as admin:
            body = {"ttl_seconds": 60, "bytes_per_second": 40 * MEGABYTE}
            admin.put("/admin/v1/faults/leak", json=body).raise_for_status()
            metrics = admin.get("/metrics").text
        shown = {
            line.split()[0]: float(line.split()[1])
            for line in metrics.splitlines()
            if line.startswith(("dsctl_node_memory_limit", "process_resident"))
        }
        assert shown["dsctl_node_memory_limit_bytes"] == limit
        assert 0 < shown["process_resident_memory_bytes"] < limit
        assert process.wait(30) == memory.KILLED_STATUS == 137
        last = log.read_text().splitlines()[-1]
        assert '"event": "memory_limit_exceeded"' in last
        assert f'"memory_limit_bytes": {limit}' in last
        assert "memory.py" in last
        assert len(last) < 32_768
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_node_whose_leak_is_withdrawn_lives_on(log: Path) -> None:
    """What leaked is given back, so that there is nothing to clean up after a drill."""
    process, url, _ = start(log, 400 * MEGABYTE)
    try:
        with httpx.Client(base_url=url, headers=ADMIN, timeout=10) as admin:
            rest = admin.post("/admin/v1/capture").json()["resident_bytes"]
            body = {"ttl_seconds": 60, "bytes_per_second": 120 * MEGABYTE}
            admin.put("/admin/v1/faults/leak", json=body).raise_for_status()
            while (held := admin.post("/admin/v1/capture").json()["resident_bytes"]) < rest + 50 * MEGABYTE:
                assert process.poll() is None
            admin.delete("/admin/v1/faults/leak").raise_for_status()
            assert admin.post("/admin/v1/capture").json()["resident_bytes"] < held - 30 * MEGABYTE
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
