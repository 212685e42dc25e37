"""The HTTP client of the admin APIs of nodes and gateways (docs/contract/node-gateway.openapi.yaml).

Called by the actions' typed clients next door. It sends one request and says what is known afterwards: the call
certainly had no effect (RetryLaterError), the target refused it (GiveUpError), or nobody can tell
(OutcomeUnknownError). It never repeats a request, never follows a redirect, never uses a proxy from the
environment, and sends its token only to addresses that a directory gave.

Concurrency: async; one client with one connection pool serves the whole process.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast
from urllib.parse import quote

import httpx

from controlplane.domain import errors, outcomes

# The largest answer of the contract is the state of a gateway: 1,000 nodes fit into 300 kB.
MAX_ANSWER_BYTES = 1_048_576
CONNECT_SECONDS = 2.0
READ_SECONDS = 5.0
# Shorter than the 5 s after which uvicorn closes an idle connection: a request must not meet a closing one,
# because then nobody knows whether it arrived.
_KEEPALIVE_SECONDS = 2.0
_MAX_CONNECTIONS = 100
_MAX_DELAY_SECONDS = 60.0
_MAX_DETAIL = 300

_TOO_MANY = 429
_UNAVAILABLE = 503
_UNAUTHORIZED = 401
_NOT_FOUND = 404
_CONFLICT = 409


@dataclass(frozen=True, slots=True)
class _Call:
    """One request, and how it is named in messages."""

    method: str
    url: str
    path: str
    target: str
    timeout_seconds: float
    body: Mapping[str, outcomes.Json] | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class AdminClient:
    """One connection pool and one token.

    `token_setting` is the setting's name, for the message when it is wrong. `tls` decides which certificates are
    believed; None means the public authorities.
    """

    def __init__(self, *, token: str, token_setting: str, tls: ssl.SSLContext | None = None) -> None:
        self._token = token
        self._token_setting = token_setting
        self._http = httpx.AsyncClient(
            verify=True if tls is None else tls,
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, keepalive_expiry=_KEEPALIVE_SECONDS),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def read(self, url: str, path: str, *, target: str) -> Mapping[str, outcomes.Json]:
        """GET a document; `target` names the other side in messages. Raises RetryLaterError or GiveUpError."""
        try:
            return await self._send(_Call("GET", url, path, target, READ_SECONDS))
        except errors.OutcomeUnknownError as error:
            # Reading has no effect, so that nothing is unknown: it can simply be asked again.
            raise errors.RetryLaterError(str(error)) from error

    async def change(
        self,
        method: str,
        url: str,
        path: str,
        *,
        target: str,
        body: Mapping[str, outcomes.Json] | None,
        key: str,
        timeout_seconds: float,
    ) -> Mapping[str, outcomes.Json]:
        """Send a call that changes something, under an idempotency key, and return the answer.

        Raises RetryLaterError (certainly nothing happened), GiveUpError (refused), OutcomeUnknownError.
        """
        return await self._send(_Call(method, url, path, target, timeout_seconds, body, {"Idempotency-Key": key}))

    async def _send(self, call: _Call) -> Mapping[str, outcomes.Json]:
        if not self._token:
            raise errors.GiveUpError(f"no admin token for {call.target}; set {self._token_setting}")
        try:
            # httpx bounds each read on its own; the whole exchange is bounded here.
            async with asyncio.timeout(call.timeout_seconds + CONNECT_SECONDS):
                status, headers, content = await self._exchange(call)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise errors.RetryLaterError(f"{call.target} cannot be reached for {call}: {_say(error)}") from error
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as error:
            raise errors.GiveUpError(f"{call} cannot be sent to {call.target}: {_say(error)}") from error
        except (httpx.TransportError, TimeoutError) as error:
            raise errors.OutcomeUnknownError(
                f"{call.target} was sent {call}, but no answer came: {_say(error)}"
            ) from error
        return self._judge(call, status, headers, content)

    async def _exchange(self, call: _Call) -> tuple[int, httpx.Headers, bytes | None]:
        """Return status, headers and body; None instead of a body that is too large."""
        seconds = call.timeout_seconds
        request = self._http.build_request(
            call.method,
            f"{call.url}{call.path}",
            json=call.body,
            headers={**call.headers, "Authorization": f"Bearer {self._token}"},
            timeout=httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds), pool=CONNECT_SECONDS),
        )
        answer = await self._http.send(request, stream=True)
        try:
            content = bytearray()
            async for chunk in answer.aiter_raw():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    return answer.status_code, answer.headers, None
            return answer.status_code, answer.headers, bytes(content)
        finally:
            await answer.aclose()

    def _judge(
        self, call: _Call, status: int, headers: httpx.Headers, content: bytes | None
    ) -> Mapping[str, outcomes.Json]:
        """Return the answer's object, or raise what its status means for the caller."""
        answer = _object(content)
        if httpx.codes.is_success(status):
            if answer is None:
                raise errors.OutcomeUnknownError(
                    f"{call.target} accepted {call}, but its answer cannot be read as JSON"
                )
            return answer
        said = f"{call.target} answered {call} with {status}{_detail(answer)}"
        if _is_refused_before_work(status, headers):
            raise errors.RetryLaterError(said, delay_seconds=_delay(headers))
        if httpx.codes.is_server_error(status):
            raise errors.OutcomeUnknownError(f"{said}; it may have done it all the same")
        raise self._refusal(status, said)

    def _refusal(self, status: int, said: str) -> errors.GiveUpError:
        if status == _UNAUTHORIZED:
            return errors.GiveUpError(f"{said}; check {self._token_setting}")
        if status == _NOT_FOUND:
            return errors.NotFoundError(said)
        if status == _CONFLICT:
            return errors.ConflictError(said)
        if httpx.codes.is_redirect(status):
            return errors.GiveUpError(f"{said}; redirects are never followed, correct its address")
        return errors.GiveUpError(said)


def segment(text: str) -> str:
    """Return text as one segment of a path, so that a name can never become another path.

    >>> segment("../state?x")
    '..%2Fstate%3Fx'
    """
    return quote(text, safe="")


def _is_refused_before_work(status: int, headers: httpx.Headers) -> bool:
    """Say whether the answer proves that nothing was done: 429, or the contract's own 503 with Retry-After.

    A bare 503 may come from something in between, after the request went through.
    """
    if status == _TOO_MANY:
        return True
    is_problem = headers.get("content-type", "").partition(";")[0].strip() == "application/problem+json"
    return status == _UNAVAILABLE and is_problem and "retry-after" in headers


def _delay(headers: httpx.Headers) -> float:
    text = headers.get("retry-after", "")
    return min(float(text), _MAX_DELAY_SECONDS) if text.isascii() and text.isdigit() else 1.0


def _object(content: bytes | None) -> dict[str, outcomes.Json] | None:
    """Return the JSON object in `content`, or None when there is none to be read."""
    try:
        value: object = None if content is None else json.loads(content)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, outcomes.Json]", value) if isinstance(value, dict) else None


def _detail(answer: Mapping[str, outcomes.Json] | None) -> str:
    detail = (answer or {}).get("detail")
    return f": {detail[:_MAX_DETAIL]}" if isinstance(detail, str) and detail else ""


def _say(error: Exception) -> str:
    return str(error) or type(error).__name__
