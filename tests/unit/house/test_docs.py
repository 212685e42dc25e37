"""The documents keep step with the tree: links lead somewhere, every room and contract is described, targets exist."""

import dataclasses
import os
import re
import textwrap
import tomllib
from pathlib import Path

import pytest

from controlplane import settings
from controlplane.domain import services
from controlplane.observe import service_file

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
# In backquotes, or after the words that messages lead a command in with.
_COMMAND = r"(?:`|with: |again: |stop it: |files: )(dsctl(?: [a-z][a-z-]*)+)(?=[` \"{]|$)"
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
    rows = read("README.md").partition("| ID | capability | state |")[2].splitlines()
    table = [line.split("|")[1] for line in rows if re.match(r"\| [SODANPU]\d", line)]
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


def telling() -> list[Path]:
    """Return what tells people commands to type: the documents, and the product's own messages and comments."""
    packages = ("actions", "alerts", "benchmarks", "controlplane", "dashboards", "detectors", "inference_node")
    files = [path for package in packages for path in (ROOT / package).rglob("*") if path.suffix in {".py", ".yaml"}]
    return [page for page in PAGES if page.name != "cli.md"] + sorted(files)


def commands_in(text: str) -> list[str]:
    examples = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    return re.findall(_COMMAND, text) + re.findall(r"^(dsctl(?: [a-z][a-z-]*)+)", examples, re.MULTILINE)


def test_the_commands_that_people_are_told_to_type_exist():
    """Each `dsctl ...` has its heading in the reference, which is written from the code; a group needs a verb."""
    known = set(re.findall(r"^## `(dsctl[a-z -]*)`$", read("docs/cli.md"), re.MULTILINE))
    groups = {one for one in known if any(other.startswith(f"{one} ") for other in known)}
    told = [
        (path.relative_to(ROOT), command)
        for path in telling()
        for command in commands_in(path.read_text(encoding="utf-8"))
    ]
    assert len(told) > 50
    unknown = [
        f"{path}: {command}"
        for path, command in told
        if command not in known and not any(command.startswith(f"{leaf} ") for leaf in known - groups)
    ]
    assert unknown == []


def test_every_field_of_a_service_is_described():
    """services.yaml is the first file that people write."""
    page = read("docs/services.md")
    fields = {
        "objectives": services.Objectives,
        "thresholds": services.Thresholds,
        "pools[]": services.Pool,
    }
    names = [f"{part}.{field.name}" for part, kind in fields.items() for field in dataclasses.fields(kind)]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_example_of_a_service_is_accepted():
    """What is copied from the page works."""
    (example,) = re.findall(r"```yaml\n(.*?)```", read("docs/services.md"), re.DOTALL)
    (found,) = service_file.parse(example, source="docs/services.md", profiles=["dsctl"])
    assert (found.name, found.min_ready) == ("chat", 2)


def test_the_settings_of_the_operating_guide_are_accepted(tmp_path: Path):
    """The first dsctl.yaml that somebody writes is the one of the guide."""
    (tmp_path / "node-admin-token").write_text("a-token")
    example = re.findall(r"```yaml\n(.*?)```", read("docs/operating.md"), re.DOTALL)[0]
    (tmp_path / "dsctl.yaml").write_text(textwrap.dedent(example))
    loaded = settings.load(tmp_path / "dsctl.yaml")
    assert loaded.gateways["chat"].admin_url == "http://127.0.0.1:8000"
