"""What the server refuses at its door: wrong files, a second process on one database, an address that is taken."""

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.support import prometheus as real
from tests.support import service
from tests.support import service_files as files

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def _edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return edit


CASES = {
    "unknown setting": (_edit("dsctl.yaml", "tick_seconds", "tick_secs"), "dsctl.yaml:8", "'tick_seconds'"),
    "key given twice": (_edit("dsctl.yaml", "mode: auto", "mode: auto\nmode: observe"), "dsctl.yaml:8", "mode"),
    "unknown key of a service": (
        _edit("services.yaml", "profile: dsctl", "profile: dsctl\n  colour: blue"),
        "services.yaml:4",
        "colour",
    ),
    "CEL that is none": (
        _edit("policies/cache-poisoned.yaml", "finding.kind ==", "finding.kind = ="),
        "cache-poisoned.yaml",
        "when",
    ),
    "unknown runbook in a policy": (
        _edit("policies/cache-poisoned.yaml", "runbook: flush-cache", "runbook: flush-cash"),
        "cache-poisoned.yaml",
        "flush-cash",
    ),
    "wrong type in a runbook": (
        _edit("runbooks/flush-cache.yaml", "attempts: 3", "attempts: often"),
        "flush-cache.yaml:",
        "attempts",
    ),
}


@pytest.mark.parametrize(("spoil", "place", "reason"), CASES.values(), ids=CASES)
def test_a_wrong_file_is_refused_with_its_place_and_nothing_is_left_behind(
    tmp_path: Path, spoil: Callable[[Path], None], place: str, reason: str
) -> None:
    """`check-config` and `start` both end with 2, naming file, line and reason, and create nothing."""
    config = files.write(tmp_path)
    spoil(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with ThreadPoolExecutor(2) as pool:
        words = ("check-config", "start")
        ends = list(pool.map(lambda word: _server(tmp_path, word, config), words))
    for end in ends:
        assert end.returncode == 2, end.stdout + end.stderr
        assert place in end.stderr, end.stderr
        assert reason in end.stderr, end.stderr
        assert "Traceback" not in end.stderr
    assert sorted(tmp_path.rglob("*")) == before


def _server(folder: Path, word: str, config: Path) -> "subprocess.CompletedProcess[str]":
    return service.dsctl("server", word, "--config", str(config), cwd=folder)


def test_what_is_right_is_listed(tmp_path: Path) -> None:
    """`check-config` names services, runbooks and policies with their modes, and starts nothing."""
    end = _server(tmp_path, "check-config", files.write(tmp_path, mode="observe"))
    assert end.returncode == 0, end.stderr
    assert "services: chat" in end.stdout
    assert "cache-poisoned (observe)" in end.stdout
    assert not (tmp_path / "data").exists()


def test_one_database_has_one_server_and_one_address_one_listener(tmp_path: Path) -> None:
    """A second server on the same data, and one on a taken port, end at once and say so; the first serves on."""
    with service.installed(tmp_path, has_alertmanager=False, has_prometheus=False) as rig:
        settings = yaml.safe_load(rig.server.config.read_text())
        same_data = _written(tmp_path / "second.yaml", settings | {"listen": {"port": real.free_port()}})
        same_port = _written(tmp_path / "third.yaml", settings | {"data_dir": "other"})
        with ThreadPoolExecutor(2) as pool:
            second, third = pool.map(lambda path: _server(tmp_path, "start", path), (same_data, same_port))
        assert second.returncode == 1, second.stderr
        assert f"(pid {rig.server.pid})" in second.stderr
        assert "already uses the database" in second.stderr
        assert third.returncode == 1, third.stderr
        assert f"cannot listen on 127.0.0.1 port {settings['listen']['port']}" in third.stderr
        for end in (second, third):
            assert "Traceback" not in end.stderr
        assert rig.server.get("/whoami")["role"] == "admin"
        assert (tmp_path / "data" / "admin-token").stat().st_mode & 0o077 == 0


def _written(path: Path, settings: object) -> Path:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path
