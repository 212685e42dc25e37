"""The data API of a node, as far as actions ask it: whether it is ready, and what it answers.

Called by the local and canary actions, straight at the node, past its gateway. What goes wrong is part of the answer and
not an error: these calls are made to find it out. Never follows a redirect, never uses a proxy from the environment.
Concurrency: async; one client serves the whole process.
"""

import asyncio
import json
import ssl
from dataclasses import dataclass
from typing import Any, cast

import httpx

READY = "/ready"
COMPLETIONS = "/v1/completions"
_READY_SECONDS = 2.0
# A few tokens of text and the usage around them.
_MAX_ANSWER_BYTES = 262_144
_MAX_CONNECTIONS = 100


@dataclass(frozen=True, slots=True)
class Completed:
    """What the node generated."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no answer, in a few words that say the same for the same failure."""

    reason: str


Answer = Completed | Failed


class NodeData:
    """Calls nodes by URL. `key` is their data API key; empty where they ask for none.

    `tls` decides which certificates are believed; None means the public authorities.
    """

    def __init__(self, key: str, *, tls: ssl.SSLContext | None = None) -> None:
        self._http = httpx.AsyncClient(
            verify=True if tls is None else tls,
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=0),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def is_ready(self, url: str) -> bool:
        """Say whether the node at `url` takes requests; one that cannot be asked does not."""
        try:
            return (await self._http.get(f"{url}{READY}", timeout=_READY_SECONDS)).is_success
        except httpx.HTTPError:
            return False

    async def complete(self, url: str, prompt: str, *, max_tokens: int, within_seconds: float) -> Answer:
        """Ask for a greedy completion that no cache may answer."""
        try:
            async with asyncio.timeout(within_seconds):
                return await self._ask(url, {"prompt": prompt, "temperature": 0, "max_tokens": max_tokens})
        except (TimeoutError, httpx.TimeoutException):
            return Failed(f"no answer within {within_seconds:g} s")
        except httpx.ConnectError:
            return Failed("no connection")
        except httpx.HTTPError as error:
            return Failed(f"broke off ({type(error).__name__})")

    async def _ask(self, url: str, body: dict[str, Any]) -> Answer:
        request = self._http.build_request(
            "POST", f"{url}{COMPLETIONS}", json=body, headers={"Cache-Control": "no-cache"}, timeout=None
        )
        answer = await self._http.send(request, stream=True)
        try:
            content = bytearray()
            async for chunk in answer.aiter_bytes():
                content += chunk
                if len(content) > _MAX_ANSWER_BYTES:
                    return Failed("an answer without end")
        finally:
            await answer.aclose()
        return _read(bytes(content)) if answer.is_success else Failed(f"status {answer.status_code}")


def _read(content: bytes) -> Answer:
    """Return the text of the first choice."""
    try:
        text = cast("dict[str, Any]", json.loads(content))["choices"][0]["text"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return Failed("an answer that is no completion")
    if not isinstance(text, str) or not text:
        return Failed("an empty answer")
    return Completed(text)
