"""What a local fleet's files may say, and what is refused before anything is started."""

from pathlib import Path

import pytest

from actions.local import definitions, fleet
from controlplane.domain import errors
from tests.support import local_fleets
from tests.support.clock import FakeClock

NODE = "{argv: [sleep, '60'], url: 'http://127.0.0.1:1'}"


def written(folder: Path, text: str) -> Path:
    (folder / definitions.FILE).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nodes: {}", "nodes"),
        ("nodes: {a: {argv: [], url: 'http://127.0.0.1:1'}}", r"nodes\.a\.argv"),
        ("nodes: {a: {argv: [x], url: 'http://user@h:1/path'}}", r"nodes\.a\.url: .*is no base URL"),
        (f"nodes: {{../a: {NODE}}}", "nodes"),
        (f"nodes: {{a: {NODE}}}\nstop_second: 1", "did you mean 'stop_seconds'"),
        (f"nodes: {{a: {NODE}}}\nstop_seconds: 0", "stop_seconds"),
        ("nodes: [", "not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, text: str, reason: str) -> None:
    """File, line and path, at the start of the server."""
    with pytest.raises(errors.InvalidInputError, match=reason):
        definitions.read(written(tmp_path, text))


def test_a_file_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    """Whoever can write it can run programs with the rights of the control plane."""
    path = written(tmp_path, f"nodes: {{a: {NODE}}}") / definitions.FILE
    path.chmod(0o666)
    with pytest.raises(errors.InvalidInputError, match=r"everybody may write it.*chmod o-w"):
        definitions.read(tmp_path)


def test_a_folder_without_the_file_says_what_to_write(tmp_path: Path) -> None:
    """The path stands in the message."""
    with pytest.raises(errors.NotFoundError, match=r"there is no .*fleet\.yaml; write the local fleet's nodes"):
        definitions.read(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"argv": 1, "keys": []}', "\x00"])
def test_a_broken_record_stops_the_node_from_being_touched(tmp_path: Path, content: str) -> None:
    """Nobody guesses which process was meant."""
    local = local_fleets.write(tmp_path, {"a": ["sleep", "60"]})
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(errors.InvalidInputError, match=r"a\.json: is no record of a process"):
        local.status("a")


async def test_an_undefined_node_is_refused_everywhere(tmp_path: Path) -> None:
    """A name from elsewhere never becomes a path."""
    local_fleets.write(tmp_path, {"a": ["sleep", "60"]})
    local = fleet.LocalFleet("chat", tmp_path, FakeClock())
    for name in ("b", "../a"):
        for act in (local.start(name), local.stop(name), local.restart(name, "key")):
            with pytest.raises(errors.NotFoundError, match="defines no node"):
                await act
    assert not (tmp_path / "state").exists()
