"""Passes one data request on to a node and its answer back, byte by byte, so that streams stay streams.

A request is tried a second time, on another node, only when the first surely did not process it: the connection could not
be made, or the node refused with 503 and Retry-After. A 429 is passed back, because repeating it would feed the overload.
A caller that leaves cancels the request at its node. Concurrency: async, one event loop.
"""

import asyncio
import enum
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
ANSWERS = range(200, 600)
"""Statuses that are answers; a node that sends another one has answered nothing."""
ANSWER_SECONDS = 0.2
"""Kept back of the time left, so that the node's own answer about a passed limit arrives before ours."""
MIN_LEFT_SECONDS = 0.01
PASSED_ON = ("content-type", "accept", "cache-control", "user-agent")
PASSED_BACK = ("content-type", "content-length", "retry-after", "cache-control")


@dataclass(frozen=True, slots=True)
class Passed:
    """An answer whose headers have come from a node."""

    member: fleet.Member
    response: httpx.Response


class Stage(enum.Enum):
    """How far a request has come."""

    READING = enum.auto()
    WAITING = enum.auto()
    AT_NODES = enum.auto()


class Exchange:
    """One data request on its way: what it holds and counts, from arrival to the last byte.

    Metrics and the time limit follow the level of the key; places, turns and the node follow the level it is served as.
    """

    def __init__(self, owner: gateway.Gateway, level: levels.Level) -> None:
        self._gateway = owner
        self._started = owner.clock.monotonic()
        self._place: levels.Place | None = None
        self._stage = Stage.READING
        self._is_open = True
        self._status = web.CLIENT_GONE
        self.node = ""
        self.level = level
        owner.metrics.arrivals.labels(level).inc()

    def admit(self) -> None:
        """Take a place; raises DataError 429 for a shed level, a full level or a full gateway."""
        self._place = self._gateway.admission.enter(self.level)

    @property
    def served_as(self) -> levels.Level:
        """The level of the place taken."""
        return self._place.level if self._place else self.level

    @property
    def timeout_seconds(self) -> float:
        """The time limit of the level."""
        return self._gateway.admission.timeouts[self.level]

    @property
    def left_seconds(self) -> float:
        """What is left of the time limit; never negative."""
        return max(0.0, self._started + self.timeout_seconds - self._gateway.clock.monotonic())

    async def turn(self) -> None:
        """Wait until the request may go to a node."""
        self._stage = Stage.WAITING
        await self._gateway.admission.turns.wait(self.served_as)
        self._stage = Stage.AT_NODES

    def too_late(self) -> errors.DataError:
        """Return what a caller gets whose time limit passed: who never had a turn cost nothing and failed nothing."""
        if self._stage is Stage.READING:
            return web.body_too_slow()
        if self._stage is Stage.WAITING:
            return self._gateway.admission.waited_too_long(self.level)
        self._gateway.metrics.upstream_errors.labels(self.node, "timeout").inc()
        said = f"Node {self.node} gave no answer within the {self.timeout_seconds:g} s of level {self.level}."
        return errors.DataError(504, f"{said} The work was cancelled.", kind="timeout_error", code="timeout")

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
        self._leave()
        counted = self._gateway.metrics
        counted.responses.labels(self.level, self.node, str(self._status)).inc()
        counted.duration.labels(self.level, self.node).observe(self._gateway.clock.monotonic() - self._started)

    def _leave(self) -> None:
        """Give turn and place back."""
        if self._stage is Stage.AT_NODES:
            self._gateway.admission.turns.end(self.served_as)
        if self._place is not None:
            self._place.give_back(is_finished=self._stage is Stage.AT_NODES)


