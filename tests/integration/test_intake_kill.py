"""Alerts are in the database when they are answered: also when the server is killed in the middle of a burst."""

from pathlib import Path

import pytest

from benchmarks import intake, intake_server

pytestmark = pytest.mark.integration


@pytest.mark.timeout(120)
def test_what_was_answered_survives_a_kill_and_its_repeat_changes_nothing(tmp_path: Path) -> None:
    """Of more senders than may wait: nothing answered 202 is lost, and overload says when to come again."""
    server = intake_server.Server.installed(tmp_path)
    try:
        server.start()
        killed = intake.kill_in_burst(server, 6000, after_seconds=1.0)
    finally:
        server.stop()
    assert killed.lost == 0, killed
    assert 0 < killed.answered < 6000, killed
    assert killed.answered <= killed.stored, killed
    assert killed.without_retry_after == 0, killed
    assert (killed.repeated_as_new, killed.changed) == (0, 0), killed
