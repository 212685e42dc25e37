"""What the global options say, and where the server and the token come from. One value per command line.

Order: flag, environment (DSCTL_SERVER, DSCTL_TOKEN, DSCTL_TOKEN_FILE), context in the configuration file, default.
The default token is the one the server on this machine wrote at its first start. Reads files only when asked.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from controlplane.cli import failures, output

DEFAULT_SERVER = "http://127.0.0.1:8090"


@dataclass
class State:
    """The global options; the command sets `form` when it has parsed its own."""

    server: str | None = None
    token_file: Path | None = None
    context: str | None = None
    timeout_seconds: float = 10.0
    is_interactive: bool = True
    form: output.Output = output.Output.TABLE

    def resolved_server(self) -> str:
        """Return the server's address; raises CliError for one that is not http(s)."""
        found = self.server or os.environ.get("DSCTL_SERVER") or self._context().get("server") or DEFAULT_SERVER
        if not found.startswith(("http://", "https://")):
            hint = f"Write it as {DEFAULT_SERVER}."
            raise failures.usage(f"the server's address {found!r} has no http:// or https://", hint=hint)
        try:
            is_address = bool(urlsplit(found).hostname) and urlsplit(found).port != 0
        except ValueError:
            is_address = False
        if not is_address:
            raise failures.usage(f"{found!r} is no address of a server", hint=f"Write it as {DEFAULT_SERVER}.")
        return found.rstrip("/")

    def resolved_token(self) -> str | None:
        """Return the token to send, or None when there is none; raises CliError for what no header can carry."""
        found = self._found_token()
        if found is not None and not (found.isascii() and found.isprintable()):
            raise failures.CliError(
                "the token holds characters that no token has",
                exit_code=failures.Exit.LOGIN,
                code="no-token",
                hint="Is it the right file or variable? `dsctl auth token create` makes a new one.",
            )
        return found

    def _found_token(self) -> str | None:
        if self.token_file is not None:
            return _read(self.token_file)
        if os.environ.get("DSCTL_TOKEN"):
            return os.environ["DSCTL_TOKEN"]
        named = os.environ.get("DSCTL_TOKEN_FILE") or self._context().get("token_file")
        if named:
            return _read(Path(named).expanduser())
        own = data_dir() / "admin-token"
        return _read(own) if os.access(own, os.R_OK) else None

    def _context(self) -> dict[str, str]:
        """Return the chosen context of the configuration file; raises CliError when a named one is missing."""
        path = _config_home() / "dsctl" / "config.toml"
        wanted = self.context or os.environ.get("DSCTL_CONTEXT")
        if not path.is_file():
            if wanted:
                hint = f"Write it there as [contexts.{wanted}]."
                raise failures.usage(f"context {wanted!r} is not known: {path} does not exist", hint=hint)
            return {}
        return _pick(path, wanted)


def _pick(path: Path, wanted: str | None) -> dict[str, str]:
    import tomllib

    try:
        document = cast("dict[str, object]", tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise failures.usage(f"{path} cannot be read: {error}") from error
    contexts = cast("dict[str, dict[str, str]]", document.get("contexts", {}))
    name = wanted or cast("str | None", document.get("current"))
    if name is None:
        return {}
    if name not in contexts:
        known = ", ".join(sorted(contexts)) or "none"
        raise failures.usage(f"context {name!r} is not in {path}", hint=f"Known contexts: {known}.")
    return contexts[name]


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def data_dir() -> Path:
    """Return the folder the server on this machine keeps its data in, unless its settings file says otherwise."""
    if os.environ.get("DSCTL_DATA_DIR"):
        return Path(os.environ["DSCTL_DATA_DIR"])
    import platformdirs

    return Path(platformdirs.user_data_dir("dsctl", appauthor=False))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise failures.CliError(
            f"the token file {path} cannot be read: {error}",
            exit_code=failures.Exit.LOGIN,
            code="no-token",
            hint="Name another with --token-file, or set DSCTL_TOKEN.",
        ) from error
