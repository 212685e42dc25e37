"""Nothing of a demo remains for long when the demo is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import nodes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def test_a_gateway_ends_itself_when_its_starter_is_gone(tmp_path: Path) -> None:
    """kill -9 of the process it is tied to; it then stops as on SIGTERM, with status 0."""
    with (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as starter,
        nodes.run_gateway(tmp_path, lifeline_pid=starter.pid) as gateway,
    ):
        assert gateway.process.poll() is None
        starter.kill()
        starter.wait()
        assert gateway.process.wait(60) == 0
