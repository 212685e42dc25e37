"""The admin API of a gateway: nodes, ejection, weights, levels. Every route demands an admin token.

The shapes are those of docs/contract/node-gateway.openapi.yaml. Concurrency: async, one event loop.
"""

from collections.abc import Callable
from typing import Annotated, Any

import fastapi
import pydantic
import structlog

from inference_node import leases, levels, settings, web
from inference_node.gateway import admission, fleet, gateway

Ttl = Annotated[float, pydantic.Field(ge=leases.MIN_TTL_SECONDS, le=leases.MAX_TTL_SECONDS)]
Weight = Annotated[float, pydantic.Field(ge=0, le=1000)]
Name = Annotated[str, fastapi.Path(pattern=settings.NODE_NAME)]

_log = structlog.get_logger()


class RegisterRequest(web.AdminBody):
    """Where a node is, and its share."""

    url: settings.NodeUrl
    weight: Weight | None = None


class EjectRequest(web.AdminBody):
    """For how long, and why."""

    ttl_seconds: Ttl
    reason: Annotated[str, pydantic.Field(min_length=1, max_length=500)]


class WeightRequest(web.AdminBody):
    """The new share, and for how long."""

    weight: Weight
    ttl_seconds: Ttl | None = None


class LevelState(web.AdminBody):
    """Whether a level is refused."""

    is_shed: bool


class LevelsRequest(web.AdminBody):
    """The levels to change, the rung of the ladder they belong to (none: somebody's own change), and for how long."""

    premium: LevelState | None = None
    standard: LevelState | None = None
    batch: LevelState | None = None
    rung: Annotated[int, pydantic.Field(ge=0, le=10)] | None = None
    ttl_seconds: Ttl

    @pydantic.model_validator(mode="after")
    def _changes_something(self) -> "LevelsRequest":
        if not self.is_shed():
            raise ValueError("give at least one of premium, standard, batch")
        return self

    def is_shed(self) -> dict[levels.Level, bool]:
        """Return the levels that were named."""
        named = {
            levels.Level.PREMIUM: self.premium,
            levels.Level.STANDARD: self.standard,
            levels.Level.BATCH: self.batch,
        }
        return {level: each.is_shed for level, each in named.items() if each}


def router(served: gateway.Gateway) -> fastapi.APIRouter:
    """Return the routes under /admin/v1."""
    routes = web.admin_router(served.settings.admin())
    calls = _Calls(served)
    calls.add_reads(routes)
    calls.add_registration(routes)
    calls.add_ejection(routes)
    calls.add_shares(routes)
    return routes


class _Calls:
    """The handlers."""

    def __init__(self, served: gateway.Gateway) -> None:
        self._gateway = served
        self._max_bytes = served.settings.max_body_bytes

    def add_reads(self, routes: fastapi.APIRouter) -> None:
        served = self._gateway

        @routes.get("/state")
        async def state() -> dict[str, Any]:
            return served.state()

        @routes.get("/operations/{key}")
        async def operation(key: web.OperationKey) -> dict[str, Any]:
            return served.operations.find(key)

        @routes.get("/nodes")
        async def nodes() -> dict[str, Any]:
            return {"nodes": served.describe_nodes()}

    def add_registration(self, routes: fastapi.APIRouter) -> None:
        served = self._gateway

        @routes.put("/nodes/{name}")
        async def register(
            name: Name,
            body: Annotated[RegisterRequest, web.body_of(RegisterRequest, self._max_bytes)],
            key: web.IdempotencyKey = None,
        ) -> dict[str, Any]:
            return await self._once(
                key, "node.register", name, body, lambda: self._node(served.fleet.register(name, body.url, body.weight))
            )

        @routes.delete("/nodes/{name}")
        async def remove(name: Name, key: web.IdempotencyKey = None) -> dict[str, Any]:
            def effect() -> dict[str, Any]:
                member = served.remove(name)
                return {"name": name, "is_removed": not member.outstanding, "outstanding": member.outstanding}

            return await self._once(key, "node.remove", name, None, effect)

    def add_ejection(self, routes: fastapi.APIRouter) -> None:
        served = self._gateway

        @routes.post("/nodes/{name}/eject")
        async def eject(
            name: Name,
            body: Annotated[EjectRequest, web.body_of(EjectRequest, self._max_bytes)],
            key: web.IdempotencyKey = None,
        ) -> dict[str, Any]:
            return await self._once(
                key, "node.eject", name, body, lambda: self._node(served.eject(name, body.reason, body.ttl_seconds))
            )

        @routes.post("/nodes/{name}/return")
        async def return_node(name: Name, key: web.IdempotencyKey = None) -> dict[str, Any]:
            return await self._once(key, "node.return", name, None, lambda: self._node(served.return_node(name)))

    def add_shares(self, routes: fastapi.APIRouter) -> None:
        served = self._gateway

        @routes.put("/nodes/{name}/weight")
        async def weigh(
            name: Name,
            body: Annotated[WeightRequest, web.body_of(WeightRequest, self._max_bytes)],
            key: web.IdempotencyKey = None,
        ) -> dict[str, Any]:
            return await self._once(
                key, "node.weigh", name, body, lambda: self._node(served.weigh(name, body.weight, body.ttl_seconds))
            )

        @routes.put("/levels")
        async def set_levels(
            body: Annotated[LevelsRequest, web.body_of(LevelsRequest, self._max_bytes)],
            key: web.IdempotencyKey = None,
        ) -> dict[str, Any]:
            def effect() -> dict[str, Any]:
                served.admission.set_levels(body.is_shed(), body.rung, body.ttl_seconds)
                return self._levels()

            return await self._once(key, "levels.set", "", body, effect)

        @routes.delete("/levels")
        async def restore_levels(key: web.IdempotencyKey = None) -> dict[str, Any]:
            def effect() -> dict[str, Any]:
                served.admission.restore()
                return self._levels()

            return await self._once(key, "levels.end", "", None, effect)

    def _levels(self) -> dict[str, Any]:
        return {
            "levels": self._gateway.admission.describe(),
            "rung": self._gateway.admission.degraded.rung,
            "expires_in_seconds": self._gateway.leases.expires_in(admission.LEASE),
        }

    def _node(self, member: fleet.Member) -> dict[str, Any]:
        return {"node": self._gateway.describe_node(member)}

    async def _once(
        self,
        key: str | None,
        operation: str,
        target: str,
        body: pydantic.BaseModel | None,
        effect: Callable[[], dict[str, Any]],
    ) -> dict[str, Any]:
        """Take effect at most once per key, and log it."""

        async def logged() -> dict[str, Any]:
            result = effect()
            _log.info("operation", operation=operation, key=key, node=target)
            return result

        arguments = [target, body.model_dump(mode="json") if body else None]
        return await self._gateway.operations.once(key, operation, arguments, logged)
