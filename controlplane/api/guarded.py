"""The one way a route comes into being: with the right it asks for, checked before a byte of the body is read.

A route without a right cannot be built: its class refuses. The order at the door is: authenticate, bound the
body, check its type, and only then parse. Async; one request per task, nothing shared.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import fastapi
from fastapi import routing
from starlette.types import Message, Receive

from controlplane.api import house, problems, rights
from controlplane.domain import errors, ports

MAX_BODY_BYTES = 1_048_576
# Long enough for a megabyte over a bad line, short enough that idle senders cannot hold the server.
BODY_SECONDS = 10.0
RIGHT_KEY = "x-dsctl-right"

_Handler = Callable[[fastapi.Request], Coroutine[Any, Any, fastapi.Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table of routes."""

    method: str
    path: str
    right: rights.Right
    endpoint: Callable[..., Any]
    status: int = 200

    @property
    def name(self) -> str:
        """The operation's id in the OpenAPI document."""
        return self.endpoint.__name__


class GuardedRoute(routing.APIRoute):
    """A route that admits, bounds and only then handles. `body_type` is the one media type it reads."""

    body_type: ClassVar[str] = "application/json"

    def authorization(self, request: fastapi.Request) -> str | None:
        """Return what stands for who asks, as the header `Authorization` would say it."""
        return request.headers.get("authorization")

    def get_route_handler(self) -> _Handler:
        """Wrap the framework's handler; raises InvariantBrokenError for a route that states no right."""
        inner = super().get_route_handler()
        right = stated_right(self)

        async def handle(request: fastapi.Request) -> fastapi.Response:
            home = await find_house(request)
            request.state.principal = await rights.admit(home.tokens, self.authorization(request), right)
            _check_headers(request, self.body_type)
            receive = bounded(request.receive, home.clock)
            return await inner(fastapi.Request(request.scope, receive))

        return handle


def add(
    app: fastapi.FastAPI,
    routes: Sequence[Route],
    *,
    kind: type[GuardedRoute] = GuardedRoute,
    is_described: bool = True,
) -> None:
    """Put routes into the application; those that are not described stay out of the OpenAPI document."""
    for route in routes:
        app.router.add_api_route(
            route.path,
            route.endpoint,
            methods=[route.method],
            status_code=route.status,
            name=route.name,
            operation_id=route.name,
            route_class_override=kind,
            include_in_schema=is_described,
            openapi_extra={RIGHT_KEY: route.right.value},
        )


def stated_right(route: routing.APIRoute) -> rights.Right:
    """Return the right a route states; raises InvariantBrokenError when it states none."""
    stated = (route.openapi_extra or {}).get(RIGHT_KEY)
    if stated is None:
        raise errors.InvariantBrokenError(f"route {route.path} states no right; add it through guarded.Route")
    return rights.Right(stated)


async def find_house(request: fastapi.Request) -> house.House:
    """Return the house the application was made with. Async like the next one: others cost a hop to a thread."""
    return cast("house.House", request.app.state.house)


async def find_principal(request: fastapi.Request) -> house.Principal:
    """Return who asks; only for routes that are not public."""
    return cast("house.Principal", request.state.principal)


House = Annotated[house.House, fastapi.Depends(find_house)]
Principal = Annotated[house.Principal, fastapi.Depends(find_principal)]


def _check_headers(request: fastapi.Request, body_type: str) -> None:
    """Refuse by the headers alone what would be refused anyway."""
    if "content-length" in request.headers and "transfer-encoding" in request.headers:
        raise problems.ProblemError(
            problems.MALFORMED,
            "The body has two lengths, of which a proxy may have read the other one; send either Content-Length or "
            "Transfer-Encoding.",
            headers={"Connection": "close"},
        )
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length[:12]) > MAX_BODY_BYTES:
        raise _too_large()
    has_body = length != "0" or "transfer-encoding" in request.headers
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if has_body and kind != body_type:
        raise problems.ProblemError(problems.MEDIA_TYPE, f"Send the body with the header `Content-Type: {body_type}`.")


def bounded(receive: Receive, clock: ports.Clock) -> Receive:
    """Wrap `receive` so that a body beyond the limit, or one that trickles, ends the request."""
    deadline = clock.monotonic() + BODY_SECONDS
    received = 0
    is_complete = False

    async def receive_bounded() -> Message:
        nonlocal received, is_complete
        if is_complete:  # what comes now is the news that the client went away: no hurry
            return await receive()
        left = deadline - clock.monotonic()
        if left <= 0:  # the timer below would not notice a sender that always has one more byte ready
            raise _too_slow()
        try:
            async with asyncio.timeout(left):
                message = await receive()
        except TimeoutError as error:
            raise _too_slow() from error
        received += len(message.get("body", b""))
        is_complete = not message.get("more_body", False)
        if received > MAX_BODY_BYTES:
            raise _too_large()
        return message

    return receive_bounded


def _too_slow() -> problems.ProblemError:
    return problems.ProblemError(problems.SLOW_BODY, f"The body must arrive within {BODY_SECONDS:g} s; send it again.")


def _too_large() -> problems.ProblemError:
    return problems.ProblemError(problems.TOO_LARGE, f"At most {MAX_BODY_BYTES} bytes are read; send less at once.")
