"""The data API: OpenAI's completions, chats and models over the node's answers, whole or streamed.

A caller that closes the connection frees its place before the next step. The first text is awaited before a stream's
headers go out, so that an early failure still has a status of its own. Concurrency: async, one event loop.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import fastapi
import structlog
from fastapi import responses
from starlette.types import Receive, Scope, Send

from inference_node import auth, cache, errors, web
from inference_node.engine import generation
from inference_node.server import answering, node, protocol

T = TypeVar("T")

_log = structlog.get_logger()


class LimitPassedError(errors.DataError):
    """The 504 of a request whose time limit passed; its work is cancelled by whoever closes the reader."""

    def __init__(self) -> None:
        said = "The time limit of this request passed and the work was cancelled."
        super().__init__(504, said, kind="timeout_error", code="timeout")


@dataclass(frozen=True, slots=True)
class Limits:
    """Times on the loop's clock: for a whole answer or a stream's first piece, for a whole stream; and of a stall."""

    first: float
    whole: float
    stall_seconds: float

    def next(self) -> float:
        """Return until when the next piece of a stream must come."""
        return min(self.whole, asyncio.get_running_loop().time() + self.stall_seconds)


class EventStream(responses.StreamingResponse):
    """Server-sent events that let go of their source however they end, also when they never begin."""

    def __init__(self, events: AsyncIterator[str], close: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


def router(served: node.Node) -> fastapi.APIRouter:
    """Return the routes under /v1."""
    api = DataApi(served)
    routes = fastapi.APIRouter(prefix="/v1")
    routes.add_api_route("/models", api.models, methods=["GET"])
    routes.add_api_route("/completions", api.completions, methods=["POST"], response_model=None)
    routes.add_api_route("/chat/completions", api.chat_completions, methods=["POST"], response_model=None)
    return routes


class DataApi:
    """The handlers."""

    def __init__(self, served: node.Node) -> None:
        self._node = served
        self._keyring = served.settings.keyring()
        self._started = int(served.clock.now().timestamp())

    async def models(self, request: fastapi.Request) -> dict[str, Any]:
        """Return the one model served."""
        self._keyring.identify(request.headers)
        self._node.require_engine()
        one = {"id": self._node.settings.model.name, "object": "model", "created": self._started, "owned_by": "local"}
        return {"object": "list", "data": [one]}

    async def completions(self, request: fastapi.Request) -> fastapi.Response:
        """Continue a prompt."""
        return await self._answer(request, protocol.CompletionRequest)

    async def chat_completions(self, request: fastapi.Request) -> fastapi.Response:
        """Continue a conversation."""
        return await self._answer(request, protocol.ChatRequest)

    async def _answer(
        self, request: fastapi.Request, kind: type[protocol.CompletionRequest] | type[protocol.ChatRequest]
    ) -> fastapi.Response:
        caller = self._keyring.identify(request.headers)
        limits = self._limits(caller)
        place = self._node.answering.enter(caller.level)
        try:
            body = await _read(request, self._node.settings.max_body_bytes, limits.first)
            call = _call(protocol.parse(kind, body), caller, request)
            opened = self._node.answering.open(call, place)
        except BaseException:
            place.give_back(is_finished=False)
            raise
        writer = self._writer(call.request)
        if isinstance(opened, answering.Stored):
            return _stored(writer, call.request, opened.answer)
        try:
            if call.request.stream:
                return await self._streamed(request, call, opened.reader, writer, limits)
            with opened.reader:
                await web.unless_gone(request, self._first(opened.reader, opened.reader.all(), call, limits))
            return responses.JSONResponse(writer.whole(_complete(opened.reader.generation)))
        except BaseException:
            opened.reader.close()
            raise

    async def _streamed(
        self,
        request: fastapi.Request,
        call: answering.Call,
        reader: generation.Reader,
        writer: protocol.Writer,
        limits: Limits,
    ) -> fastapi.Response:
        """Wait for the first text, then stream."""
        first = await web.unless_gone(request, self._first(reader, reader.next(), call, limits))
        return EventStream(_events(call.request, reader, writer, first, limits), reader.close)

    async def _first(
        self, reader: generation.Reader, work: Coroutine[Any, Any, T], call: answering.Call, limits: Limits
    ) -> T:
        """Return what `work` returns within the level's limit. Who has not even joined the batch then cost nothing."""
        try:
            return await _within(limits.first, work)
        except LimitPassedError:
            if reader.generation.has_joined:
                raise
            raise self._node.answering.waited_too_long(call.level) from None

    def _limits(self, caller: auth.Caller) -> Limits:
        now, longest = asyncio.get_running_loop().time(), self._node.settings.request_timeout_seconds
        of_level = self._node.timeouts[caller.level]
        first = min(longest, of_level, caller.time_left_seconds or of_level)
        return Limits(now + first, now + longest, of_level)

    def _writer(self, asked: protocol.AnyRequest) -> protocol.Writer:
        return protocol.Writer(
            is_chat=asked.is_chat,
            answer_id=secrets.token_hex(12),
            created=int(self._node.clock.now().timestamp()),
            model=self._node.settings.model.name,
        )


