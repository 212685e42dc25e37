"""Many findings at once, through the real loop, guard, run engine and SQLite: all are answered, and the limit holds."""

from pathlib import Path

import pytest

from benchmarks import burst

pytestmark = pytest.mark.integration

_NUM_NODES = 30


async def test_every_finding_of_a_burst_leads_to_a_run(tmp_path: Path) -> None:
    """Where nothing is taken out of service, each node is acted on once."""
    seen = await burst.burst(tmp_path, "heal", _NUM_NODES, 20.0)
    assert len(seen.seconds) == _NUM_NODES
    assert (seen.refused, seen.max_out) == (0, 0)


async def test_never_more_nodes_are_out_than_the_policy_allows(tmp_path: Path) -> None:
    """Over several rounds of nodes that go out and come back; those that wait have the reason stored."""
    seen = await burst.burst(tmp_path, "eject", _NUM_NODES, 8.0)
    allowed = burst.allowed_out(_NUM_NODES)
    assert 0 < seen.max_out <= allowed
    assert len(seen.seconds) >= allowed
    assert seen.refused >= _NUM_NODES - len(seen.seconds)
