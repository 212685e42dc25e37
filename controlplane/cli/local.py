"""For the few commands that work in this process: errors of the house become errors of the command line."""

import contextlib
from collections.abc import Generator

from controlplane.cli import failures
from controlplane.domain import errors


@contextlib.contextmanager
def translated(hint: str) -> Generator[None]:
    """Turn a DsctlError inside the block into a CliError with `hint`."""
    try:
        yield
    except errors.NotFoundError as error:
        raise failures.CliError(str(error), exit_code=failures.Exit.NOT_FOUND, code="not-found", hint=hint) from error
    except errors.InvalidInputError as error:
        raise failures.CliError(str(error), exit_code=failures.Exit.USAGE, code="invalid", hint=hint) from error
    except errors.DsctlError as error:
        raise failures.CliError(str(error), hint=hint) from error
