"""The built wheel: exactly the six packages, with their data and without tests, and a `dsctl` that starts from it."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"controlplane", "detectors", "actions", "alerts", "dashboards", "inference_node"}
# Kinds of files that the code reads at run time; each is found by walking the source tree, so none can be forgotten.
DATA_SUFFIXES = {".yaml", ".yml", ".json", ".jsonl", ".txt", ".typed", ".tmpl", ".html", ".css", ".js", ".svg"}

pytestmark = pytest.mark.integration  # builds a wheel: seconds, not milliseconds


def build(kind: str, folder: Path) -> Path:
    """Build this checkout without asking any index."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_top_level_is_the_six_packages_and_nothing_else(names: set[str]):
    """The import names are generic, so the wheel brings exactly those it promises."""
    top = {name.split("/")[0] for name in names}
    assert {one for one in top if not one.endswith(".dist-info")} == PACKAGES
    assert len(top) == len(PACKAGES) + 1


def test_no_tests_and_no_leftovers_are_shipped(names: set[str]):
    """A user gets the product, not its workshop."""
    wrong = [
        n for n in names if "test" in Path(n).name.lower().split("_") or "__pycache__" in n or n.startswith("tests/")
    ]
    assert wrong == []


def test_every_module_and_every_data_file_of_the_tree_is_in_the_wheel(names: set[str]):
    """What works from the checkout works from the wheel: catalogue, profiles, stories, runbooks, migrations, rules."""
    wanted = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and (path.suffix == ".py" or path.suffix in DATA_SUFFIXES) and "__pycache__" not in path.parts
    }
    assert wanted <= names, sorted(wanted - names)
    assert "controlplane/scenarios/stories/S4.yaml" in names
    assert "controlplane/console/templates/run.html" in names
    assert "dashboards/dsctl-fleet.json" in names


def test_the_licence_comes_along(names: set[str]):
    """Apache-2.0 asks for it."""
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_dsctl_starts_from_the_wheel_alone(wheel: Path, tmp_path: Path):
    """`dsctl --help` and its version come from the installed wheel, not from the checkout."""
    target = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import controlplane.cli.main as m, pathlib; "
        "assert pathlib.Path(m.__file__).is_relative_to(sys.path[0]), m.__file__; m.run()"
    )
    started = subprocess.run(
        [sys.executable, "-I", "-c", code, str(target), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert started.returncode == 0, started.stdout + started.stderr
    assert "remediate" in started.stdout
    assert (target / "bin" / "dsctl").exists()


def test_the_source_distribution_can_be_worked_with(tmp_path: Path):
    """Who unpacks it can follow the README: what the Makefile and the tests read comes along, and leftovers do not."""
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2]: archive.getmember(name).mode for name in archive.getnames()}
    assert {"LICENSE", "Makefile", "README.md", "requirements/dev.txt", "docs/services.md", ".ci/run"} <= set(names)
    assert names["requirements/install.sh"] & 0o100
    assert [name for name in names if name.startswith((".git/", ".venv", "var/")) or "__pycache__" in name] == []
