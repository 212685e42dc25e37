"""The HTTP application: puts the table of routes, the edge and the translation of errors together.

`wiring` calls `create_app` with the real house, tests with fakes. The application keeps no state of its own but
the bound on webhooks; it can be thrown away at any time. Async, one event loop.
"""

from typing import cast

import fastapi
from fastapi import exceptions
from starlette.exceptions import HTTPException

from controlplane.api import edge, guarded, house, problems
from controlplane.api.routes import control, fleet, health, policies, remediation, webhooks
from controlplane.domain import errors

# The framework looks through them in order, for every request: in a storm of alerts nearly all are for the first.
ROUTES = (*webhooks.ROUTES, *health.ROUTES, *fleet.ROUTES, *remediation.ROUTES, *policies.ROUTES, *control.ROUTES)


def create_app(home: house.House) -> fastapi.FastAPI:
    """Return the application over `home`."""
    app = bare_app()
    app.state.house = home
    app.state.intake = webhooks.Intake(home.max_pending_webhooks)
    app.add_middleware(edge.Edge, clock=home.clock, telemetry=home.telemetry)
    app.add_exception_handler(errors.DsctlError, _on_error)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(exceptions.RequestValidationError, _on_validation)
    app.add_exception_handler(Exception, _on_bug)
    return app


def bare_app() -> fastapi.FastAPI:
    """Return the application with its routes and nothing behind them, for describing it.

    The framework's documentation pages are off: they load scripts from foreign servers.
    """
    app = fastapi.FastAPI(title="dsctl", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    guarded.add(app, ROUTES)
    return app


async def _on_error(request: fastapi.Request, error: Exception) -> fastapi.Response:
    del request
    return problems.of_error(cast("errors.DsctlError", error))


async def _on_http(request: fastapi.Request, error: Exception) -> fastapi.Response:
    del request
    return problems.of_http(cast("HTTPException", error))


async def _on_validation(request: fastapi.Request, error: Exception) -> fastapi.Response:
    del request
    return problems.of_validation(cast("exceptions.RequestValidationError", error))


async def _on_bug(request: fastapi.Request, error: Exception) -> fastapi.Response:
    """Answer; the framework raises on to the server, which logs the traceback."""
    del request, error
    return problems.of_bug()
