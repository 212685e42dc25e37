"""The documents keep step with the tree: links lead somewhere, every room and contract is described, targets exist."""

import os
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
# How many capabilities each family of the requirements has.
FAMILIES = {"S": 10, "O": 7, "D": 10, "A": 15, "N": 9, "P": 5, "U": 6}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page: Path):
    """A reader who follows a link arrives."""
    targets = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


def test_every_room_is_described_in_the_architecture():
    """A module or package of controlplane without a line there has no stated purpose."""
    page = read("docs/architecture.md")
    rooms = {
        path.stem
        for path in (ROOT / "controlplane").iterdir()
        if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    missing = {room for room in rooms if f"controlplane.{room}`" not in page and f"`{room}`" not in page}
    assert missing == set()


def test_every_import_contract_is_described_in_the_architecture():
    """The page states each rule that the build keeps."""
    page = read("docs/architecture.md")
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    assert [one["name"] for one in contracts if one["name"] not in page] == []


def test_the_readme_says_of_every_capability_whether_it_is_there():
    """Nothing of the requirements is passed over in silence."""
    table = [line.split("|")[1] for line in read("README.md").splitlines() if re.match(r"\| [SODANPU]\d", line)]
    named = {each for cell in table for each in _expand(cell)}
    wanted = {f"{family}{number}" for family, count in FAMILIES.items() for number in range(1, count + 1)}
    assert wanted - named == set()
    assert named - wanted == set()


def _expand(cell: str) -> set[str]:
    """Return the ids of a cell such as `S1, S2, S5 to S10`."""
    found: set[str] = set()
    for part in cell.split(","):
        first, _, last = part.strip().partition(" to ")
        family, start, end = first[0], int(first[1:]), int((last or first)[1:])
        found |= {f"{family}{number}" for number in range(start, end + 1)}
    return found


def test_the_commands_of_the_readme_are_targets_of_the_makefile():
    """A newcomer's first command works."""
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"^(?:`)?make ([a-z]+)", read("README.md"), re.MULTILINE))
    assert named
    assert named <= targets
    assert {"setup", "demo", "unit", "test", "accept", "check", "fix"} <= targets


def test_every_decision_record_is_half_a_page():
    """A record that is longer is a page of its own; one without a decision is none."""
    for record in (ROOT / "docs" / "decisions").glob("*.md"):
        assert len(record.read_text(encoding="utf-8").splitlines()) <= 40, record.name


def test_continuous_integration_runs_what_people_run():
    """One entry, executable, that is `make test`."""
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make test" in read(".ci/run")
    assert os.access(ROOT / "requirements" / "install.sh", os.X_OK)


@pytest.mark.parametrize("page", ["README.md", "docs/operating.md"])
def test_the_commands_that_people_are_told_to_type_exist(page: str):
    """Each `dsctl ...` of the guides has its heading in the reference, which is written from the code."""
    reference = set(re.findall(r"^## `(dsctl[a-z -]*)`$", read("docs/cli.md"), re.MULTILINE))
    typed = re.findall(r"(?:^|`)(dsctl(?: [a-z][a-z-]*)+)", read(page), re.MULTILINE)
    assert typed
    unknown = [
        command
        for command in typed
        if not any(f"{command} ".startswith(f"{known} ") for known in reference - {"dsctl"})
    ]
    assert unknown == []
