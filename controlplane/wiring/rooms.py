"""Constructs every room and joins them. What is decided is decided in the rooms; nothing is decided here.

Called by `serving` inside its event loop. The rooms form one circle (runs ask the guard, the guard reads runs), which
is closed here by passing small functions that look up the later part when they are called.
"""

import dataclasses
import functools
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Self

import httpx
import structlog

from actions import clients, owners
from actions import registry as action_registry
from actions.local import actuator
from actions.local import fleet as local
from actions.node import admin as node_admin
from actions.node import client as admin_client
from actions.node import data as node_data
from actions.node import directory
from actions.traffic import admin as gateway_admin
from actions.traffic import levels
from alerts import alertmanager, intake, notify, silences
from controlplane import clock as system_clock
from controlplane import expressions, schedule, settings, telemetry
from controlplane.api import house
from controlplane.domain import breakers, capacity, errors, plans, ports, remediation, ticks, trust, windows
from controlplane.engine import (
    autonomy,
    climb,
    dispatch,
    facts,
    handle,
    keeping,
    look,
    provision,
    recheck,
    tick,
    verification,
)
from controlplane.observe import demand, prometheus, reader
from controlplane.runs import config as run_config
from controlplane.runs import engine as run_engine
from controlplane.runs import failpoints, planning
from controlplane.runs.language import library
from controlplane.store import house as stores
from controlplane.store import retention
from controlplane.wiring import adapters, files
from detectors import hang, isolation_forest, leak, level_shift

# The replica's name on a machine that has none.
_NAMELESS = "dsctl"
_DAY_SECONDS = 86_400.0
# The name of the setting, for messages that say what to correct.
_NODE_SETTING = "node_admin.token_file"


class CurrentView:
    """What the newest tick saw, for the directory of addresses and the guard; filled in once the tick exists."""

    def __init__(self) -> None:
        self.tick: tick.Tick | None = None

    def __call__(self) -> windows.FleetView | None:
        """Return the view of the newest tick, or None before the first."""
        return None if self.tick is None else self.tick.view()

    def outlooks(self) -> Mapping[str, capacity.Outlook]:
        """Return what the newest tick foretold and planned; empty before the first."""
        return {} if self.tick is None else self.tick.outlooks()


@dataclass(frozen=True, slots=True)
class Targets:
    """Everything that reaches nodes and gateways; `pools` are the connection pools to close."""

    pools: Sequence[admin_client.AdminClient | node_data.NodeData]
    view: CurrentView
    where: directory.FleetDirectory
    actions: action_registry.Registry
    rungs: levels.SetRung
    actuator: ports.Actuator
    clients: clients.Clients

    @classmethod
    def build(cls, chosen: settings.Settings) -> Self:
        """Construct the clients; connects to nothing. Raises InvalidInputError for a secret that cannot be read."""
        view = CurrentView()
        gateways = {service: one.admin_url for service, one in chosen.gateways.items()}
        where = directory.FleetDirectory(view, gateways)
        to_nodes = admin_client.AdminClient(token=chosen.node_admin.reveal() or "", token_setting=_NODE_SETTING)
        to_gateways = {
            service: admin_client.AdminClient(token=one.reveal() or "", token_setting=f"gateways.{service}.token_file")
            for service, one in chosen.gateways.items()
        }
        data, time = node_data.NodeData(chosen.node_api.reveal() or ""), system_clock.SystemClock()
        fleets = {name: local.LocalFleet(name, one.folder, time) for name, one in chosen.local_fleets.items()}
        targets = clients.Clients(
            where,
            node_admin.NodeAdmin(to_nodes, where),
            gateway_admin.GatewayAdmin(to_gateways, where),
            data,
            time,
            fleets,
        )
        return cls(
            (to_nodes, *to_gateways.values(), data),
            view,
            where,
            action_registry.build(targets),
            levels.SetRung(targets),
            actuator.LocalActuator(fleets),
            targets,
        )


@dataclass(frozen=True, slots=True)
class World:
    """The connections to everything outside, opened by `serving`, which also closes them."""

    clock: ports.Clock
    store: stores.House
    targets: Targets
    http: httpx.AsyncClient
    executor: Executor
    bench: ports.Bench
    fitter: provision.Fitter | None = None


@dataclass(frozen=True, slots=True)
class Rooms:
    """The parts that are started and stopped, and the API's view of all."""

    engine: run_engine.RunEngine
    loop: schedule.Loop
    home: house.House


def build(chosen: settings.Settings, content: files.Content, world: World, fail: failpoints.FailPoints) -> Rooms:
    """Construct and join every room; starts nothing."""
    return _Builder(chosen, content, world, fail).build()


