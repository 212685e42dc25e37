"""A fleet that exists only in memory, for benchmarks of the loop: its nodes, what is read of them, what is done to them.

Used by `burst` and `intake`. `Fleet` is the metrics store, the directory and the gateway in one; its actions change it
at once and count how many nodes are out of service, so that the largest number is exact, whatever was scraped. Async,
one event loop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from actions import api
from controlplane.domain import alerting, outcomes, plans, ports, services, windows
from controlplane.domain import signals as sig

SERVICE = "chat"
SIGNAL = "cache_wrong_ratio"
# What a query of a whole fleet of this size takes a Prometheus on the same machine.
READ_SECONDS = 0.02


class Fleet:
    """Nodes `n000` on; every one of them gives wrong answers until something was done to it."""

    def __init__(self, num_nodes: int, clock: ports.Clock) -> None:
        self.names = tuple(f"n{number:03}" for number in range(num_nodes))
        self.max_out = 0
        self.num_reads = 0
        self._clock = clock
        self._sick = set(self.names)
        self._out: set[str] = set()

    def take_out(self, node: str) -> None:
        """Keep a node out of service."""
        self._out.add(node)
        self.max_out = max(self.max_out, len(self._out))

    def give_back(self, node: str) -> None:
        """Let a node serve again."""
        self._out.discard(node)

    def heal(self, node: str) -> None:
        """End the trouble of a node."""
        self._sick.discard(node)

    @property
    def sick(self) -> frozenset[str]:
        """The nodes in trouble."""
        return frozenset(self._sick)

    async def read_now(self) -> windows.FleetView:
        """Return the newest readings; takes as long as a metrics store."""
        self.num_reads += 1
        await self._clock.sleep(READ_SECONDS)
        at = self._clock.now()
        healthy = {"success_ratio": sig.Value(1.0, at), "latency_p99": sig.Value(0.2, at)}
        nodes = {name: self._node(name, healthy, at) for name in self.names}
        of_service = {**healthy, SIGNAL: sig.Value(len(self._sick) / len(self.names), at)}
        return windows.FleetView(at, {SERVICE: windows.ServiceView(SERVICE, of_service, nodes)})

    def _node(self, name: str, healthy: Mapping[str, sig.Reading], at: datetime) -> windows.NodeView:
        own = {
            SIGNAL: sig.Value(float(name in self._sick), at),
            windows.IN_SERVICE: sig.Value(float(name not in self._out), at),
        }
        return windows.NodeView(name, SERVICE, f"{name}:8000", sig.Value(1.0, at), {**healthy, **own})

    async def read_window(self, service: str, signals: Sequence[str], start: datetime, end: datetime) -> windows.Window:
        """Return a window without samples: nobody here looks back."""
        unknown = {name: sig.Unknown(sig.UnknownReason.NO_SERIES) for name in signals}
        return windows.Window(service, start, end, 1.0, {}, {}, unknown)

    def nodes(self, service: str) -> Sequence[str]:
        """Return the names of the service's nodes."""
        return self.names if service == SERVICE else ()

    def node_url(self, service: str, node: str) -> str:
        """Return an address that nobody calls."""
        return f"http://{node}.{service}"

    def gateway_url(self, service: str) -> str:
        """Return an address that nobody calls."""
        return f"http://{service}"


def service(num_nodes: int) -> services.Service:
    """Return the service of a fleet of this size."""
    return services.Service(SERVICE, "dsctl", {}, pools=(services.Pool("hot", "local", 1, num_nodes, min_ready=1),))


def alerts(names: Sequence[str], at: datetime) -> tuple[alerting.Alert, ...]:
    """Return one alert a node, about wrong answers."""
    return tuple(
        alerting.Alert(
            fingerprint=f"wrong-{name}",
            status=alerting.AlertStatus.FIRING,
            labels={
                "alertname": "CacheAnswersWrong",
                "service": SERVICE,
                "node": name,
                "severity": "critical",
                alerting.FAULT_LABEL: "cache",
                alerting.SIGNAL_LABEL: SIGNAL,
            },
            annotations={"summary": f"the cache of {name} gives wrong answers", "observed": "1"},
            starts_at=at,
        )
        for name in names
    )


def notification(key: str, fired: Sequence[alerting.Alert]) -> alerting.Notification:
    """Return these alerts as they arrive together."""
    firing = alerting.AlertStatus.FIRING
    return alerting.Notification("alertmanager", "dsctl", f"{{}}:{{{key}}}", firing, tuple(fired), key)


@dataclass
class Deed:
    """An action that does `verb` to its node in no time: `heal`, `eject` or `restore`."""

    fleet: Fleet
    verb: str
    spec: api.ActionSpec = field(init=False)

    def __post_init__(self) -> None:
        """Declare it as reversible and safe to send twice."""
        none: dict[str, outcomes.Json] = {"type": "object", "properties": {}, "additionalProperties": False}
        self.spec = api.ActionSpec(
            self.verb,
            f"Would {self.verb} a node.",
            plans.Reentry.IDEMPOTENT,
            is_reversible=True,
            is_destructive=False,
            parameters=none,
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Say that `eject` takes the node out of service."""
        del params
        return plans.BlastRadius((scope.node,), (scope.node,) if self.verb == "eject" else ())

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Return the one difference there is."""
        del params
        return (plans.Change(f"{scope.service}/{scope.node}", self.verb, before=False, after=True),)

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Do it."""
        del params
        node = context.scope.node
        if self.verb == "eject":
            self.fleet.take_out(node)
        if self.verb == "restore":
            self.fleet.give_back(node)
        if self.verb != "eject":
            self.fleet.heal(node)
        return api.ActionResult(f"{self.verb}: done")

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Say that nothing is known: no process dies here."""
        del params, context
        return api.CannotTell("nobody looks")

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Take a node back that was ejected."""
        del params, result
        self.fleet.give_back(context.scope.node)
        return api.ActionResult("undone")


@dataclass(frozen=True, slots=True)
class Patient:
    """A verifier that watches for as long as a real one would have to, and then is content."""

    clock: ports.Clock
    seconds: float

    async def judge(self, plan: plans.Plan, acted_at: datetime, began_at: datetime) -> outcomes.Verification:
        """Say `recovered` once enough time has passed since the action."""
        del plan, began_at
        left = acted_at + timedelta(seconds=self.seconds) - self.clock.now()
        if left > timedelta():
            return outcomes.Watching("watching", max(1.0, left.total_seconds()))
        return outcomes.Judged(outcomes.Verdict.RECOVERED, "recovered", has_control=False)


@dataclass
class Quiet:
    """Everybody whom the loop asks or tells, and who has nothing to say: silences, people, gateways."""

    clock: ports.Clock
    told: list[str] = field(default_factory=list[str])

    async def current(self) -> alerting.Silences:
        """Return that nothing is silenced, as of now."""
        return alerting.Silences(self.clock.now())

    async def escalate(self, incident_id: str, service: str, node: str, to: str, sentence: str) -> None:
        """Remember what people would have been told."""
        del incident_id, service, node, to
        self.told.append(sentence)

    async def run(self, name: str, work: Callable[[], ports.Result]) -> ports.Result:
        """Do work at once: there are no detectors here."""
        del name
        return work()
