"""A library is accepted whole or not at all."""

from pathlib import Path

import pytest

from controlplane.domain import errors
from controlplane.runs.language import library
from tests.support import runbooks


def load(tmp_path: Path, shipped: list[str], user: list[str]) -> library.Library:
    return library.load(
        runbooks.words(),
        shipped=runbooks.write(tmp_path / "shipped", *shipped),
        user=runbooks.write(tmp_path / "user", *user),
    )


def test_own_runbooks_join_the_shipped_ones(tmp_path: Path) -> None:
    """Both can be found, and each knows where it came from."""
    found = load(tmp_path, [runbooks.runbook("a")], [runbooks.runbook("b")])
    assert found.get("a").is_shipped
    assert not found.get("b").is_shipped
    with pytest.raises(errors.NotFoundError, match="known are a, b"):
        found.get("nothing-like-it")


def test_replacing_a_shipped_runbook_must_be_said(tmp_path: Path) -> None:
    """A name taken by chance is refused; `override: true` is not."""
    with pytest.raises(errors.InvalidInputError, match="override: true"):
        load(tmp_path, [runbooks.runbook("a")], [runbooks.runbook("a")])
    found = load(tmp_path, [runbooks.runbook("a")], [runbooks.runbook("a", override=True)])
    assert not found.get("a").is_shipped


def test_an_override_of_nothing_is_refused(tmp_path: Path) -> None:
    """It is a misspelt name."""
    with pytest.raises(errors.InvalidInputError, match="not shipped; did you mean 'flush'"):
        load(tmp_path, [runbooks.runbook("flush")], [runbooks.runbook("flus", override=True)])


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ([runbooks.runbook("a"), runbooks.runbook("a")], "stands in"),
        ([runbooks.runbook("a"), "kind: ["], "not YAML"),
        ([runbooks.runbook("a", follow_up="b")], "no runbook is named 'b'"),
        ([runbooks.runbook("a", follow_up="a")], "in a circle: a -> a"),
        ([runbooks.runbook("a", follow_up="b"), runbooks.runbook("b", follow_up="a")], "in a circle"),
    ],
)
def test_one_bad_file_refuses_the_set(tmp_path: Path, texts: list[str], reason: str) -> None:
    """Nothing of a library is used when a part of it is wrong."""
    with pytest.raises(errors.InvalidInputError, match=reason):
        load(tmp_path, [], texts)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """Not UTF-8, too large, or no file at all: each with its path."""
    directory = runbooks.write(tmp_path / "user", runbooks.runbook("a"))
    (directory / "00.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(errors.InvalidInputError, match=r"00\.yaml: is not UTF-8"):
        library.load(runbooks.words(), shipped=directory)
    (directory / "00.yaml").write_bytes(b"#" * 2_000_000)
    with pytest.raises(errors.InvalidInputError, match="is larger than"):
        library.load(runbooks.words(), shipped=directory)
    (directory / "00.yaml").unlink()
    (directory / "00.yaml").mkdir()
    with pytest.raises(errors.InvalidInputError, match="cannot be read"):
        library.load(runbooks.words(), shipped=directory)
    with pytest.raises(errors.InvalidInputError, match="not a directory"):
        library.load(runbooks.words(), shipped=tmp_path / "missing")