class PassThrough(responses.StreamingResponse):
    """A node's answer on its way back; lets go of the node however it ends."""

    def __init__(self, passed: Passed, exchange: Exchange, end: Callable[[], None]) -> None:
        super().__init__(
            _body(passed.response, exchange),
            status_code=passed.response.status_code,
            headers=_passed_back(passed.response),
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
            passed = await self._forward(request, caller, exchange)
        except errors.DataError as error:
            exchange.answered(error.status)
            exchange.close()
            raise
        except BaseException:
            exchange.close()
            raise
        exchange.answered(passed.response.status_code)
        return PassThrough(passed, exchange, lambda: self._gateway.fleet.end(passed.member))

    async def _forward(self, request: fastapi.Request, caller: auth.Caller, exchange: Exchange) -> Passed:
        """Read the request, wait for its turn, and return a node's answer, all within the level's time limit."""
        try:
            async with asyncio.timeout(exchange.left_seconds):
                body = await web.read_body(request, self._gateway.settings.max_body_bytes)
            return await web.unless_gone(request, self._in_turn(request, body, caller, exchange))
        except TimeoutError:
            raise exchange.too_late() from None

    async def _in_turn(self, request: fastapi.Request, body: bytes, caller: auth.Caller, exchange: Exchange) -> Passed:
        """The limit is set in here, not around: a limit that passes just as the answer comes must not lose the answer."""
        async with asyncio.timeout(exchange.left_seconds):
            await exchange.turn()
            return await self._send(request, body, self._headers(request, caller, exchange), exchange)

    async def _send(
        self, request: fastapi.Request, body: bytes, headers: Mapping[bytes, bytes], exchange: Exchange
    ) -> Passed:
        """Try a node, and another one when the first surely did nothing."""
        tried: list[str] = []
        refused: Passed | None = None
        while len(tried) < MAX_TRIES and (member := self._gateway.fleet.choose(avoiding=tried)) is not None:
            if refused is not None:
                await self._let_go(refused)
            tried.append(member.name)
            exchange.node = member.name
            refused = await self._try(member, request, body, headers, exchange)
            if refused is not None and not _is_refusal(refused.response):
                return refused
        if refused is not None:
            return refused
        exchange.node = ""
        exchange.reject("no_node")
        raise _no_node(tried)

    async def _try(
        self,
        member: fleet.Member,
        request: fastapi.Request,
        body: bytes,
        headers: Mapping[bytes, bytes],
        exchange: Exchange,
    ) -> Passed | None:
        """Return the node's answer, or None when it could not be reached at all."""
        outgoing = self._gateway.client.build_request(
            request.method,
            member.url + request.url.path,
            content=body,
            headers=dict(headers),
            timeout=self._limits(exchange),
        )
        self._gateway.fleet.begin(member)
        has_answered = False
        try:
            response = await self._gateway.client.send(outgoing, stream=True)
            await self._require_status(member, response)
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

    async def _require_status(self, member: fleet.Member, response: httpx.Response) -> None:
        """Refuse an answer whose status is none that can be passed back."""
        if response.status_code in ANSWERS:
            return
        self._gateway.metrics.upstream_errors.labels(member.name, "broken").inc()
        await response.aclose()
        raise broken(member.name)

    async def _let_go(self, passed: Passed) -> None:
        self._gateway.metrics.upstream_errors.labels(passed.member.name, "refused").inc()
        try:
            await passed.response.aclose()
        finally:
            self._gateway.fleet.end(passed.member)

    def _limits(self, exchange: Exchange) -> httpx.Timeout:
        """Return the limits of one try; a stream may not stall for longer than its level's time limit."""
        chosen = self._gateway.settings
        silence = min(chosen.read_timeout_seconds, exchange.timeout_seconds)
        return httpx.Timeout(silence, connect=chosen.connect_timeout_seconds)

    def _headers(self, request: fastapi.Request, caller: auth.Caller, exchange: Exchange) -> dict[bytes, bytes]:
        """Return what the node is told: the gateway's own key, what the caller's key grants, and the time left."""
        kept = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        left = max(MIN_LEFT_SECONDS, exchange.left_seconds - ANSWER_SECONDS)
        granted = {
            "x-service-level": str(exchange.served_as),
            "x-tenant": caller.tenant,
            "x-time-left": f"{left:.3f}",
            "accept-encoding": "identity",
        }
        told = kept | self._authorization | granted | {"x-request-id": request.scope["request_id"]}
        # As bytes, the very ones that came: of text httpx takes nothing but ASCII, and a caller may send more.
        return {name.encode("latin-1"): value.encode("latin-1") for name, value in told.items()}


def _passed_back(response: httpx.Response) -> dict[str, str]:
    """Return the headers the caller sees, byte for byte: httpx guesses an encoding, which would not survive the way."""
    found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}
    return {name: found[name] for name in PASSED_BACK if name in found}


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
