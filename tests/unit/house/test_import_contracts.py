"""The import contracts of pyproject.toml hold, and each of them would notice being broken."""

import functools
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("controlplane", "detectors", "actions", "alerts", "dashboards", "inference_node")

# Contract -> the import that breaks it: which module says what. A contract without a line here fails the last test.
BREACHES = {
    "One-way rooms": ("controlplane/domain/signals.py", "from controlplane.observe import catalogue"),
    "Every room has a place": ("controlplane/attic.py", ""),
    "Pure rooms do no I/O": ("controlplane/engine/guard.py", "import socket"),
    "Engine speaks to ports": ("controlplane/engine/guard.py", "from controlplane.store import tables"),
    "Runs ask guard and verify through ports": ("controlplane/runs/language/models.py", "import controlplane.engine"),
    "Island out": ("inference_node/clock.py", "from controlplane.domain import signals"),
    "Island in": ("actions/api.py", "import inference_node"),
    "Scheduler needs no torch": ("inference_node/engine/batcher.py", "import torch"),
    "Package roots stay empty": ("detectors/__init__.py", "from controlplane.domain import signals"),
}


def contracts() -> list[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return [one["name"] for one in tomllib.load(file)["tool"]["importlinter"]["contracts"]]


@functools.cache
def linter() -> str:
    found = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert found, "import-linter is part of requirements/dev.txt"
    return found


def lint(root: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run the linter over the tree at `root`; the cache is shared, since most files are the same ones."""
    return subprocess.run(
        [linter(), "--no-logo", "--cache-dir", str(cache)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the Python files of the six packages, with their settings."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=_all_but_python)
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def _all_but_python(folder: str, names: list[str]) -> set[str]:
    return {
        name for name in names if name == "__pycache__" or not (Path(folder, name).is_dir() or name.endswith(".py"))
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("import-cache")


def test_the_tree_as_it_is_keeps_every_contract(tree: Path, cache: Path):
    """Without a breach the linter is content; otherwise the breaches below would prove nothing."""
    result = lint(tree, cache)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("KEPT") == len(contracts())


@pytest.mark.integration  # two seconds each: not for the suite that is run at every save
@pytest.mark.parametrize("contract", BREACHES)
def test_one_import_across_the_line_breaks_the_contract(contract: str, tree: Path, cache: Path):
    """Each contract is worth having: one wrong import makes the linter fail and name it."""
    module, statement = BREACHES[contract]
    path = tree / module
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{before}\n{statement}\n", encoding="utf-8")
    result = lint(tree, cache)
    assert result.returncode == 1, result.stdout + result.stderr
    broken = result.stdout + result.stderr
    assert f"{contract} BROKEN" in broken


def test_every_contract_has_a_breach_that_proves_it():
    """A contract that nobody ever saw broken may be one that cannot be."""
    assert set(contracts()) == set(BREACHES)


@pytest.mark.parametrize("package", PACKAGES)
def test_package_roots_are_empty_files(package: str):
    """Importing a package does nothing: what is imported is named."""
    filled = [str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("__init__.py") if path.stat().st_size]
    assert filled == []
