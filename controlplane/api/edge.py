"""The outermost layer of the server: no request of a foreign web page, safe headers, one measurement per request.

A plain ASGI middleware around every route, the console's included. Async; keeps no state between requests.
"""

from urllib.parse import urlsplit

from fastapi import routing
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane import telemetry
from controlplane.api import problems
from controlplane.domain import ports

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, *, clock: ports.Clock, telemetry: telemetry.Telemetry) -> None:
        self._app = app
        self._clock = clock
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; everything that is not HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = self._clock.monotonic()
        status = 500  # what the client gets when the application ends without an answer

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            if is_cross_site(scope["method"], Headers(scope=scope)):
                detail = "Changes are accepted from this server's own pages and from programs, not from other sites."
                await problems.response(problems.CROSS_SITE, detail)(scope, receive, send_marked)
            else:
                await self._app(scope, receive, send_marked)
        finally:
            seconds = self._clock.monotonic() - started
            self._telemetry.request(_method(scope), _pattern(scope), status, seconds)


def is_cross_site(method: str, headers: Headers) -> bool:
    """Say whether a browser sent an unsafe request on behalf of a page of another site.

    Browsers set Sec-Fetch-Site themselves and pages cannot; older ones send at least Origin. A program sends
    neither, and no browser hides both.
    """
    if method in _SAFE_METHODS:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = headers.get("origin")
    return origin is not None and _authority(origin) != headers.get("host")


def _authority(origin: str) -> str:
    """Return host and port of an Origin; nothing for `null` and for what is no address, which match no host."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _pattern(scope: Scope) -> str:
    """Return the route's pattern: the raw path would make a new time series for every id."""
    route = scope.get("route")
    return route.path if isinstance(route, routing.APIRoute) else "unmatched"


def _method(scope: Scope) -> str:
    known = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    return scope["method"] if scope["method"] in known else "other"
