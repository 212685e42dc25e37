"""Where Alertmanager and Grafana send their notifications: authenticate, bound, parse, store, wake the tick, 202.

Nothing is decided here. Overload is 503 and never 429, which Alertmanager takes as final and drops the alert.
"""

from typing import Annotated

import fastapi

from controlplane.api import guarded, house, problems, wire
from controlplane.api.rights import Right
from controlplane.domain import errors


class Intake:
    """Bounds the notifications that wait for the store at once. Used on one event loop; never waits itself."""

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self._pending = 0

    async def __aenter__(self) -> None:
        """Take a place; raises OverloadedError when all are taken."""
        if self._pending >= self._max_pending:
            raise errors.OverloadedError(
                f"{self._pending} notifications wait to be stored; send this one again", delay_seconds=2.0
            )
        self._pending += 1

    async def __aexit__(self, *_: object) -> None:
        """Give the place back."""
        self._pending -= 1


async def _find_intake(request: fastapi.Request) -> Intake:
    return request.app.state.intake


OneIntake = Annotated[Intake, fastapi.Depends(_find_intake)]


async def receive_alertmanager(
    home: guarded.House, intake: OneIntake, request: fastapi.Request, response: fastapi.Response
) -> wire.Received:
    """A notification of Alertmanager, webhook version 4."""
    return await _receive(home, intake, request, response, "alertmanager")


async def receive_grafana(
    home: guarded.House, intake: OneIntake, request: fastapi.Request, response: fastapi.Response
) -> wire.Received:
    """A notification of Grafana Alerting."""
    return await _receive(home, intake, request, response, "grafana")


async def _receive(
    home: house.House,
    intake: Intake,
    request: fastapi.Request,
    response: fastapi.Response,
    source: str,
) -> wire.Received:
    try:
        async with intake:
            notification = home.parse_notification(await request.body(), source=source)
            is_new = await home.alerts.store(notification)
    except errors.InvalidInputError as error:
        home.telemetry.notification_refused(source, "malformed")
        raise problems.ProblemError(problems.MALFORMED, str(error)) from error
    except errors.OverloadedError:
        home.telemetry.notification_refused(source, "overloaded")
        raise
    home.telemetry.notification(notification, is_new=is_new)
    if is_new:
        home.ticks.wake()
    response.status_code = 202 if is_new else 200
    return wire.Received(duplicate=not is_new, alerts=len(notification.alerts))


ROUTES = (
    guarded.Route("POST", "/api/v1/webhooks/alertmanager", Right.EVENTS, receive_alertmanager, status=202),
    guarded.Route("POST", "/api/v1/webhooks/grafana", Right.EVENTS, receive_grafana, status=202),
)
