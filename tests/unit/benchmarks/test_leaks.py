"""The benchmark of leaks, on made-up pods: it counts what its words say."""

import gzip
from pathlib import Path

import pytest

from benchmarks import leaks, runner

HOURS = 10.5
STEP = 120


def write(folder: Path, memory: leaks.Memory, rows: dict[str, float]) -> None:
    """Pods whose memory stands still, at the level given."""
    with gzip.open(folder / memory.file, "wt") as file:
        file.write(f"second,pod,{memory.column}\n")
        for pod, level in rows.items():
            file.writelines(f"{second},{pod},{level}\n" for second in range(0, int(HOURS * 3600), STEP))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "gpu_pods"
    folder.mkdir()
    write(folder, leaks.HOST, {"aa": 0.6, "all": 0.5})
    write(folder, leaks.GPU, {"aa": 2e10})
    return tmp_path


def test_pods_at_rest_raise_no_alarm_and_a_leak_in_them_is_found(data: Path) -> None:
    """Two leaks of 2 % an hour, one of either kind, on memory without noise; the whole service is no pod."""
    figures = leaks.measure(runner.Context(data, lambda _: None))
    keys = runner.BENCHMARKS["leaks"].keys
    assert set(keys) <= figures.keys()
    assert (figures["pods"], figures["leaks"], figures["found_ratio"]) == (1, 2, 0.5)
    assert figures["false_per_pod_day"] == 0
    assert 60 <= float(str(figures["host_minutes_2pct"])) <= 120
    # The most that any pod used counts as the GPU's limit: what is full stays full.
    assert figures["gpu_found_ratio"] == 0
    assert figures["naive_host_found_ratio"] == 1
