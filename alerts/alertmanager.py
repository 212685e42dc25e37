"""The HTTP side of Alertmanager's API, version 2, shared by `notify` and `silences`.

It translates what goes wrong and bounds what comes back; it never repeats a call. Concurrency: async; the HTTP
client belongs to `wiring`, which closes it.
"""

import asyncio
from typing import Final

import httpx

from controlplane.domain import errors

TIMEOUT_SECONDS: Final = 5.0
# 10,000 silences of 800 bytes.
MAX_ANSWER_BYTES: Final = 8_388_608
_MAX_DETAIL = 300
_TOO_MANY = 429


class Alertmanager:
    """One Alertmanager; `url` is its base, with the route prefix where it has one."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url.rstrip("/")

    async def get(self, path: str) -> bytes:
        """Return a document; raises RetryLaterError or GiveUpError."""
        return await self._send("GET", path, None)

    async def post(self, path: str, body: object) -> None:
        """Send a document; raises RetryLaterError or GiveUpError. Alerts with equal labels are one alert, so that
        sending again after an answer was lost does no harm.
        """
        await self._send("POST", path, body)

    async def _send(self, method: str, path: str, body: object) -> bytes:
        call = f"{method} {path}"
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                status, content = await self._exchange(method, path, body)
        except (httpx.TransportError, TimeoutError) as error:
            said = str(error) or type(error).__name__
            raise errors.RetryLaterError(f"Alertmanager at {self._url} did not answer {call}: {said}") from error
        except httpx.InvalidURL as error:
            raise errors.GiveUpError(f"Alertmanager's address {self._url!r} is no URL: {error}") from error
        if httpx.codes.is_success(status):
            return content
        said = f"Alertmanager at {self._url} answered {call} with {status}: {_detail(content)}"
        if httpx.codes.is_server_error(status) or status == _TOO_MANY:
            raise errors.RetryLaterError(said)
        raise errors.GiveUpError(said)

    async def _exchange(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        request = self._http.build_request(
            method, f"{self._url}{path}", json=body, headers={"Accept-Encoding": "identity"}, timeout=TIMEOUT_SECONDS
        )
        answer = await self._http.send(request, stream=True, follow_redirects=False)
        try:
            content = bytearray()
            async for chunk in answer.aiter_raw():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise errors.RetryLaterError(f"Alertmanager at {self._url} answered with too many bytes")
            return answer.status_code, bytes(content)
        finally:
            await answer.aclose()


def _detail(content: bytes) -> str:
    """Return the beginning of a refusal in printable characters."""
    return ascii(content[:_MAX_DETAIL].decode(errors="replace"))
