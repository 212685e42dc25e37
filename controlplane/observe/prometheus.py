"""Asks Prometheus, and anything that speaks its query API (Thanos, Mimir, VictoriaMetrics).

Called by the reader and by `coverage` alone. Built on prometheus-api-client, which blocks: every query runs in the
executor that `wiring` owns and bounds, with one session per thread. Nothing is retried here, because the next tick
asks again anyway and the library's own retries hold a thread for 18 s when the server hangs.
"""

import asyncio
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, cast

import requests
import urllib3
from prometheus_api_client import exceptions, prometheus_connect
from urllib3.util import retry

from controlplane.domain import errors

# A connection within a second or not at all; five for the answer. The deadline of a whole read is the reader's.
CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 5.0
# So much of a refusal is kept: Prometheus explains a bad query in the first line.
_MAX_REASON = 200

_Answer = TypeVar("_Answer")


class _Connection(Protocol):
    """What is used of the library's client, typed; its answers are untyped JSON."""

    def custom_query(self, query: str) -> list[Any]: ...

    def custom_query_range(self, query: str, start_time: datetime, end_time: datetime, step: str) -> list[Any]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an instant answer; `at` is the evaluation time in Unix seconds, `value` may be NaN."""

    labels: Mapping[str, str]
    at: float
    value: float


@dataclass(frozen=True, slots=True)
class Track:
    """One series of a range answer: (Unix seconds, value), values may be NaN."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


class PrometheusClient:
    """Runs queries in `executor`. `headers` carry a bearer token or a tenant where the store wants one."""

    def __init__(self, url: str, executor: Executor, *, headers: Mapping[str, str] | None = None) -> None:
        self._url = url.rstrip("/")
        self._executor = executor
        self._headers = dict(headers or {})
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: list[_Connection] = []

    async def instant(self, query: str) -> Sequence[Sample]:
        """Return the newest values. Raises RetryLaterError (no answer) or GiveUpError (the query was refused)."""
        rows = await self._run(lambda: self._connect().custom_query(query))
        return _understood(query, lambda: [_sample(row) for row in rows])

    async def between(self, query: str, start: float, end: float, step: int) -> Sequence[Track]:
        """Return values every `step` seconds from `start` to `end`, whole Unix seconds. Raises like `instant`."""
        first, last = (datetime.fromtimestamp(t, tz=UTC) for t in (start, end))
        rows = await self._run(lambda: self._connect().custom_query_range(query, first, last, str(step)))
        return _understood(query, lambda: [_track(row) for row in rows])

    def close(self) -> None:
        """Close every session. Call it when the executor has been shut down."""
        with self._lock:
            sessions, self._open = self._open, []
        for session in sessions:
            session.close()

    async def _run(self, call: Callable[[], _Answer]) -> _Answer:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._translated, call)

    def _translated(self, call: Callable[[], _Answer]) -> _Answer:
        try:
            return call()
        except exceptions.PrometheusApiClientException as error:
            raise _refused(str(error)) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            message = f"Prometheus at {self._url} does not answer ({type(error).__name__}); is it running?"
            raise errors.RetryLaterError(message) from error
        except (KeyError, TypeError, ValueError) as error:
            message = f"{self._url} answered something that is not Prometheus's API; check the URL"
            raise errors.RetryLaterError(message) from error

    def _connect(self) -> _Connection:
        """Return this thread's own connection."""
        existing: _Connection | None = getattr(self._local, "connection", None)
        if existing is None:
            existing = self._local.connection = self._new_connection()
            with self._lock:
                self._open.append(existing)
        return existing

    def _new_connection(self) -> _Connection:
        session = requests.Session()
        # Proxies and netrc of the environment must not come between the loop and its only source of facts.
        session.trust_env = False
        connection = prometheus_connect.PrometheusConnect(
            url=self._url,
            headers=self._headers,
            session=session,
            retry=retry.Retry(total=0),
            timeout=(CONNECT_SECONDS, ANSWER_SECONDS),  # type: ignore[arg-type]  # handed to requests, which takes both
        )
        return cast("_Connection", connection)


def _refused(reason: str) -> errors.DsctlError:
    """Tell a query that can never work from a store that is short of breath."""
    text = f"Prometheus refused the query: {reason[:_MAX_REASON]}"
    is_ours = reason.startswith(("HTTP Status Code 400", "HTTP Status Code 422"))
    return errors.GiveUpError(text) if is_ours else errors.RetryLaterError(text)


def _understood(query: str, convert: Callable[[], _Answer]) -> _Answer:
    try:
        return convert()
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise errors.GiveUpError(f"the query gives no series: {query[:_MAX_REASON]}") from error


def _sample(row: Any) -> Sample:
    at, value = row["value"]
    return Sample(_labels(row), float(at), _number(value))


def _track(row: Any) -> Track:
    return Track(_labels(row), tuple((float(at), _number(value)) for at, value in row["values"]))


def _labels(row: Any) -> Mapping[str, str]:
    return {str(name): str(value) for name, value in row["metric"].items() if name != "__name__"}


def _number(text: object) -> float:
    """Prometheus writes numbers as text, and NaN and +Inf as such."""
    return float(str(text)) if text is not None else math.nan
