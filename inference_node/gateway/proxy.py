"""Passes one data request on to a node and its answer back, byte by byte, so that streams stay streams.

A request is tried a second time, on another node, only when the first surely did not process it: the connection could not
be made, or the node refused with 503 and Retry-After. A 429 is passed back, because repeating it would feed the overload.
A caller that leaves cancels the request at its node. Concurrency: async, one event loop.
"""

import http
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import fastapi
import httpx
from fastapi import responses
from starlette.types import Receive, Scope, Send

from inference_node import auth, errors, levels, web
from inference_node.gateway import fleet, gateway

MAX_TRIES = 2
RETRY_SECONDS = 1
PASSED_ON = ("content-type", "accept", "cache-control", "user-agent")
PASSED_BACK = ("content-type", "retry-after", "cache-control")


@dataclass(frozen=True, slots=True)
class Passed:
    """An answer whose headers have come from a node."""

    member: fleet.Member
    response: httpx.Response


class Exchange:
    """One data request on its way: what it counts, from arrival to the last byte."""

    def __init__(self, owner: gateway.Gateway, level: levels.Level) -> None:
        self._gateway = owner
        self._started = owner.clock.monotonic()
        self._has_begun = False
        self._is_open = True
        self._status = web.CLIENT_GONE
        self.node = ""
        self.level = level
        owner.metrics.arrivals.labels(level).inc()

    def admit(self) -> None:
        """Refuse a shed level or a full gateway with 429; else count the request in."""
        owner = self._gateway
        if self.level in owner.shed:
            self.reject("shed")
            raise errors.overloaded(f"Level {self.level} is shed at the moment; retry later.", RETRY_SECONDS * 5)
        if owner.outstanding >= owner.settings.max_outstanding:
            self.reject("gateway_full")
            raise errors.overloaded("The gateway has all the requests it can hold; retry shortly.", RETRY_SECONDS)
        owner.outstanding += 1
        self._has_begun = True

    def reject(self, reason: str) -> None:
        """Count a refusal of the gateway's own."""
        self._gateway.metrics.rejected.labels(self.level, reason).inc()

    def first_byte(self) -> None:
        """The answer's body begins."""
        seconds = self._gateway.clock.monotonic() - self._started
        self._gateway.metrics.first_byte.labels(self.level, self.node).observe(seconds)

    def answered(self, status: int) -> None:
        """The answer's status is known."""
        self._status = status

    def break_off(self) -> None:
        """The node stopped in the middle of its answer."""
        self._status = http.HTTPStatus.BAD_GATEWAY.value
        self._gateway.metrics.upstream_errors.labels(self.node, "broken").inc()

    def close(self) -> None:
        """Count the end; a second call does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        self._gateway.outstanding -= self._has_begun
        counted = self._gateway.metrics
        counted.responses.labels(self.level, self.node, str(self._status)).inc()
        counted.duration.labels(self.level, self.node).observe(self._gateway.clock.monotonic() - self._started)


class PassThrough(responses.StreamingResponse):
    """A node's answer on its way back; lets go of the node however it ends."""

    def __init__(self, passed: Passed, exchange: Exchange, end: Callable[[], None]) -> None:
        headers = {name: passed.response.headers[name] for name in PASSED_BACK if name in passed.response.headers}
        length = passed.response.headers.get("content-length")
        super().__init__(
            _body(passed.response, exchange),
            status_code=passed.response.status_code,
            headers=headers | ({"content-length": length} if length is not None else {}),
        )
        self._passed = passed
        self._exchange = exchange
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            try:
                await self._passed.response.aclose()
            finally:
                self._end()
                self._exchange.close()