class _Builder:
    """Holds what several rooms share while they are constructed."""

    def __init__(
        self, chosen: settings.Settings, content: files.Content, world: World, fail: failpoints.FailPoints
    ) -> None:
        self._settings = chosen
        self._content = content
        self._world = world
        self._fail = fail
        self._managed = {one.name: one for one in content.services}
        self._telemetry = telemetry.Telemetry(world.clock)
        self._metrics = prometheus.PrometheusClient(chosen.prometheus_url, world.executor)
        self._reader = reader.PrometheusReader(
            self._metrics,
            content.services,
            content.profiles,
            content.catalogue,
            world.clock,
            window_seconds=chosen.query_window_seconds,
        )
        self._alertmanager = alertmanager.Alertmanager(world.http, chosen.alertmanager_url)
        self._notifier = notify.AlertmanagerNotifier(self._alertmanager, world.clock)
        self._decisions = adapters.CountedDecisions(world.store.decisions, self._telemetry)
        self._gatherer = facts.Gatherer(
            facts.Sources(
                reader=self._reader,
                alerts=world.store.alerts,
                incidents=world.store.incidents,
                runs=world.store.runs,
                automation=world.store.automation,
                silences=silences.AlertmanagerSilences(self._alertmanager, world.clock),
                owners=owners.Owners(world.targets.clients, self._managed, world.store.runs),
            ),
            self._managed,
            world.clock,
            breaker_limits=breakers.Limits(
                nodes=chosen.guard.breaker_nodes,
                percent=chosen.guard.breaker_percent,
                window_seconds=chosen.guard.breaker_window_seconds,
            ),
            outlooks=world.targets.view.outlooks,
        )
        self._keeper = keeping.Keeper(self._decisions, world.store.automation, world.clock)
        self._autonomy = autonomy.Autonomy(
            world.store.trust,
            content.policies,
            trust.Thresholds(**chosen.trust.model_dump()),
            world.clock,
            ceiling=chosen.mode,
        )

    def build(self) -> Rooms:
        loop: schedule.Loop | None = None
        door: dispatch.Dispatch | None = None
        ended = _EndedRuns(self._world.store.runs, self._telemetry)

        def on_ended(run_id: str) -> None:
            ended.note(run_id)
            if loop is not None:
                loop.wake()

        async def follow_up(plan: plans.Plan, runbook: str, dedup_key: str) -> str:
            if door is None:
                raise errors.RetryLaterError("the control plane is still starting")
            return await _follow_up(door, self._world.store.runs, plan, runbook, dedup_key)

        engine = self._engine(follow_up, on_ended)
        door = self._door(engine)
        body = self._tick(door)
        self._world.targets.view.tick = body
        loop = self._loop(engine, body, ended)
        self._telemetry.watch_ticks(loop.seconds_since_good)
        return Rooms(engine, loop, self._home(engine, door, loop))

    def _engine(self, follow_up: run_config.FollowUp, on_ended: run_config.OnEnded) -> run_engine.RunEngine:
        clock = self._world.clock
        asked = run_config.RunPorts(
            clock=clock,
            actions=self._world.targets.actions,
            guard=recheck.Recheck(
                self._gatherer,
                self._world.store.trust,
                self._keeper,
                {policy.name: policy.mode for policy in self._content.policies},
            ),
            verifier=verification.Verification(self._reader, self._managed, clock),
            conditions=expressions.Conditions(),
            facts=facts.FleetFacts(self._reader, self._managed, clock),
            notifier=self._notifier,
            follow_up=follow_up,
            asker=self._notifier,
            on_ended=on_ended,
        )
        paced = run_config.RunSettings(
            replica_name=self._settings.replica_name or platform.node() or _NAMELESS,
            lease_seconds=self._settings.lease_ttl_seconds,
        )
        return run_engine.RunEngine(self._world.store.database, asked, paced, self._fail)

    def _door(self, engine: run_engine.RunEngine) -> dispatch.Dispatch:
        planner = planning.RunbookPlanner(
            runbooks=self._content.runbooks,
            actions=self._world.targets.actions,
            managed=self._managed,
            where=self._world.targets.where,
            clock=self._world.clock,
        )
        return dispatch.Dispatch(
            planner=planner,
            gatherer=self._gatherer,
            keeper=self._keeper,
            submitter=engine,
        )

    def _tick(self, door: dispatch.Dispatch) -> tick.Tick:
        store = self._world.store
        hands = handle.Hands(
            incidents=store.incidents,
            runs=store.runs,
            decisions=self._decisions,
            remediator=door,
            notifier=self._notifier,
            conditions=expressions.Conditions(),
            services=self._managed,
            policies=self._content.policies,
            climber=climb.Climber(self._world.targets.rungs, store.automation, store.runs, self._world.clock),
            reviewer=self._autonomy,
        )
        recent = look.Recent(self._world.clock)
        self._provisioner = self._make_provisioner()
        eyes = look.Eyes(
            self._reader,
            store.alerts,
            self._detectors(),
            self._managed,
            self._world.bench,
            recent,
            self._provisioner,
        )
        pace = handle.Pace(
            quiet_seconds=self._settings.incident_quiet_seconds,
            grace_seconds=self._settings.resolve_grace_seconds,
        )
        self._leadership = schedule.Leadership(self._world.clock, self._settings.lease_ttl_seconds)
        return tick.Tick(eyes=eyes, hands=hands, pace=pace, clock=self._world.clock, is_leader=self._leadership.is_held)

    def _make_provisioner(self) -> provision.Provisioner:
        chosen = self._settings.forecast
        sources = provision.Sources(
            reader=self._reader,
            demand=demand.PrometheusDemand(self._metrics, self._content.services, self._content.profiles),
            actuator=self._world.targets.actuator,
            runs=self._world.store.runs,
            fitter=self._world.fitter,
        )
        pace = provision.Pace(
            step_seconds=chosen.step_seconds,
            horizon_seconds=chosen.horizon_seconds,
            history_seconds=chosen.history_days * _DAY_SECONDS,
            refit_seconds=chosen.refit_seconds,
        )
        return provision.Provisioner(sources, self._managed, pace, self._world.clock)

    def _detectors(self) -> tuple[ports.Detector, ...]:
        rate_seconds = self._settings.query_window_seconds
        return (
            level_shift.LevelShift(),
            isolation_forest.IsolationForest(self._settings.detectors.false_alarms_per_day, rate_seconds),
            hang.Hang(rate_seconds),
            leak.Leak(window_seconds=self._settings.detectors.leak_window_seconds),
        )

    def _loop(self, engine: run_engine.RunEngine, body: tick.Tick, ended: "_EndedRuns") -> schedule.Loop:
        store, clock = self._world.store, self._world.clock

        async def after_tick(report: ticks.TickReport) -> None:
            self._telemetry.tick(report)
            self._telemetry.outlooks(body.outlooks())
            self._telemetry.unclosed_incidents(await store.incidents.unclosed())
            self._telemetry.automation(is_paused=bool(await store.automation.paused()))
            tripped = await store.automation.breakers()
            self._telemetry.breakers({name: name in tripped and tripped[name].is_open for name in self._managed})
            self._telemetry.records(self._autonomy.ledgers(), self._autonomy.demotions())
            for entry in self._autonomy.take_news():
                self._telemetry.demoted(entry)
            await ended.tell()

        async def watch() -> None:
            await body.watch()
            await ended.tell()

        async def sweep() -> int:
            return await retention.sweep(store.database, clock, keep_days=self._settings.retention_days)

        return schedule.Loop(
            schedule.Work(body, engine.lead, after_tick, watch, sweep, self._provisioner.refit),
            self._leadership,
            clock,
            tick_seconds=self._settings.tick_seconds,
            lease_seconds=self._settings.lease_ttl_seconds,
        )

    def _home(self, engine: run_engine.RunEngine, door: dispatch.Dispatch, loop: schedule.Loop) -> house.House:
        store = self._world.store
        return house.House(
            clock=self._world.clock,
            incidents=store.incidents,
            runs=store.runs,
            run_control=engine,
            decisions=self._decisions,
            alerts=store.alerts,
            automation=store.automation,
            remediator=door,
            ticks=loop,
            runbooks=self._content.runbooks,
            parse_runbook=functools.partial(library.parse, words=self._content.words),
            tokens=store.tokens,
            readiness=adapters.Readiness(store.database, engine, self._metrics, self._alertmanager),
            telemetry=self._telemetry,
            trustees=self._autonomy,
            parse_notification=intake.parse,
            max_pending_webhooks=self._settings.webhook.max_pending,
        )


