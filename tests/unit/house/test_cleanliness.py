"""What no file of the repository may hold: other people's hosts, paths of one machine, words about how it was made."""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
# Addresses that documentation and tests may name: loopback, the reserved names, and the sources of formats and formulas.
_ALLOWED_HOSTS = re.compile(
    r"^(localhost|127\.0\.0\.1|\[::1\]|0\.0\.0\.0|10\.\d+\.\d+\.\d+|192\.0\.2\.\d+|[a-z0-9.-]*\.?example(\.(com|org|net))?"
    r"|[a-z0-9.-]+\.(test|invalid|localhost|svc|local)|github\.com|(www\.)?rfc-editor\.org|datatracker\.ietf\.org"
    r"|arxiv\.org|prometheus\.io|cel\.dev|json-schema\.org|spec\.openapis\.org|(www\.)?apache\.org|www\.w3\.org|docs\.python\.org)$"
)
_URL = re.compile(r"https?://(?:[^/\s\"'<>)@]*@)?(\[[^\]]*\]|[^/\s:\"'<>)`,;{}$\\]+)")
# A name that DNS could hold; what hostile input writes in a host's place is no address.
_HOST_NAME = re.compile(r"^([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\.)+[a-z0-9]+$|^\[[0-9a-f:.]*[0-9a-f][0-9a-f:.]*\]$")
_LEFTOVERS = {".git", ".venv", ".hypothesis", "__pycache__", "var", "build", "dist", "node_modules"}
# Joined from parts, so that this file does not hold what it looks for.
_MACHINE_PATHS = [
    f"/{first}/{rest}" for first, rest in (("work", "main"), ("work", "shared"), ("opt", "wheels"), ("opt", "pypi"))
]
_MAKERS = [
    "clau" + "de",
    "anth" + "ropic",
    "chat" + "gpt",
    "co" + "pilot",
    "gene" + "rated by an ai",
    "language mo" + "del wrote",
]
_UNFINISHED = ["TO" + "DO", "FIX" + "ME", "XX" + "X:", "NotImple" + "mentedError"]


def files() -> Iterator[Path]:
    """Yield the text files of the repository: everything but what tools leave behind."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in _LEFTOVERS and not name.endswith(("_cache", ".egg-info"))]
        for path in (Path(folder, name) for name in names):
            if path.is_file() and b"\0" not in path.read_bytes()[:4096]:
                yield path


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files()}


def holding(texts: dict[str, str], words: list[str], *, suffixes: tuple[str, ...] = ("",)) -> list[str]:
    pattern = re.compile("|".join(re.escape(word) for word in words), re.IGNORECASE)
    return [
        f"{name}:{number}: {line.strip()[:80]}"
        for name, text in texts.items()
        if name.endswith(suffixes)
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_the_machine_it_was_made_on(texts: dict[str, str]):
    """A checkout works wherever it lies."""
    assert holding(texts, _MACHINE_PATHS) == []


def test_no_file_speaks_of_its_makers(texts: dict[str, str]):
    """The text is about the product."""
    assert holding(texts, _MAKERS) == []


def test_nothing_is_left_unfinished(texts: dict[str, str]):
    """What is not done is not there; what is missing stands in the README's table."""
    product = {name: text for name, text in texts.items() if not name.startswith("tests/")}
    assert holding(product, _UNFINISHED, suffixes=(".py", ".yaml", ".md", ".sh", "Makefile")) == []


def test_only_known_public_addresses_are_named(texts: dict[str, str]):
    """Neither package mirrors nor anybody's private hosts; a new source is added to the list on purpose."""
    unknown = [
        f"{name}: {host}"
        for name, text in texts.items()
        if name != "LICENSE"
        for host in _URL.findall(text)
        if _HOST_NAME.match(host.lower()) and not _ALLOWED_HOSTS.match(host.lower())
    ]
    assert unknown == []


def test_requirements_are_pins_and_nothing_else(texts: dict[str, str]):
    """Every line of the pinned files is NAME==VERSION: no index, no folder, no local build of torch."""
    for name in ("requirements/base.txt", "requirements/dev.txt"):
        lines = texts[name].splitlines()
        assert lines
        loose = [line for line in lines if not re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*( ; .+)?", line)]
        assert loose == []
    assert "torch==2.13.0" in texts["requirements/dev.txt"].splitlines()


def test_every_requirement_of_the_project_is_pinned(texts: dict[str, str]):
    """Adding a dependency without `make pin` fails here and not on somebody's machine."""
    project = tomllib.loads(texts["pyproject.toml"])["project"]
    pinned = {}
    for line in texts["requirements/dev.txt"].splitlines():
        name, _, version = line.split(" ;")[0].partition("==")
        pinned[name] = version
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    for requirement in map(Requirement, wanted):
        if requirement.name == "dsctl":
            continue
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), requirement