class Proxy:
    """Passes requests on."""

    def __init__(self, owner: gateway.Gateway) -> None:
        self._gateway = owner
        self._keyring = owner.settings.keyring()
        key = owner.settings.node_api_key
        self._authorization = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}

    async def pass_on(self, request: fastapi.Request) -> fastapi.Response:
        """Answer one request with what a node says, or refuse it."""
        caller = self._keyring.identify(request.headers)
        exchange = Exchange(self._gateway, caller.level)
        try:
            exchange.admit()
            body = await web.read_body(request, self._gateway.settings.max_body_bytes)
            headers = self._headers(request, caller)
            passed = await web.unless_gone(request, self._send(request, body, headers, exchange))
        except errors.DataError as error:
            exchange.answered(error.status)
            exchange.close()
            raise
        except BaseException:
            exchange.close()
            raise
        exchange.answered(passed.response.status_code)
        return PassThrough(passed, exchange, lambda: self._gateway.fleet.end(passed.member))

    async def _send(
        self, request: fastapi.Request, body: bytes, headers: Mapping[str, str], exchange: Exchange
    ) -> Passed:
        """Try a node, and another one when the first surely did nothing."""
        tried: list[str] = []
        refused: Passed | None = None
        while len(tried) < MAX_TRIES and (member := self._gateway.fleet.choose(avoiding=tried)) is not None:
            if refused is not None:
                await self._let_go(refused)
            tried.append(member.name)
            exchange.node = member.name
            refused = await self._try(member, request, body, headers)
            if refused is not None and not _is_refusal(refused.response):
                return refused
        if refused is not None:
            return refused
        exchange.node = ""
        exchange.reject("no_node")
        raise _no_node(tried)

    async def _try(
        self, member: fleet.Member, request: fastapi.Request, body: bytes, headers: Mapping[str, str]
    ) -> Passed | None:
        """Return the node's answer, or None when it could not be reached at all."""
        outgoing = self._gateway.client.build_request(
            request.method, member.url + request.url.path, content=body, headers=dict(headers)
        )
        self._gateway.fleet.begin(member)
        has_answered = False
        try:
            response = await self._gateway.client.send(outgoing, stream=True)
            has_answered = True
        except httpx.HTTPError as error:
            self._judge(member, error)
            return None
        finally:
            if not has_answered:
                self._gateway.fleet.end(member)
        return Passed(member, response)

    def _judge(self, member: fleet.Member, error: httpx.HTTPError) -> None:
        """Return when the node surely did nothing; else raise what the caller gets."""
        count = self._gateway.metrics.upstream_errors
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
            count.labels(member.name, "connect").inc()
            return
        if isinstance(error, httpx.TimeoutException):
            count.labels(member.name, "timeout").inc()
            raise errors.DataError(
                504, f"Node {member.name} gave no answer in time.", kind="timeout_error", code="timeout"
            ) from error
        count.labels(member.name, "broken").inc()
        raise broken(member.name) from error

    async def _let_go(self, passed: Passed) -> None:
        self._gateway.metrics.upstream_errors.labels(passed.member.name, "refused").inc()
        try:
            await passed.response.aclose()
        finally:
            self._gateway.fleet.end(passed.member)

    def _headers(self, request: fastapi.Request, caller: auth.Caller) -> dict[str, str]:
        """Return what the node is told: the gateway's own key, and what the caller's key grants."""
        kept = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        granted = {"x-service-level": str(caller.level), "x-tenant": caller.tenant, "accept-encoding": "identity"}
        return kept | self._authorization | granted | {"x-request-id": request.scope["request_id"]}


async def _body(response: httpx.Response, exchange: Exchange) -> AsyncIterator[bytes]:
    """Yield the body as it comes. Where a node breaks off, a stream ends with an error event, another answer short."""
    is_first = True
    try:
        async for chunk in response.aiter_raw():
            if is_first:
                exchange.first_byte()
                is_first = False
            yield chunk
    except httpx.HTTPError:
        exchange.break_off()
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise
        yield f"data: {json.dumps(web.data_error_body(broken(exchange.node)))}\n\n".encode()


def _is_refusal(response: httpx.Response) -> bool:
    return response.status_code == http.HTTPStatus.SERVICE_UNAVAILABLE and "retry-after" in response.headers


def broken(node: str) -> errors.DataError:
    """Return the 502 of a node that stopped in the middle."""
    return errors.DataError(
        502,
        f"Node {node} broke off; it may have processed the request, so it was not repeated.",
        kind="server_error",
        code="bad_upstream",
    )


def _no_node(tried: list[str]) -> errors.DataError:
    reached = f"; tried {', '.join(tried)}" if tried else ""
    return errors.unavailable(f"No node in service can be reached{reached}; retry shortly.", "no_node", RETRY_SECONDS)
