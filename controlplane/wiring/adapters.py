"""Small pieces that make one room's object fit another room's port. No decisions; async where the port is."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from alerts import alertmanager
from controlplane import telemetry
from controlplane.api import house
from controlplane.domain import errors, outcomes, ports
from controlplane.observe import prometheus
from controlplane.runs import engine as run_engine
from controlplane.store import database as db

# The API promises an answer about readiness within two seconds, whatever is down.
_CHECK_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class CountedDecisions:
    """Decisions, counted and logged on their way into the store."""

    store: ports.DecisionStore
    telemetry: telemetry.Telemetry

    async def record(self, decision: outcomes.Decision) -> None:
        """Append one decision."""
        self.telemetry.decision(decision)
        await self.store.record(decision)

    async def find(
        self,
        *,
        incident_id: str | None = None,
        run_id: str | None = None,
        service: str | None = None,
        target: str | None = None,
        limit: int = 100,
    ) -> Sequence[outcomes.Decision]:
        """Return decisions, newest first."""
        return await self.store.find(
            incident_id=incident_id, run_id=run_id, service=service, target=target, limit=limit
        )


class ThreadBench:
    """Implements the `Bench` port with a bounded executor that its owner shuts down.

    A thread cannot be stopped: work that is late is left to end by itself, and until it has, no more of its name begins.
    """

    def __init__(self, executor: Executor, seconds: float) -> None:
        self._executor = executor
        self._seconds = seconds
        self._begun: dict[str, Future[Any]] = {}

    async def run(self, name: str, work: Callable[[], ports.Result]) -> ports.Result:
        """Return what `work` returns; raises RetryLaterError when it takes too long."""
        earlier = self._begun.get(name)
        if earlier is not None and not earlier.done():
            raise errors.RetryLaterError(f"{name} is still busy with what it was asked before; it is asked again later")
        future = self._executor.submit(work)
        self._begun[name] = future
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise errors.RetryLaterError(f"{name} gave no answer within {self._seconds:g} s") from error


@dataclass(frozen=True, slots=True)
class Readiness:
    """Looks at what the control plane depends on. Prometheus and Alertmanager may be down: the loop then holds."""

    database: db.Database
    engine: run_engine.RunEngine
    prometheus: prometheus.PrometheusClient
    alertmanager: alertmanager.Alertmanager

    async def check(self) -> Sequence[house.Check]:
        """Return one answer per dependency; never raises for a dependency that is down."""
        return await asyncio.gather(
            _check("database", self._database, "look at the disk and the log; dsctl accepts nothing without it"),
            _check("runs", self._runs, "restart this process: its lease on the database is gone"),
            _check("prometheus", self._metrics, "start Prometheus or correct prometheus_url", is_required=False),
            _check("alertmanager", self._alerts, "start Alertmanager or correct alertmanager_url", is_required=False),
        )

    async def _database(self) -> str:
        await self.database.read(lambda connection: connection.execute(sa.text("SELECT 1")).scalar_one())
        return "answers"

    async def _runs(self) -> str:
        if not self.engine.is_live:
            raise errors.RetryLaterError("the run engine does not hold its lease")
        return "the run engine holds its lease"

    async def _metrics(self) -> str:
        await self.prometheus.instant("vector(1)")
        return "answers queries"

    async def _alerts(self) -> str:
        await self.alertmanager.get("/api/v2/status")
        return "answers"


async def _check(name: str, ask: Callable[[], Awaitable[str]], hint: str, *, is_required: bool = True) -> house.Check:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            detail = await ask()
    except TimeoutError:
        return house.Check(name, False, f"no answer within {_CHECK_SECONDS:g} s", hint, is_required)
    except (errors.DsctlError, exc.SQLAlchemyError) as error:
        return house.Check(name, False, str(error), hint, is_required)
    return house.Check(name, True, detail, is_required=is_required)
