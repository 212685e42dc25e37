"""What the local fleets tell capacity planning."""

import json
from pathlib import Path

import pytest

from actions.local import actuator, definitions
from controlplane.domain import capacity, errors, ports
from tests.support import local_fleets


def node(number: int, **fields: str) -> dict[str, object]:
    return {"argv": ["sleep", "60"], "url": f"http://127.0.0.1:{number}", **fields}


def record(folder: Path, name: str, pid: int | None) -> None:
    (folder / "state").mkdir(exist_ok=True)
    written = definitions.as_json(definitions.Record(("sleep", "60"), pid=pid))
    (folder / "state" / f"{name}.json").write_text(json.dumps(written), encoding="utf-8")


async def test_each_pool_says_what_it_has_and_what_it_could_have(tmp_path: Path) -> None:
    """Started nodes count, ready or not, ended or not; those that were stopped or never started are spares."""
    nodes = {
        "c1": node(1, pool="cold"),
        "a": node(2),
        "b": node(3, pool="hot"),
        "d": node(4),
        "c2": node(5, pool="cold"),
    }
    local = local_fleets.define(tmp_path, nodes)
    for name, pid in {"a": 4_194_304, "b": None, "c1": 4_194_305}.items():
        record(tmp_path, name, pid)
    asked: ports.Actuator = actuator.LocalActuator({"chat": local})
    assert await asked.standing("chat") == {
        "hot": capacity.PoolStanding("hot", ("a",), placeable=3),
        "cold": capacity.PoolStanding("cold", ("c1",), placeable=2),
    }


async def test_a_service_that_is_run_elsewhere_is_named() -> None:
    """Nobody takes it for one without nodes."""
    with pytest.raises(errors.NotFoundError, match=r"set local_fleets\.chat\.folder"):
        await actuator.LocalActuator({}).standing("chat")


def test_the_hot_pool_comes_first_and_then_pools_as_written(tmp_path: Path) -> None:
    """In this order nodes are started, and backwards they go."""
    nodes = {
        "c1": node(1, pool="cold"),
        "s1": node(2, pool="spot"),
        "a": node(3),
        "c2": node(4, pool="cold"),
        "b": node(5),
    }
    local = local_fleets.define(tmp_path, nodes)
    assert [one.name for one in local.members()] == ["a", "b", "c1", "c2", "s1"]
    assert [one.pool for one in local.members()] == ["hot", "hot", "cold", "cold", "spot"]


def test_a_pool_has_a_name_as_nodes_have(tmp_path: Path) -> None:
    """It becomes a label and a key."""
    local = local_fleets.define(tmp_path, {"a": node(1, pool="no such/name")})
    with pytest.raises(errors.InvalidInputError, match=r"nodes\.a\.pool"):
        local.members()
