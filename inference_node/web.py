"""What both servers share at the HTTP edge: reading bodies, rendering refusals, noticing callers that left, serving.

The data API answers errors in OpenAI's form, the admin API as RFC 9457 problems; the path decides. Bodies are bounded
while they are read. Concurrency: async, one event loop per process.
"""

import asyncio
import contextlib
import http
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Annotated, Any, Protocol, TypeVar

import fastapi
import pydantic
import structlog
import uvicorn
from fastapi import responses
from starlette import exceptions
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_node import auth, clock, errors, lifeline, settings

T = TypeVar("T")
AnyBody = TypeVar("AnyBody", bound=pydantic.BaseModel)

CLIENT_GONE = 499
"""The status counted for a caller that closed the connection; nobody receives it."""

MAX_REQUEST_ID = 128
BACKLOG = 2048
ADMIN_PREFIX = "/admin/"
OPERATION_KEY = r"^[!-~]{1,128}$"

OperationKey = Annotated[str, pydantic.StringConstraints(pattern=OPERATION_KEY)]
IdempotencyKey = Annotated[OperationKey | None, fastapi.Header(alias="Idempotency-Key")]

_log = structlog.get_logger()


class ClientGoneError(Exception):
    """The caller closed the connection before its answer was ready."""


class RequestObserver(Protocol):
    """Counts requests; `metrics.HttpMetrics` does."""

    def request_done(self, *, handler: str, method: str, status: int, seconds: float) -> None:
        """Count one request."""
        ...


class AdminBody(pydantic.BaseModel):
    """A body of the admin API: exact types, no unknown fields, no NaN."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


async def read_body(request: fastapi.Request, max_bytes: int) -> bytes:
    """Return the body; raises the 413 of the API called as soon as it is longer than allowed."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(request, max_bytes)
    return bytes(body)


def body_too_slow() -> errors.DataError:
    """Return the 408 of a body that did not arrive within the level's time limit."""
    said = "The body did not arrive within the time limit of its level; send it again."
    return errors.DataError(408, said, kind="timeout_error", code="timeout")


def body_of(model: type[AnyBody], max_bytes: int, *, is_optional: bool = False) -> Any:
    """Return the FastAPI dependency that reads an admin body; raises AdminError 413 or 422."""

    async def read(request: fastapi.Request) -> AnyBody:
        raw = await read_body(request, max_bytes)
        try:
            return model.model_validate_json(b"{}" if is_optional and not raw else raw)
        except pydantic.ValidationError as error:
            raise invalid(settings.places(error)) from error

    return fastapi.Depends(read)


def invalid(places: tuple[tuple[str, str], ...]) -> errors.AdminError:
    """Return the 422 that names every wrong place of a body."""
    detail = "; ".join(f"{place or 'body'}: {message}" for place, message in places)
    return errors.AdminError(422, "Invalid request", f"{detail}. Nothing was changed.", places=places)


def admin_router(tokens: auth.AdminTokens) -> fastapi.APIRouter:
    """Return a router on which every route demands an admin token, before anything of the call is read."""

    def require_admin(request: fastapi.Request) -> None:
        tokens.require(request.headers)

    return fastapi.APIRouter(prefix="/admin/v1", dependencies=[fastapi.Depends(require_admin)])


async def unless_gone(request: fastapi.Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; cancel it and raise ClientGoneError when the caller leaves before."""
    task = asyncio.create_task(work, name="request")
    gone = asyncio.create_task(_until_gone(request), name="caller-gone")
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _until_gone(request: fastapi.Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def install_errors(app: fastapi.FastAPI) -> None:
    """Render every refusal and failure of `app` in the form of the API it happened in."""
    app.add_exception_handler(errors.DataError, _data_error)
    app.add_exception_handler(errors.AdminError, _admin_error)
    app.add_exception_handler(ClientGoneError, _client_gone)
    app.add_exception_handler(fastapi.exceptions.RequestValidationError, _bad_parameter)
    app.add_exception_handler(exceptions.HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)


def data_error_body(error: errors.DataError) -> dict[str, Any]:
    """Return a data error as OpenAI's clients read it."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def _data_error(_request: fastapi.Request, error: Exception) -> fastapi.Response:
    assert isinstance(error, errors.DataError)  # noqa: S101 - the handler is registered for this class alone
    return responses.JSONResponse(
        data_error_body(error), error.status, headers=_challenge(error.status) | _retry_after(error.retry_after_seconds)
    )


def _admin_error(_request: fastapi.Request, error: Exception) -> fastapi.Response:
    assert isinstance(error, errors.AdminError)  # noqa: S101 - the handler is registered for this class alone
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }
    if error.places:
        problem["errors"] = [{"place": place, "message": message} for place, message in error.places]
    return responses.JSONResponse(
        problem,
        error.status,
        media_type="application/problem+json",
        headers=_challenge(error.status) | _retry_after(error.retry_after_seconds),
    )


