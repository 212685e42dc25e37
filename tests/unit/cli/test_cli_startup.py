"""The command line answers at once: what it imports, how long it takes, and its generated page."""

import resource
import subprocess
import sys
from pathlib import Path

from controlplane.cli import reference

ROOT = Path(__file__).parents[3]
HEAVY = {"fastapi", "starlette", "sqlalchemy", "httpx", "pydantic", "yaml", "rich", "asyncio", "structlog", "uvicorn"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


def test_help_imports_nothing_heavy() -> None:
    """None of the server's libraries is loaded to print help."""
    code = "import sys, controlplane.cli.main; print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in python("-c", code).stdout.split()}
    assert "typer" in loaded
    assert not HEAVY & loaded


def test_help_is_quick() -> None:
    """The best of five cold starts costs little CPU; wall time would measure the machine's other work."""

    def cost() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = python("-m", "controlplane.cli", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (done.returncode, "remediate" in done.stdout) == (0, True)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cost() for _ in range(5)) < 0.6


def test_module_runs_as_the_command_does() -> None:
    """`python -m controlplane.cli` prints data on standard output and errors on standard error, with exit codes."""
    version = python("-m", "controlplane.cli", "version")
    wrong = python("-m", "controlplane.cli", "--server", "nowhere", "runs", "list")
    assert (version.returncode, version.stdout.split()[0], version.stderr) == (0, "dsctl", "")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: ")


def test_page_is_current() -> None:
    """`docs/cli.md` is what the commands say; `python -m controlplane.cli.reference docs` updates it."""
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference.commands()
