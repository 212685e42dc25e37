"""The durable run engine: accepts plans, drives them, survives kill -9.

Built by `wiring`; the tick and the API submit through `ports.RunSubmitter`. What it promises: a run whose submission was
answered is stored; it ends or waits visibly; its steps run in order; each try is recorded before it happens and
carries the same key; what may have happened is looked at, not repeated. Not promised: exactly once on a target that
knows no keys.

Concurrency: asyncio; one task claims, one task per claimed run drives it, and one per errand delivers it. The
database works in threads of its own, the heartbeat in another.
"""

import asyncio
import dataclasses
import secrets
import threading
from collections.abc import Collection, Coroutine

import sqlalchemy as sa
import structlog
from sqlalchemy import exc

from controlplane.domain import approvals, errors, ids, outcomes, plans
from controlplane.runs import config, driver, errands, failpoints, ledger, moves, replica
from controlplane.store import database as db
from controlplane.store import wakeup

# After trouble with the database the loop pauses, so that it does not spin.
_TROUBLE_SECONDS = 0.5


class RunEngine:
    """Drives runs until stopped. Use `submit` at any time, `start` and `stop` once each."""

    def __init__(
        self,
        database: db.Database,
        ports: config.RunPorts,
        settings: config.RunSettings,
        fail_points: failpoints.FailPoints | None = None,
    ) -> None:
        self._database = database
        self._ports = ports
        self._settings = settings
        self._fail_points = fail_points or failpoints.FailPoints()
        self._lock = threading.Lock()
        self._driving: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delivering: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._loop_task: asyncio.Task[None] | None = None
        self._member = replica.Replica(
            database,
            ports.clock,
            replica_id=f"{settings.replica_name}/{secrets.token_hex(8)}",
            name=settings.replica_name,
            lease_seconds=settings.lease_seconds,
            driving=self._snapshot,
        )
        self._heartbeat: replica.Heartbeat | None = None
        self._listener: wakeup.Listener | None = None
        timed = dataclasses.replace(ports, clock=self._member.clock)
        self._errands = errands.Errands(database, timed, settings)
        self._driver = driver.Driver(
            database,
            timed,
            settings,
            self._member,
            fail_points=self._fail_points,
            is_stopping=lambda: self._is_stopping,
        )
        self._log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("dsctl.runs")

    @property
    def is_live(self) -> bool:
        """True while this replica may act: started, its lease fresh, its row present."""
        return self._loop_task is not None and not self._loop_task.done() and self._member.is_held()

    @property
    def is_gone(self) -> bool:
        """True when another process took this replica's name: this one has stopped for good and should end."""
        return self._member.is_gone

    async def submit(self, plan: plans.Plan) -> str:
        """Store the run durably and return its id; the same dedup key returns the first run's id.

        Raises ConflictError when another run holds the target, InvalidInputError for a plan that cannot be driven,
        OverloadedError when the database has too much to do.
        """
        _check_plan(plan, self._ports)
        run_id = ids.new_id(ids.IdKind.RUN, self._ports.clock.now())
        try:
            await self._database.write(lambda connection: self._store(connection, run_id, plan))
        except exc.IntegrityError as error:
            return await self._find_first(plan, error)
        self._wake.set()
        return run_id

    def _store(self, connection: sa.Connection, run_id: str, plan: plans.Plan) -> None:
        ledger.submit(connection, run_id, plan, self._database.now(connection))
        wakeup.send(connection)

    async def _find_first(self, plan: plans.Plan, error: exc.IntegrityError) -> str:
        def work(connection: sa.Connection) -> tuple[str | None, str | None]:
            first = ledger.find_by_dedup_key(connection, plan.request.dedup_key)
            return first, ledger.find_holder(connection, plan)

        first, holder = await self._database.read(work)
        if first is not None:
            return first
        by = f"run {holder} is" if holder is not None else "another run was just"
        raise errors.ConflictError(
            f"{by} working on {plan.target}; {plan.request.runbook} was not started, wait for that run or cancel it"
        ) from error

    async def cancel(self, run_id: str, who: str) -> outcomes.RunState:
        """Stop a run at its next border and return its state now; what it did stays. Raises NotFoundError."""
        state = await self._database.write(lambda c: ledger.cancel(c, run_id, who, self._database.now(c)))
        if state.is_final:
            self._ports.on_ended(run_id)
        return state

    async def answer(
        self, run_id: str, who: str, *, is_approved: bool, reason: str, plan_hash: str, step: str = ""
    ) -> None:
        """Keep a person's answer to the question `step`, else to the run's next one, and wake the run if it waits for it.

        Raises NotFoundError, and ConflictError for an answer that may not count, with the reason.
        """

        def work(connection: sa.Connection) -> None:
            at = self._database.now(connection)
            ledger.answer(connection, approvals.Approval(run_id, step, who, is_approved, reason, plan_hash, at))

        await self._database.write(work)
        self._wake.set()

    async def withdraw(self, run_id: str, why: str) -> bool:
        """Cancel a run that waits for people and has had no effect; False where it is not so, or not any more."""
        is_over = await self._database.write(lambda c: ledger.withdraw(c, run_id, why, self._database.now(c)))
        if is_over:
            self._ports.on_ended(run_id)
        return is_over

    async def lead(self, role: str) -> int | None:
        """Return the epoch when this replica leads `role` for the next lease, else None."""
        return await self._member.lead(role)

    async def join(self) -> None:
        """Register this replica and take over what its predecessors left; `claim_due` then drives step by step."""
        await self._member.join()

    async def start(self) -> None:
        """Register this replica, take over what its predecessors left, and begin to drive."""
        await self.join()
        loop = asyncio.get_running_loop()

        def on_gone() -> None:
            loop.call_soon_threadsafe(self._on_gone)

        def on_news() -> None:
            loop.call_soon_threadsafe(self._wake.set)

        self._heartbeat = replica.Heartbeat(self._member, self._settings.lease_seconds, on_gone)
        self._heartbeat.start()
        self._listener = wakeup.Listener(self._database.url, on_news)
        self._listener.start()
        self._loop_task = asyncio.create_task(self._run(), name="run-engine")

    async def stop(self) -> None:
        """Stop claiming, let running steps finish within the grace period, give everything back."""
        self._is_stopping = True
        self._wake.set()
        if self._loop_task is not None:
            await self._loop_task
        if self._listener is not None:
            await asyncio.to_thread(self._listener.stop)
        await self._finish_tasks()
        if self._heartbeat is not None:
            await asyncio.to_thread(self._heartbeat.stop)
        if not self._member.is_gone:
            await self._member.leave()

    async def _finish_tasks(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.grace_seconds)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _on_gone(self) -> None:
        """Drop everything: another process of this name drives these runs now."""
        self._is_stopping = True
        self._wake.set()
        for task in self._tasks:
            task.cancel()

    async def _run(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            try:
                await self.claim_due()
            except errors.DsctlError as error:
                self._log.warning("claim_failed", reason=str(error))
                await self._ports.clock.sleep(_TROUBLE_SECONDS)
            except Exception:  # noqa: BLE001 - one bad row must not stop the driving of all other runs
                self._log.exception("claim_broken")
                await self._ports.clock.sleep(_TROUBLE_SECONDS)
            if not self._is_stopping:
                await self._doze()

    async def _doze(self) -> None:
        """Sleep until there is news or the poll is due; the poll is what finds other replicas' work."""
        news = asyncio.ensure_future(self._wake.wait())
        poll = asyncio.ensure_future(self._ports.clock.sleep(self._settings.poll_seconds))
        try:
            await asyncio.wait((news, poll), return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            poll.cancel()
            await asyncio.gather(news, poll, return_exceptions=True)

    async def claim_due(self) -> int:
        """Claim what is due and start a task for each; return how many were started."""
        num_started = 0
        free = self._settings.max_active - len(self._driving)
        if free > 0 and self._member.is_held() and await self._database.read(self._has_due):
            for claim in await self._database.write(lambda connection: self._claim(connection, free)):
                self._begin(claim)
                num_started += 1
            self._fail_points.reach(failpoints.Point.AFTER_CLAIM)
        free = errands.MAX_AT_ONCE - len(self._delivering)
        for owed in await self._errands.claim(free) if self._member.is_held() else ():
            task = self._spawn(self._deliver(owed), name=f"errand-{owed.run_id}-{owed.number}")
            self._delivering.add(task)
            task.add_done_callback(self._delivering.discard)
            num_started += 1
        return num_started

    def _has_due(self, connection: sa.Connection) -> bool:
        return ledger.has_due(connection, self._database.now(connection))

    def _claim(self, connection: sa.Connection, limit: int) -> Collection[moves.Claim]:
        return ledger.claim(connection, self._member.id, self._database.now(connection), limit)

    def _begin(self, claim: moves.Claim) -> None:
        with self._lock:
            self._driving.add((claim.run_id, claim.token))
        self._spawn(self._drive(claim), name=f"run-{claim.run_id}")

    def _spawn(self, work: Coroutine[None, None, None], *, name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _drive(self, claim: moves.Claim) -> None:
        try:
            state = await self._driver.drive(claim)
        except Exception:  # noqa: BLE001 - the run stays "running" here and is found as an orphan by the heartbeat
            self._log.exception("run_dropped", run=claim.run_id, token=claim.token)
            state = None
        finally:
            with self._lock:
                self._driving.discard((claim.run_id, claim.token))
            self._wake.set()
        if state is not None and state.is_final:
            self._ports.on_ended(claim.run_id)

    async def _deliver(self, owed: errands.Owed) -> None:
        try:
            await self._errands.deliver(owed)
        except Exception as error:  # noqa: BLE001 - the errand is still due and comes back; a lost task would hide why
            self._log.warning("errand_not_recorded", run=owed.run_id, reason=repr(error))

    def _snapshot(self) -> frozenset[tuple[str, int]]:
        with self._lock:
            return frozenset(self._driving)

    async def settle(self) -> None:
        """Wait until every task that runs now has ended: runs are parked or final, errands delivered or postponed."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _check_plan(plan: plans.Plan, ports: config.RunPorts) -> None:
    names = [step.name for step in plan.steps]
    if not names or len(set(names)) != len(names):
        raise errors.InvalidInputError("a plan needs steps with different names: keys are made of them", place="steps")
    for index, step in enumerate(plan.steps):
        if step.kind is plans.StepKind.ACTION and step.action not in ports.actions:
            raise errors.InvalidInputError(
                f"the action {step.action!r} is not installed", place=f"steps[{index}].action"
            )
