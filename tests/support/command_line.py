"""`dsctl` called as from a shell, in this process: its exit status, and what it wrote to either stream."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from controlplane.cli import main


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs one command with the arguments it is given."""

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["dsctl", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.run()
        seen = capsys.readouterr()
        return Result(int(ended.value.code or 0), seen.out, seen.err)

    return call
