"""Routes for machines that watch this one: alive, ready, metrics, the API's own description. Handlers only.

What is public says names and yes or no; addresses and error texts need a token.
"""

import fastapi

from controlplane.api import document, guarded, house, wire
from controlplane.api.rights import Right

# The alarm of the shipped rules: three ticks of 15 s.
_TICK_AGE_SECONDS = 45.0


async def livez() -> fastapi.Response:
    """The process answers."""
    return fastapi.Response("ok\n", media_type="text/plain")


async def readyz(home: guarded.House, response: fastapi.Response) -> wire.Health:
    """Whether everything the server cannot work without is there; 503 when not."""
    checks = await home.readiness.check()
    is_ok = all(check.is_ok for check in checks if check.is_required)
    response.status_code = 200 if is_ok else 503
    return wire.Health(is_ok=is_ok, checks={check.name: check.is_ok for check in checks})


async def list_checks(home: guarded.House) -> wire.Items[wire.Check]:
    """Each dependency with its state and what to do about it, and whether the loop is turning."""
    checks = [*await home.readiness.check(), _tick_check(home)]
    return wire.Items(items=[wire.Check.model_validate(check) for check in checks])


def _tick_check(home: house.House) -> house.Check:
    age = home.ticks.seconds_since_good()
    if age is None:
        hint = "wait one tick; if it stays so, read the server's log for tick_problem"
        return house.Check("tick", is_ok=False, detail="no good tick yet", hint=hint, is_required=False)
    report = home.ticks.report()
    problem = f": {'; '.join(report.problems)}" if report is not None and report.problems else ""
    return house.Check(
        "tick",
        is_ok=age <= _TICK_AGE_SECONDS,
        detail=f"the last good tick was {age:.0f} s ago{problem}",
        hint="read the server's log for tick_problem",
        is_required=False,
    )


async def metrics(home: guarded.House) -> fastapi.Response:
    """The control plane's own metrics in Prometheus' text format."""
    return fastapi.Response(home.telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def openapi(request: fastapi.Request) -> fastapi.responses.JSONResponse:
    """This description."""
    return fastapi.responses.JSONResponse(document.of(request.app))


ROUTES = (
    guarded.Route("GET", "/livez", Right.PUBLIC, livez),
    guarded.Route("GET", "/readyz", Right.PUBLIC, readyz),
    guarded.Route("GET", "/metrics", Right.PUBLIC, metrics),
    guarded.Route("GET", "/api/v1/openapi.json", Right.PUBLIC, openapi),
    guarded.Route("GET", "/api/v1/checks", Right.VIEWER, list_checks),
)