class _EndedRuns:
    """Counts and logs each run that this process saw end, once."""

    def __init__(self, runs: ports.RunStore, told: telemetry.Telemetry) -> None:
        self._runs = runs
        self._telemetry = told
        self._ids: list[str] = []
        self._log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("dsctl.wiring")

    def note(self, run_id: str) -> None:
        """Remember a run that has ended; never blocks."""
        self._ids.append(run_id)

    async def tell(self) -> None:
        """Count what has ended since the last call."""
        while self._ids:
            run_id = self._ids.pop()
            try:
                self._telemetry.run_ended(await self._runs.get(run_id))
            except errors.DsctlError as error:
                self._log.warning("run_not_counted", run=run_id, reason=str(error))


async def _follow_up(
    door: remediation.Remediator, stored: ports.RunStore, plan: plans.Plan, runbook: str, dedup_key: str
) -> str:
    """Submit the runbook that follows a failed plan, on the same target, through the same guard.

    One whose submission was stored and not noted, before a crash, is found by its key: the guard would refuse it
    because it is in flight.
    """
    if found := await stored.find(dedup_key=dedup_key, limit=1):
        return found[0].id
    request = dataclasses.replace(
        plan.request,
        runbook=runbook,
        inputs={},
        dedup_key=dedup_key,
        is_follow_up=True,
        is_restoring=False,
        reason=f"follows {plan.request.runbook}, which failed",
    )
    answer = await door.remediate(request)
    if isinstance(answer, remediation.Refused):
        raise errors.GiveUpError(answer.guard.sentence)
    return answer.run_id
