"""The gateway's HTTP application: the data API passed on, the admin API, and probes, on one port."""

import secrets

import fastapi
import prometheus_client
from fastapi import responses
from starlette.types import ASGIApp

from inference_node import web
from inference_node.gateway import admin_api, gateway, proxy


def create(served: gateway.Gateway) -> tuple[ASGIApp, fastapi.FastAPI]:
    """Return the application to serve, and the one inside that knows its routes."""
    app = fastapi.FastAPI(title="Inference gateway", openapi_url=None, redirect_slashes=False)
    web.install_errors(app)
    app.include_router(_data(served))
    app.include_router(admin_api.router(served))
    app.include_router(_probes(served))
    return web.Edge(app, None, served.clock, lambda: secrets.token_hex(8)), app


def _data(served: gateway.Gateway) -> fastapi.APIRouter:
    passing = proxy.Proxy(served)
    routes = fastapi.APIRouter(prefix="/v1")
    routes.add_api_route("/models", passing.pass_on, methods=["GET"], response_model=None)
    routes.add_api_route("/completions", passing.pass_on, methods=["POST"], response_model=None)
    routes.add_api_route("/chat/completions", passing.pass_on, methods=["POST"], response_model=None)
    return routes


def _probes(served: gateway.Gateway) -> fastapi.APIRouter:
    routes = fastapi.APIRouter()

    @routes.get("/health")
    async def health() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "alive"}

    @routes.get("/ready")
    async def ready() -> fastapi.Response:
        """Say whether any node is in service."""
        is_ready = served.fleet.choose() is not None
        reason = "" if is_ready else "no_node_in_service"
        return responses.JSONResponse({"is_ready": is_ready, "reason": reason}, 200 if is_ready else 503)

    @routes.get("/metrics")
    async def metrics() -> fastapi.Response:
        """Show the metrics."""
        return fastapi.Response(served.exposition(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return routes
