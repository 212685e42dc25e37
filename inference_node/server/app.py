"""The node's HTTP application: data API, admin API and probes on one port.

`__main__` serves it; tests call it in process. Probes and metrics need no credentials and change nothing.
"""

import importlib.metadata
import secrets
from typing import Any

import fastapi
import prometheus_client
from fastapi import responses
from starlette.types import ASGIApp

from inference_node import web
from inference_node.server import admin_api, node, openai_api


def create(served: node.Node) -> tuple[ASGIApp, fastapi.FastAPI]:
    """Return the application to serve, and the one inside that knows its routes."""
    app = fastapi.FastAPI(title="Inference node", openapi_url=None, redirect_slashes=False)
    web.install_errors(app)
    app.include_router(openai_api.router(served))
    app.include_router(admin_api.router(served))
    app.include_router(_probes(served))
    return web.Edge(app, served.http_metrics, served.clock, lambda: secrets.token_hex(8)), app


def _probes(served: node.Node) -> fastapi.APIRouter:
    routes = fastapi.APIRouter()

    @routes.get("/health")
    async def health() -> fastapi.Response:
        """Say whether the engine loop lives; loading counts as alive."""
        is_dead = served.engine is not None and not served.engine.is_alive
        return responses.JSONResponse({"status": "dead" if is_dead else "alive"}, 503 if is_dead else 200)

    @routes.get("/ready")
    async def ready() -> fastapi.Response:
        """Say whether new requests are taken."""
        reason = served.readiness()
        return responses.JSONResponse({"is_ready": not reason, "reason": reason}, 503 if reason else 200)

    @routes.get("/metrics")
    async def metrics() -> fastapi.Response:
        """Show the metrics."""
        return fastapi.Response(served.exposition(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    @routes.get("/version")
    async def version() -> dict[str, Any]:
        """Name the version of the software."""
        return {"version": installed_version()}

    return routes


def installed_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return importlib.metadata.version("dsctl")
    except importlib.metadata.PackageNotFoundError:
        return "0.0.0+source"