def _client_gone(_request: fastapi.Request, _error: Exception) -> fastapi.Response:
    return fastapi.Response(status_code=CLIENT_GONE)


def _bad_parameter(request: fastapi.Request, error: Exception) -> fastapi.Response:
    """A header or path parameter is wrong; the admin API alone has FastAPI check those."""
    assert isinstance(error, fastapi.exceptions.RequestValidationError)  # noqa: S101 - registered for this class alone
    places = tuple((".".join(map(str, each["loc"])), str(each["msg"])) for each in error.errors())
    return _admin_error(request, invalid(places))


def _http_error(request: fastapi.Request, error: Exception) -> fastapi.Response:
    """Say plainly that a path or method does not exist."""
    assert isinstance(error, exceptions.HTTPException)  # noqa: S101 - the handler is registered for this class alone
    detail = f"{request.method} {request.url.path}: {error.detail}."
    return _render(request, error.status_code, detail)


def _bug(request: fastapi.Request, _error: Exception) -> fastapi.Response:
    return _render(request, 500, "This is a bug of the server; its log has the details.")


def _render(request: fastapi.Request, status: int, detail: str) -> fastapi.Response:
    if request.url.path.startswith(ADMIN_PREFIX):
        return _admin_error(request, errors.AdminError(status, http.HTTPStatus(status).phrase, detail))
    kind = "server_error" if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    return _data_error(request, errors.DataError(status, detail, kind=kind))


def _challenge(status: int) -> dict[str, str]:
    return {"WWW-Authenticate": "Bearer"} if status == http.HTTPStatus.UNAUTHORIZED else {}


def _retry_after(seconds: int | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(seconds)}


def _too_large(request: fastapi.Request, max_bytes: int) -> Exception:
    message = f"The body is longer than the {max_bytes} bytes this process accepts (max_body_bytes); send less."
    if request.url.path.startswith(ADMIN_PREFIX):
        return errors.AdminError(413, "Body too large", message)
    return errors.DataError(413, message, code="body_too_large")


class Edge:
    """The outermost ASGI layer: gives each request its id back and counts it under its route."""

    def __init__(
        self, app: ASGIApp, observer: RequestObserver | None, time: clock.Clock, new_id: Callable[[], str]
    ) -> None:
        self._app = app
        self._observer = observer
        self._clock = time
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or self._new_id()
        scope["request_id"] = request_id
        started = self._clock.monotonic()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode("latin-1"))]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._count(scope, status, started)

    def _count(self, scope: Scope, status: int, started: float) -> None:
        if self._observer is None:
            return
        route = scope.get("route")
        handler = getattr(route, "path", "none")
        seconds = self._clock.monotonic() - started
        self._observer.request_done(handler=handler, method=_method(scope), status=status, seconds=seconds)


def _given_id(scope: Scope) -> str:
    """Return the caller's request id if it is printable and short."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            return given if len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable() else ""
    return ""


def _method(scope: Scope) -> str:
    """Return the method as a label: a caller must not be able to invent new ones."""
    method = scope["method"]
    return method if method in {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"} else "OTHER"


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """Listen, and return the socket with the URL it is reached at; raises SettingsError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol left out asyncio would not switch Nagle's algorithm off, and every answer would wait 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(BACKLOG)  # here, so that nobody who reads the ready line is refused
    except OSError as error:
        bound.close()
        raise errors.SettingsError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    return bound, f"http://{shown}:{bound.getsockname()[1]}"


class Server(uvicorn.Server):
    """uvicorn that tells the process first when it is asked to stop, and then exits 0."""

    def __init__(self, app: ASGIApp, *, grace_seconds: int, on_stop: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_keep_alive=30,
                timeout_graceful_shutdown=grace_seconds,
            )
        )
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ARG002 - uvicorn passes it
        """Stop on the first signal; give up on open answers on the second."""
        if self.should_exit:
            self.force_exit = True
        self._stop()
        _log.info("stopping", signal=sig)

    def _stop(self) -> None:
        self.should_exit = True
        self._on_stop()

    @contextlib.asynccontextmanager
    async def tied_to(self, pid: int | None, time: clock.Clock) -> AsyncGenerator[None]:
        """While inside, stop as on a signal when process `pid` is gone; without one nothing is watched."""
        if pid is None:
            yield
            return
        watching = asyncio.create_task(lifeline.watch(pid, time, self._lose), name="lifeline")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def _lose(self) -> None:
        self._stop()
        _log.info("stopping", lifeline="gone")
