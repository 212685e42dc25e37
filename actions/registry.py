"""The actions of this installation: ours, and those that other distributions offer as entry points.

Called by `wiring`. A third party names its action by the entry point, whose object is called with `Clients` and
returns an `actions.api.Action`. It is imported when it is first asked for, so that a broken plug-in breaks the
runbook that needs it and not the start. A loaded action never changes; safe to share.
"""

from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import cast

from actions import api, clients
from actions.cache import flush, warm
from actions.local import restart, scale
from actions.node import batch, canary, capture, degrade, drain
from actions.traffic import eject, levels, return_
from controlplane.domain import errors

ENTRY_POINTS = "dsctl.actions"


class Registry(Mapping[str, api.Action]):
    """Actions by name; entry points are loaded on first access."""

    def __init__(
        self, own: Iterable[api.Action], offered: Iterable[metadata.EntryPoint], targets: clients.Clients
    ) -> None:
        self._targets = targets
        self._loaded = {action.spec.name: action for action in own}
        self._offered: dict[str, metadata.EntryPoint] = {}
        for point in offered:
            self._refuse_clash(point)
            self._offered[point.name] = point

    def __getitem__(self, name: str) -> api.Action:
        if name not in self._loaded and name in self._offered:
            self._loaded[name] = _load(self._offered[name], self._targets)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._loaded, *self._offered}))

    def __len__(self) -> int:
        return len({*self._loaded, *self._offered})

    def _refuse_clash(self, point: metadata.EntryPoint) -> None:
        if point.name in self._loaded:
            raise errors.InvalidInputError(f"action {point.name!r} of {_origin(point)} is shipped already; rename it")
        if point.name in self._offered:
            both = f"{_origin(self._offered[point.name])} and {_origin(point)}"
            raise errors.InvalidInputError(f"action {point.name!r} is offered by {both}; remove one of them")


def build(targets: clients.Clients, *, offered: Iterable[metadata.EntryPoint] | None = None) -> Registry:
    """Return every action; raises InvalidInputError when two have one name.

    `offered` are the entry points to take; None means those installed in this environment.
    """
    own: tuple[api.Action, ...] = (
        flush.FlushCache(targets),
        warm.WarmCache(targets),
        drain.DrainNode(targets),
        batch.SetBatch(targets),
        degrade.DegradeNode(targets),
        eject.EjectNode(targets),
        return_.ReturnNode(targets),
        restart.RestartNode(targets),
        scale.Scale(targets),
        canary.CanaryTest(targets),
        capture.CaptureNode(targets),
        levels.SetRung(targets),
    )
    points = metadata.entry_points(group=ENTRY_POINTS) if offered is None else offered
    return Registry(own, points, targets)


def _load(point: metadata.EntryPoint, targets: clients.Clients) -> api.Action:
    try:
        action = cast("api.Action", point.load()(targets))
        name = action.spec.name
    except Exception as error:  # foreign code may raise anything; the caller must learn whose it was
        raise errors.GiveUpError(f"action {point.name!r} of {_origin(point)} cannot be loaded: {error}") from error
    if name != point.name:
        raise errors.GiveUpError(f"action {point.name!r} of {_origin(point)} calls itself {name!r}; make them equal")
    return action


def _origin(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
