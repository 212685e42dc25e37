"""The admin API of a node: every route demands an admin token, every change accepts an idempotency key.

The shapes are those of docs/contract/node-gateway.openapi.yaml. Concurrency: async, one event loop.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import fastapi
import pydantic
import structlog

from inference_node import auth, errors, faults, leases, levels, web
from inference_node.server import answering, controls, node, protocol

MAX_WARM_PROMPTS = 256
# A quarter of a second of it is written in some ten milliseconds, which the event loop can stand still for.
MAX_LEAK_BYTES_PER_SECOND = 134_217_728

Ttl = Annotated[float, pydantic.Field(ge=leases.MIN_TTL_SECONDS, le=leases.MAX_TTL_SECONDS)]
NonEmpty = Annotated[str, pydantic.Field(min_length=1)]

_log = structlog.get_logger()


class FlushRequest(web.AdminBody):
    """What to flush: everything, or what both filters match."""

    tier: Literal["l1", "all"]
    prefix: NonEmpty | None = None
    model: NonEmpty | None = None


class WarmRequest(web.AdminBody):
    """Requests whose answers to keep ready. Each is checked for itself: a wrong one counts as failed."""

    prompts: Annotated[list[dict[str, Any]], pydantic.Field(min_length=1, max_length=MAX_WARM_PROMPTS)]
    tenant: str = auth.DEFAULT_TENANT


class DrainRequest(web.AdminBody):
    """For how long."""

    ttl_seconds: Ttl | None = None


class _SomeChange(web.AdminBody):
    """A body of optional fields, of which at least one beside the time must be given."""

    @pydantic.model_validator(mode="after")
    def _changes_something(self) -> "_SomeChange":
        given = self.model_dump(exclude={"ttl_seconds"}, exclude_none=True)
        if not given:
            raise ValueError(
                f"give at least one of {', '.join(sorted(set(type(self).model_fields) - {'ttl_seconds'}))}"
            )
        return self


class BatchRequest(_SomeChange):
    """Size, wait, or both."""

    max_size: Annotated[int, pydantic.Field(ge=1, le=1024)] | None = None
    max_wait_seconds: Annotated[float, pydantic.Field(ge=0, le=10)] | None = None
    ttl_seconds: Ttl | None = None


class LevelLimit(web.AdminBody):
    """Places of one level."""

    concurrency: Annotated[int, pydantic.Field(ge=0, le=10_000)]
    queue: Annotated[int, pydantic.Field(ge=0, le=10_000)]


class LimitsRequest(_SomeChange):
    """Places of the named levels."""

    premium: LevelLimit | None = None
    standard: LevelLimit | None = None
    batch: LevelLimit | None = None
    ttl_seconds: Ttl | None = None

    def limits(self) -> dict[levels.Level, levels.Limit]:
        """Return the limits of the levels that were named."""
        named = {
            levels.Level.PREMIUM: self.premium,
            levels.Level.STANDARD: self.standard,
            levels.Level.BATCH: self.batch,
        }
        return {level: levels.Limit(each.concurrency, each.queue) for level, each in named.items() if each}


class LevelCap(web.AdminBody):
    """What one service level may still ask for."""

    max_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    max_prompt_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    is_cached_only: bool = False

    def cap(self) -> controls.Cap:
        """Return it as the controls keep it."""
        return controls.Cap(self.max_tokens, self.max_prompt_tokens, self.is_cached_only)


class LevelCaps(web.AdminBody):
    """Caps by service level; a level that is left out has none."""

    premium: LevelCap | None = None
    standard: LevelCap | None = None
    batch: LevelCap | None = None

    def caps(self) -> dict[levels.Level, controls.Cap]:
        """Return the caps of the levels that were named."""
        named = {
            levels.Level.PREMIUM: self.premium,
            levels.Level.STANDARD: self.standard,
            levels.Level.BATCH: self.batch,
        }
        return {level: each.cap() for level, each in named.items() if each}


class DegradationRequest(web.AdminBody):
    """The rung, its caps, on all answers and by service level, and for how long."""

    level: Annotated[int, pydantic.Field(ge=0, le=10)]
    max_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    levels: LevelCaps | None = None
    ttl_seconds: Ttl

    def degradation(self) -> controls.Degradation:
        """Return what is to be in force."""
        return controls.Degradation(self.level, self.max_tokens, self.levels.caps() if self.levels else {})


class ModelRequest(web.AdminBody):
    """The version to serve."""

    version: NonEmpty


class FaultRequest(web.AdminBody):
    """For how long, and how bad."""

    ttl_seconds: Ttl
    factor: Annotated[float, pydantic.Field(gt=1, le=1000)] | None = None
    ratio: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    bytes_per_second: Annotated[int, pydantic.Field(ge=1, le=MAX_LEAK_BYTES_PER_SECOND)] | None = None

    def parameters(self) -> dict[str, float]:
        """Return the parameters that were given."""
        return self.model_dump(exclude={"ttl_seconds"}, exclude_none=True)


def router(served: node.Node) -> fastapi.APIRouter:
    """Return the routes under /admin/v1."""
    routes = web.admin_router(served.settings.admin())
    _Reads(served).add_to(routes)
    _CacheCalls(served).add_to(routes)
    _Overrides(served).add_to(routes)
    _FaultCalls(served).add_to(routes)
    return routes


class _Calls:
    """What the groups of handlers share."""

    def __init__(self, served: node.Node) -> None:
        self._node = served
        self._max_bytes = served.settings.max_body_bytes

    async def _once(
        self, key: str | None, operation: str, body: pydantic.BaseModel | str, effect: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Take effect at most once per key, and log it."""

        async def take_effect() -> dict[str, Any]:
            return effect()

        return await self._once_async(key, operation, body, take_effect)

    async def _once_async(
        self,
        key: str | None,
        operation: str,
        body: pydantic.BaseModel | str,
        effect: Callable[[], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        arguments = body if isinstance(body, str) else body.model_dump(mode="json")

        async def logged() -> dict[str, Any]:
            result = await effect()
            _log.info("operation", operation=operation, key=key, node=self._node.settings.name)
            return result

        return await self._node.operations.once(key, operation, arguments, logged)


class _Reads(_Calls):
    """State, operations, and the look inside before a restart."""

    def add_to(self, routes: fastapi.APIRouter) -> None:
        served = self._node

        @routes.get("/state")
        async def state() -> dict[str, Any]:
            return served.state()

        @routes.get("/operations/{key}")
        async def operation(key: web.OperationKey) -> dict[str, Any]:
            return served.operations.find(key)

        @routes.post("/capture")
        async def capture(key: web.IdempotencyKey = None) -> dict[str, Any]:
            return await self._once_async(key, "capture", "", served.capture)


class _CacheCalls(_Calls):
    """Flush, warm, and the GPU's own cache."""

    def add_to(self, routes: fastapi.APIRouter) -> None:
        @routes.post("/cache/flush")
        async def flush(
            body: Annotated[FlushRequest, web.body_of(FlushRequest, self._max_bytes)],
            key: web.IdempotencyKey = None,
        ) -> dict[str, Any]:
            return await self._once(key, "cache.flush", body, lambda: self._flush(body))

        @routes.post("/cache/warm")
        async def warm(
            body: Annotated[WarmRequest, web.body_of(WarmRequest, self._max_bytes)],
            key: web.IdempotencyKey = None,
        ) -> dict[str, Any]:
            self._require_loaded()
            return await self._once_async(key, "cache.warm", body, lambda: self._warm(body))

        @routes.post("/cuda-cache/empty")
        async def empty(key: web.IdempotencyKey = None) -> dict[str, Any]:
            self._require_loaded()
            return await self._once_async(key, "cuda_cache.empty", "", self._empty)

    def _require_loaded(self) -> None:
        if self._node.engine is None:
            raise errors.AdminError(
                503, "Not loaded", "The model is still loading; retry shortly.", retry_after_seconds=5
            )

    def _flush(self, body: FlushRequest) -> dict[str, Any]:
        flushed = self._node.cache.flush(prefix=body.prefix, model=body.model)
        self._node.count_flush()
        return {"flushed": flushed, "generation": self._node.cache.generation}

    async def _warm(self, body: WarmRequest) -> dict[str, Any]:
        warmed = 0
        for prompt in body.prompts:
            warmed += await self._warm_one(prompt, body.tenant)
        return {"warmed": warmed, "failed": len(body.prompts) - warmed}

    async def _warm_one(self, prompt: dict[str, Any], tenant: str) -> bool:
        kind = protocol.ChatRequest if "messages" in prompt else protocol.CompletionRequest
        try:
            request = kind.model_validate(prompt)
            request.unknown_fields()
            return await self._node.answering.warm(answering.Call(request, tenant, levels.Level.BATCH))
        except (pydantic.ValidationError, errors.DataError):
            return False

    async def _empty(self) -> dict[str, Any]:
        is_available, freed = await self._node.require_engine().empty_cache()
        return {"is_available": is_available, "freed_bytes": freed}


class _Overrides(_Calls):
    """Drain, batch, limits, degradation, model."""

    def add_to(self, routes: fastapi.APIRouter) -> None:
        self._add_drain(routes)
        self._add_capacity(routes)
        self._add_degradation(routes)
        self._add_model(routes)

    def _add_drain(self, routes: fastapi.APIRouter) -> None:
        served = self._node

        @routes.post("/drain")
        async def drain(
            body: Annotated[DrainRequest, web.body_of(DrainRequest, self._max_bytes, is_optional=True)],
            key: web.IdempotencyKey = None,
        ) -> dict[str, Any]:
            def effect() -> dict[str, Any]:
                served.controls.drain(body.ttl_seconds)
                return self._drained()

            return await self._once(key, "drain", body, effect)

        @routes.post("/undrain")
        async def undrain(key: web.IdempotencyKey = None) -> dict[str, Any]:
            def effect() -> dict[str, Any]:
                served.controls.undrain()
                return self._drained()

            return await self._once(key, "undrain", "", effect)

    def _add_capacity(self, routes: fastapi.APIRouter) -> None:
        served = self._node

        @routes.put("/batch")
        async def batch(
            body: Annotated[BatchRequest, web.body_of(BatchRequest, self._max_bytes)],
            key: web.IdempotencyKey = None,
        ) -> dict[str, Any]:
            def effect() -> dict[str, Any]:
                served.controls.set_batch(body.max_size, body.max_wait_seconds, body.ttl_seconds)
                return {"batch": served.controls.describe_batch(), **self._expiry("batch")}

            return await self._once(key, "batch.set", body, effect)

        @routes.put("/limits")
        async def limits(
            body: Annotated[LimitsRequest, web.body_of(LimitsRequest, self._max_bytes)],
            key: web.IdempotencyKey = None,
        ) -> dict[str, Any]:
            def effect() -> dict[str, Any]:
                served.controls.set_limits(body.limits(), body.ttl_seconds)
                return {"limits": served.controls.describe_limits(), **self._expiry("limits")}

            return await self._once(key, "limits.set", body, effect)

    def _add_degradation(self, routes: fastapi.APIRouter) -> None:
        served = self._node

        @routes.put("/degradation")
        async def degrade(
            body: Annotated[DegradationRequest, web.body_of(DegradationRequest, self._max_bytes)],
            key: web.IdempotencyKey = None,
        ) -> dict[str, Any]:
            def effect() -> dict[str, Any]:
                served.controls.degrade(body.degradation(), body.ttl_seconds)
                return {"degradation": served.controls.describe_degradation(), **self._expiry("degradation")}

            return await self._once(key, "degradation.set", body, effect)

        @routes.delete("/degradation")
        async def restore(key: web.IdempotencyKey = None) -> dict[str, Any]:
            def effect() -> dict[str, Any]:
                served.controls.restore()
                return {"degradation": served.controls.describe_degradation(), **self._expiry("degradation")}

            return await self._once(key, "degradation.end", "", effect)

    def _add_model(self, routes: fastapi.APIRouter) -> None:
        served = self._node

        @routes.put("/model")
        async def model(
            body: Annotated[ModelRequest, web.body_of(ModelRequest, self._max_bytes)],
            key: web.IdempotencyKey = None,
        ) -> dict[str, Any]:
            self._require_version(body.version)

            async def effect() -> dict[str, Any]:
                previous = await self._switch(body.version)
                return {"model": served.model(), "previous_version": previous}

            return await self._once_async(key, "model.switch", body, effect)

    def _require_version(self, version: str) -> None:
        known = self._node.settings.model.versions
        if version not in known:
            raise errors.AdminError(
                404, "Version unknown", f"No version {version!r} is configured; there are {', '.join(sorted(known))}."
            )
        if self._node.engine is None:
            raise errors.AdminError(
                503, "Not loaded", "The first version is still loading; retry shortly.", retry_after_seconds=5
            )

    async def _switch(self, version: str) -> str:
        try:
            return await self._node.switch_model(version)
        except (errors.SettingsError, RuntimeError, OSError) as error:
            raise errors.AdminError(
                500, "Not switched", f"Version {version!r} could not be loaded ({error}); the one before still serves."
            ) from error

    def _drained(self) -> dict[str, Any]:
        return {"is_draining": self._node.controls.is_draining, **self._node.load(), **self._expiry("drain")}

    def _expiry(self, kind: str) -> dict[str, Any]:
        return {"expires_in_seconds": self._node.leases.expires_in(kind)}


class _FaultCalls(_Calls):
    """Trouble on purpose; refused with 403 unless the node was started with faults enabled."""

    def add_to(self, routes: fastapi.APIRouter) -> None:
        served = self._node

        @routes.get("/faults")
        async def list_faults() -> dict[str, Any]:
            served.faults.require_enabled()
            available = [str(fault) for fault in faults.Fault]
            return {"enabled": True, "available": available, "active": served.faults.describe()}

        @routes.put("/faults/{name}")
        async def inject(
            name: str,
            body: Annotated[FaultRequest, web.body_of(FaultRequest, self._max_bytes)],
            key: web.IdempotencyKey = None,
        ) -> dict[str, Any]:
            served.faults.require_enabled()
            fault = _fault(name)
            return await self._once(key, f"fault.{fault}.set", body, lambda: self._inject(fault, body))

        @routes.delete("/faults/{name}")
        async def remove(name: str, key: web.IdempotencyKey = None) -> dict[str, Any]:
            served.faults.require_enabled()
            fault = _fault(name)

            def effect() -> dict[str, Any]:
                return {"name": fault, "was_active": served.faults.switch_off(fault)}

            return await self._once(key, f"fault.{fault}.end", "", effect)

    def _inject(self, fault: faults.Fault, body: FaultRequest) -> dict[str, Any]:
        switched = self._node.faults.switch_on(fault, body.ttl_seconds, body.parameters())
        return {
            "name": fault,
            "parameters": switched.parameters,
            "expires_in_seconds": self._node.leases.expires_in(f"fault:{fault}") or 0.0,
            "affected_entries": switched.affected_entries,
        }


def _fault(name: str) -> faults.Fault:
    try:
        return faults.Fault(name)
    except ValueError:
        known = ", ".join(faults.Fault)
        raise errors.AdminError(404, "Fault unknown", f"There is no fault {name!r}; there are {known}.") from None
