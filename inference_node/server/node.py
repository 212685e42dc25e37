"""The node as a whole: builds its parts, loads the model, runs its two tasks, and describes its state.

`__main__` starts it with the real loader; tests start it with a model made of integers. Nothing here imports torch.
Concurrency: one event loop; three named tasks (engine, leases, memory), awaited in `stop`; one model thread.
"""

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any

import prometheus_client
import structlog

from inference_node import (
    cache,
    capture,
    clock,
    errors,
    faults,
    leases,
    levels,
    memory,
    metrics,
    operations,
    settings,
)
from inference_node.engine import batcher, generation, ports
from inference_node.engine import engine as engines
from inference_node.server import answering, controls

Load = Callable[[str], ports.LoadedModel]
"""Loads a configured version; blocks, and is called on the model thread alone."""

_log = structlog.get_logger()

_LEVEL_OF = {rank: level for level, rank in answering.RANKS.items()}
_LEASE_KINDS = ("batch", "limits", "degradation", "drain", *(f"fault:{fault}" for fault in faults.Fault))


class Node:
    """One inference node."""

    def __init__(
        self, chosen: settings.NodeSettings, *, time: clock.Clock, thread: ports.ModelThread, load: Load
    ) -> None:
        self.settings = chosen
        self.clock = time
        self._thread = thread
        self._load = load
        self._engine: engines.Engine | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._switching = asyncio.Lock()
        self.operations = operations.Operations(time)
        self.registry = prometheus_client.CollectorRegistry()
        self.http_metrics = metrics.HttpMetrics(self.registry)
        self._metrics = metrics.NodeMetrics(self.registry)
        self._engine_metrics = metrics.EngineMetrics(self.registry, chosen.model.name)
        prometheus_client.ProcessCollector(registry=self.registry)
        self.leases = leases.LeaseBook(time)
        self.timeouts = chosen.levels.timeouts()
        self.places = levels.Levels(chosen.levels.limits(), time, self.timeouts)
        self._waiting = batcher.Batcher(
            batcher.Batch(chosen.batch.max_size, chosen.batch.max_wait_seconds),
            self._concurrency,
            ageing_seconds=chosen.ageing_seconds,
        )
        self.cache = cache.ResponseCache(
            max_entries=chosen.cache.max_entries,
            max_bytes=chosen.cache.max_bytes,
            ttl_seconds=chosen.cache.ttl_seconds,
            clock=time,
        )
        self.memory_limit_bytes = chosen.memory_limit_bytes or memory.cgroup_limit()
        self.faults = faults.Faults(
            is_enabled=chosen.faults_enabled,
            book=self.leases,
            poison=self.cache.replace_texts,
            memory_limit_bytes=self.memory_limit_bytes,
        )
        self._keeper = memory.Keeper(trouble=self.faults, given_bytes=chosen.memory_limit_bytes, time=time)
        self.controls = controls.Controls(
            book=self.leases, waiting=self._waiting, places=self.places, on_change=self._wake_engine
        )
        self.answering = answering.Answering(
            engine=lambda: self._engine,
            store=self.cache,
            places=self.places,
            trouble=self.faults,
            switches=self.controls,
            counted=self._metrics,
            default_max_tokens=chosen.default_max_tokens,
            audit_ratio=chosen.cache.audit_ratio,
            chance=random.Random().random,  # noqa: S311 - picks hits to audit, guards no secret
        )
        self._metrics.zero_counters()

    @property
    def engine(self) -> engines.Engine | None:
        """The engine, or None while the model loads."""
        return self._engine

    async def start(self) -> None:
        """Load the model and begin to serve; raises SettingsError when it cannot be loaded."""
        if self.faults.is_enabled:
            _log.warning("faults_enabled", node=self.settings.name)
        self._tasks.append(asyncio.create_task(self.leases.run(), name="leases"))
        self._tasks.append(asyncio.create_task(self._keeper.run(), name="memory"))
        version = self.settings.model.version
        model = await self._thread.call(lambda: self._load(version))
        engine = engines.Engine(
            model=model,
            thread=self._thread,
            waiting=self._waiting,
            faults=self.faults,
            observer=self._engine_metrics,
            clock=self.clock,
            pace_step_seconds=self.settings.pace_step_seconds,
        )
        task = asyncio.create_task(engine.run(), name="engine")
        task.add_done_callback(_report_end)
        self._tasks.append(task)
        self._engine = engine

    async def stop(self) -> None:
        """End the tasks; open answers fail."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def switch_model(self, version: str) -> str:
        """Load a configured version and serve it; return the version before. Steps pause while it loads."""
        async with self._switching:
            engine = self.require_engine()
            previous = engine.model.version
            if version != previous:
                model = await self._thread.call(lambda: self._load(version))
                await engine.switch(model)
                _log.info("model_switched", version=version, previous=previous)
            return previous

    def require_engine(self) -> engines.Engine:
        """Return the engine; raises DataError 503 while the model loads."""
        if self._engine is None:
            raise answering.loading()
        return self._engine

    def readiness(self) -> str:
        """Return an empty text when the node takes requests, or the reason why not."""
        if self._engine is None:
            return "loading"
        if not self._engine.is_alive:
            return "dead"
        return "draining" if self.controls.is_draining else ""

    def model(self) -> dict[str, str]:
        """Return name and version of the model served, or about to be."""
        version = self.settings.model.version if self._engine is None else self._engine.model.version
        return {"name": self.settings.model.name, "version": version}

    def load(self) -> dict[str, int]:
        """Return how many requests run and wait, background work included."""
        engine = self._engine
        return {"running": engine.num_running if engine else 0, "waiting": len(self._waiting)}

    def state(self) -> dict[str, Any]:
        """Return everything an operator may want to know."""
        engine = self._engine
        return {
            "node": self.settings.name,
            "service": self.settings.service,
            "boot_id": self.operations.boot_id,
            "model": self.model(),
            "device": engine.model.device if engine else "",
            "is_ready": not self.readiness(),
            "is_draining": self.controls.is_draining,
            **self.load(),
            "batch": self.controls.describe_batch(),
            "limits": self.controls.describe_limits(),
            "degradation": self.controls.describe_degradation(),
            "cache": {"l1": self._describe_cache()},
            "leases": self.leases.describe(),
            "faults": {"enabled": self.faults.is_enabled, "active": self.faults.describe()},
            "steps_total": engine.steps_total if engine else 0,
            "pace_step_seconds": self.settings.pace_step_seconds,
        }

    async def capture(
        self, look: Callable[[], dict[str, Any]] = capture.take, within_seconds: float = capture.MAX_SECONDS
    ) -> dict[str, Any]:
        """Return what the process looks like from inside; raises AdminError 503 when that takes too long."""
        try:
            async with asyncio.timeout(within_seconds):
                found = await asyncio.to_thread(look)
        except TimeoutError as error:
            said = f"Looking took more than {within_seconds:g} s; the process is too busy, retry later."
            raise errors.AdminError(503, "Not captured", said, retry_after_seconds=5) from error
        engine = self._engine
        return {
            "at": self.clock.now().isoformat(),
            "resident_bytes": memory.resident_bytes(),
            "memory_limit_bytes": self.memory_limit_bytes,
            "engine": {**self.load(), "is_alive": engine is not None and engine.is_alive},
            **found,
        }

    def count_flush(self) -> None:
        """Count one flush of L1."""
        self._metrics.cache_flushes.labels("l1").inc()

    def exposition(self) -> bytes:
        """Return the metrics as Prometheus reads them, gauges read now."""
        self._read_gauges()
        return prometheus_client.generate_latest(self.registry)

    def _read_gauges(self) -> None:
        engine, counted = self._engine, self._metrics
        counted.cache_entries.labels("l1").set(len(self.cache))
        counted.cache_bytes.labels("l1").set(self.cache.size_bytes)
        counted.draining.set(self.controls.is_draining)
        counted.degradation_level.set(self.controls.degradation.level)
        counted.paced_step.set(self.settings.pace_step_seconds)
        counted.memory_limit.set(self.memory_limit_bytes or 0)
        counted.threads.set(threading.active_count())
        held, active = self.leases.kinds(), self.faults.active()
        for kind in _LEASE_KINDS:
            counted.leases.labels(kind).set(kind in held)
        for fault in faults.Fault:
            counted.fault_active.labels(fault).set(fault in active)
        counted.info.clear()
        counted.info.labels(
            self.model()["version"],
            self.settings.model.name,
            engine.model.device if engine else "",
            self.operations.boot_id,
        ).set(1)
        self._engine_metrics.waiting.set(len(self._waiting))
        if engine is not None:
            counted.queue_age.set(engine.queue_age_seconds)
            self._engine_metrics.running.set(engine.num_running)
            self._engine_metrics.kv_usage.set(engine.kv_usage_ratio)

    def _describe_cache(self) -> dict[str, Any]:
        return {
            "entries": len(self.cache),
            "bytes": self.cache.size_bytes,
            "max_entries": self.cache.max_entries,
            "max_bytes": self.cache.max_bytes,
            "generation": self.cache.generation,
            "hit_ratio": self.cache.hit_ratio,
        }

    def _concurrency(self, rank: generation.Rank) -> int:
        return self.places.concurrency(_LEVEL_OF[rank])

    def _wake_engine(self) -> None:
        if self._engine is not None:
            self._engine.wake()


def _report_end(task: asyncio.Task[None]) -> None:
    """Say in the log that the engine died; `/health` says it too."""
    if not task.cancelled() and task.exception() is not None:
        _log.error("engine_died", exc_info=task.exception())
