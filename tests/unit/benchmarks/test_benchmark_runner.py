"""The benchmark runner: one JSON object last, progress apart, and refusals that say what there is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import runner

ROOT = Path(__file__).parents[3]


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A benchmark of the test's own, found like any other: by the name of its module."""
    module = tmp_path / "bench_of_the_test.py"
    module.write_text(
        "def measure(context):\n    context.say('half way')\n    return {'per_s': 5.0, 'data': str(context.data)}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return {
        "speed": runner.Benchmark("bench_of_the_test", "how fast", ("per_s",)),
        "files": runner.Benchmark("bench_of_the_test", "reads files", ("per_s",), needs_data=True),
        "liar": runner.Benchmark("bench_of_the_test", "promises more", ("per_s", "per_day")),
    }


def test_the_last_line_of_standard_output_is_the_figures(known, capsys):
    """Whoever judges reads one line; progress goes elsewhere."""
    assert runner.main(["speed"], known) == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1]) == {"benchmark": "speed", "per_s": 5.0, "data": "None"}
    assert err == "half way\n"


def test_a_benchmark_has_options_of_its_own(monkeypatch, capsys, tmp_path):
    """Those of another benchmark, or none that exist, are refused before anything is measured."""
    (tmp_path / "bench_with_options.py").write_text(
        "def add_options(parser):\n    parser.add_argument('--kills', type=int, default=60)\n\n"
        "def measure(context):\n    return {'per_s': float(context.options.kills)}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    known = {"speed": runner.Benchmark("bench_with_options", "how fast", ("per_s",))}
    assert runner.main(["speed", "--kills", "7", "--json"], known) == 0
    assert json.loads(capsys.readouterr().out)["per_s"] == 7.0
    with pytest.raises(SystemExit) as refused:
        runner.main(["speed", "--kill-them", "7"], known)
    assert refused.value.code == 2


def test_json_alone_is_silent_about_progress(known, capsys):
    """For scripts that show both streams."""
    assert runner.main(["speed", "--json"], known) == 0
    assert capsys.readouterr().err == ""


def test_a_benchmark_that_reads_data_asks_for_the_folder(known, capsys, tmp_path):
    """No path is guessed."""
    assert runner.main(["files"], known) == 2
    assert "--data DIR" in capsys.readouterr().err
    assert runner.main(["files", "--data", str(tmp_path)], known) == 0


def test_a_promised_figure_that_is_missing_is_our_mistake(known):
    """The keys are what other tools read."""
    with pytest.raises(KeyError, match="promises per_day"):
        runner.main(["liar"], known)


def test_an_unknown_name_is_answered_with_the_known_ones(known, capsys):
    """A slip of the pen ends with status 2."""
    assert runner.main(["sped"], known) == 2
    assert "files, liar, speed" in capsys.readouterr().err


def test_every_registered_benchmark_can_be_imported():
    """The list promises nothing that is not there."""
    for benchmark in runner.BENCHMARKS.values():
        __import__(benchmark.module)


def test_the_command_lists_what_there_is():
    """`python -m benchmarks --list` works from a checkout."""
    listed = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [line.split()[0] for line in listed.stdout.splitlines()] == sorted(runner.BENCHMARKS)
