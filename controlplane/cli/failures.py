"""How a command ends when it does not succeed: exit codes, and errors that say what, why and what to do next.

Raised anywhere in the command line, printed once by `main`. Imports next to nothing: it is on the path of `--help`.
"""

from collections.abc import Mapping
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command; scripts rely on them."""

    OK = 0
    ERROR = 1
    USAGE = 2
    LOGIN = 4
    NOT_FOUND = 5
    REFUSED = 6
    TIMED_OUT = 7
    FAILED = 8
    ROLLED_BACK = 9
    INTERRUPTED = 130


MEANINGS: Mapping[Exit, str] = {
    Exit.OK: "Success",
    Exit.ERROR: "Error of the server, or an unexpected one",
    Exit.USAGE: "Wrong usage",
    Exit.LOGIN: "A token is needed, or its role is not enough",
    Exit.NOT_FOUND: "Not found",
    Exit.REFUSED: "The guard refused",
    Exit.TIMED_OUT: "The wait timed out; the run goes on",
    Exit.FAILED: "The run ended failed, cancelled, or needs a person",
    Exit.ROLLED_BACK: "The run ended rolled back",
    Exit.INTERRUPTED: "Interrupted; the message says whether the run goes on",
}


class CliError(Exception):
    """Ends the command. `code` names the kind of error for scripts, `hint` says what to do next."""

    def __init__(self, message: str, *, exit_code: Exit = Exit.ERROR, code: str = "error", hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.code = code
        self.hint = hint


class UnreachableError(CliError):
    """The server did not answer; the same call may succeed later."""


def usage(message: str, *, hint: str = "") -> CliError:
    """Return the error for a command line that cannot be meant."""
    return CliError(message, exit_code=Exit.USAGE, code="usage", hint=hint)
