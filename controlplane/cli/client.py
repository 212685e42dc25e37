"""The HTTP client of the command line, on the standard library: the common client libraries take longer to import
than a command may take. Blocking, one connection per request, every wait bounded.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from controlplane.cli import failures, state

_EXIT_OF_STATUS = {
    401: failures.Exit.LOGIN,
    403: failures.Exit.LOGIN,
    404: failures.Exit.NOT_FOUND,
}
# Redirects count as bad: a token is not carried to wherever they point.
_FIRST_BAD_STATUS = 300
_HINTS = {
    "unauthorized": "Set DSCTL_TOKEN or DSCTL_TOKEN_FILE, or pass --token-file.",
    "refused": "`dsctl explain` shows every gate with its numbers, and what would change the answer.",
    "conflict": "Look again with --dry-run, then repeat.",
    "unavailable": "Try again in a moment; `dsctl doctor` shows what does not answer.",
    "overloaded": "Try again in a moment.",
    "internal": "Read the server's log.",
}

Query = Mapping[str, str | int | float | bool | None]


def segment(text: str) -> str:
    """Return a name as one segment of a path."""
    return quote(text, safe="")


class Client:
    """Speaks to one server with one token."""

    def __init__(self, settings: state.State) -> None:
        self._server = settings.resolved_server()
        self._token = settings.resolved_token()
        self._timeout_seconds = settings.timeout_seconds

    @property
    def server(self) -> str:
        """The server's address."""
        return self._server

    def get(self, path: str, query: Query | None = None, *, patience_seconds: float = 0.0) -> Any:
        """Return the answer to a read; `patience_seconds` is how long the server was asked to wait for news."""
        given = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        full = f"{path}?{urlencode(given)}" if given else path
        return self._call("GET", full, None, {}, self._timeout_seconds + patience_seconds)

    def post(self, path: str, body: Mapping[str, Any], *, key: str | None = None) -> Any:
        """Send a change. With an idempotency key it is sent once more when the connection breaks."""
        headers = {"Idempotency-Key": key} if key else {}
        try:
            return self._call("POST", path, body, headers, self._timeout_seconds)
        except failures.UnreachableError:
            if key is None:
                raise
            return self._call("POST", path, body, headers, self._timeout_seconds)

    def delete(self, path: str) -> None:
        """Remove something."""
        self._call("DELETE", path, None, {}, self._timeout_seconds)

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str], timeout: float
    ) -> Any:
        import http.client

        full = {"Accept": "application/json", **headers}
        if self._token is not None:
            full["Authorization"] = f"Bearer {self._token}"
        payload = None
        if body is not None:
            full["Content-Type"] = "application/json"
            payload = json.dumps(body)
        try:
            connection = self._connect(timeout)
            try:
                connection.request(method, f"{urlsplit(self._server).path}/api/v1{path}", payload, full)
                answer = connection.getresponse()
                status, content = answer.status, answer.read()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(error) from error
        return _understood(status, content)

    def _connect(self, timeout: float) -> Any:
        import http.client

        parts = urlsplit(self._server)
        make: Callable[..., http.client.HTTPConnection] = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        return make(parts.hostname or "", parts.port, timeout=timeout)

    def _unreachable(self, error: Exception) -> failures.UnreachableError:
        return failures.UnreachableError(
            f"{self._server} does not answer: {error or type(error).__name__}",
            code="unreachable",
            hint="Is the server up (`dsctl server start`)? Another address: --server or DSCTL_SERVER.",
        )


def _text(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _understood(status: int, content: bytes) -> Any:
    """Return the JSON of a good answer; raise CliError for a problem."""
    try:
        body: Any = json.loads(content or b"{}")
    except ValueError as error:
        hint = "Is --server the address of dsctl, and not of something before it?"
        raise failures.CliError(f"the answer (status {status}) is not JSON", code="not-json", hint=hint) from error
    if status < _FIRST_BAD_STATUS:
        return body
    slug = str(body.get("type", "")).removeprefix("urn:dsctl:problem:") or f"status-{status}"
    exit_code = failures.Exit.REFUSED if slug == "refused" else _EXIT_OF_STATUS.get(status, failures.Exit.ERROR)
    message = str(body.get("detail") or body.get("title") or f"the server answered {status}")
    raise failures.CliError(message, exit_code=exit_code, code=slug, hint=_HINTS.get(slug, ""))