def _call(asked: protocol.AnyRequest, caller: auth.Caller, request: fastapi.Request) -> answering.Call:
    unknown = asked.unknown_fields()
    if unknown:
        _log.debug("unknown_fields_ignored", fields=unknown[:10], request_id=request.scope["request_id"])
    directives = request.headers.get("cache-control", "").lower().split(",")
    skips_cache = any(each.strip() in {"no-cache", "no-store"} for each in directives)
    return answering.Call(asked, caller.tenant, caller.level, skips_cache)


def _stored(writer: protocol.Writer, asked: protocol.AnyRequest, answer: cache.Answer) -> fastapi.Response:
    """Return a kept answer the way it was asked for."""
    if not asked.stream:
        return responses.JSONResponse(writer.whole(answer))

    async def events() -> AsyncIterator[str]:
        for chunk in (*writer.opening(), writer.piece(answer.text)):
            yield _event(chunk)
        for event in _ending(asked, writer, answer):
            yield event

    return EventStream(events(), lambda: None)


async def _events(
    asked: protocol.AnyRequest, reader: generation.Reader, writer: protocol.Writer, first: str | None, limits: Limits
) -> AsyncIterator[str]:
    """Yield the chunks; what fails after the headers is an event."""
    for chunk in writer.opening():
        yield _event(chunk)
    piece = first
    try:
        while piece is not None:
            yield _event(writer.piece(piece))
            piece = await _within(limits.next(), reader.next())
        answer = _complete(reader.generation)
    except errors.DataError as error:
        yield _event(web.data_error_body(error))
        return
    for event in _ending(asked, writer, answer):
        yield event


def _ending(asked: protocol.AnyRequest, writer: protocol.Writer, answer: cache.Answer) -> list[str]:
    events = [_event(writer.closing(answer.finish_reason))]
    if asked.includes_usage:
        events.append(_event(writer.counts(answer.prompt_tokens, answer.completion_tokens)))
    return [*events, "data: [DONE]\n\n"]


def _complete(done: generation.Generation) -> cache.Answer:
    """Return the finished answer; one that was aborted, because the request it shared went away, is a failure."""
    if done.finish_reason == "abort":
        raise errors.DataError(500, "The answer was cancelled before its end; retry.", kind="server_error")
    return answering.answer_of(done)


async def _read(request: fastapi.Request, max_bytes: int, deadline: float) -> bytes:
    """Return the body; whoever sends it too slowly must not hold a place."""
    try:
        async with asyncio.timeout_at(deadline):
            return await web.read_body(request, max_bytes)
    except TimeoutError:
        raise web.body_too_slow() from None


async def _within(deadline: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns, with the engine's failure and a passed deadline as the errors callers see."""
    try:
        async with asyncio.timeout_at(deadline):
            return await work
    except TimeoutError:
        raise LimitPassedError from None
    except errors.EngineFailedError as error:
        raise errors.DataError(500, f"The engine failed this request: {error}.", kind="server_error") from error


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
