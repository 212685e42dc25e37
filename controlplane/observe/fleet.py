"""What scrape targets tell about trust: which exist, which are down, which were not scraped for too long.

Called by the reader. Pure values in and out; knows neither Prometheus's API nor the clock.

The rule, for one reading and the targets behind it:

1. A target whose last scrape is older than the signal's `fresh_seconds` makes the reading unknown, whatever `up`
   said then: nobody knows what happened since.
2. A target that is freshly known to be down counts for nothing: it is left out, and it is visible as down. Only
   when every target is down the reading is unknown.
3. Everything else that lacks a finite number makes the reading unknown, because a sum, a mean or a maximum over
   the rest would look healthier than the fleet is.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from controlplane import promql
from controlplane.domain import errors, services
from controlplane.domain import signals as sig
from controlplane.observe import prometheus

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """One scrape target: what `up` said, when it was scraped (Unix seconds), how long ago that was."""

    labels: Labels
    is_up: bool
    scraped_at: float
    age_seconds: float

    @property
    def job(self) -> str:
        """The scrape job."""
        return self.labels.get("job", "")

    @property
    def address(self) -> str:
        """host:port as Prometheus scrapes it."""
        return self.labels.get("instance", "")

    @property
    def at(self) -> datetime:
        """The instant of the last scrape, UTC."""
        return datetime.fromtimestamp(self.scraped_at, tz=UTC)


@dataclass(frozen=True, slots=True)
class Group:
    """Services whose selectors use the same labels: one query finds the targets or series of all of them."""

    names: tuple[str, ...]
    members: tuple[services.Service, ...]

    @property
    def matchers(self) -> str:
        """The matchers that keep every service of the group (and perhaps strangers, which `owner` sorts out)."""
        return ",".join(promql.matcher(n, [s.selector[n] for s in self.members]) for n in self.names)

    def owners(self) -> Mapping[tuple[str, ...], services.Service]:
        """Return the services by the values of their labels, in the order of `names`."""
        return {tuple(one.selector[n] for n in self.names): one for one in self.members}

    def key(self, labels: Labels) -> tuple[str, ...]:
        """Return the values that `owners` is indexed by."""
        return tuple(labels.get(name, "") for name in self.names)


def group(managed: Iterable[services.Service]) -> tuple[Group, ...]:
    """Group services by the labels their selectors use; mostly there is one group."""
    found: dict[tuple[str, ...], list[services.Service]] = {}
    for one in managed:
        found.setdefault(tuple(sorted(one.selector)), []).append(one)
    return tuple(Group(names, tuple(members)) for names, members in found.items())


def targets(up: Sequence[prometheus.Sample], scraped: Sequence[prometheus.Sample]) -> list[Target]:
    """Join the answers to `up` and `timestamp(up)`. Ages use the store's own clock, so that ours may differ."""
    times = {frozenset(sample.labels.items()): sample for sample in scraped}
    found: list[Target] = []
    for sample in up:
        time = times.get(frozenset(sample.labels.items()))
        if time is not None and math.isfinite(time.value):
            found.append(Target(sample.labels, sample.value == 1.0, time.value, time.at - time.value))
    return found


@dataclass(frozen=True, slots=True)
class Nodes:
    """The targets of one service: its nodes by name, and what else is scraped for it.

    `others` are by job and node, None for a target that names no node, as a gateway: of a fleet of thousands every
    node is looked up once per signal.
    """

    service: services.Service
    nodes: Mapping[str, Target]
    others: Mapping[tuple[str, str | None], Sequence[Target]]

    def behind(self, source: str, node: str | None) -> Sequence[Target]:
        """Return the targets a number comes from: the nodes (`source` empty), or those of a job.

        For one node of a job whose targets carry the node's label, only that node's; a gateway's targets carry
        none, so all of them stand behind what it tells about any node.
        """
        if not source:
            return list(self.nodes.values()) if node is None else [self.nodes[node]]
        if node is None:
            return [target for (job, _), found in self.others.items() if job == source for target in found]
        return [*self.others.get((source, node), ()), *self.others.get((source, None), ())]


def sort(service: services.Service, queries: promql.EngineQueries, found: Iterable[Target]) -> Nodes:
    """Tell a service's nodes from its gateways and exporters."""
    nodes: dict[str, Target] = {}
    others: dict[tuple[str, str | None], list[Target]] = {}
    for target in found:
        name = target.labels.get(queries.node_label, "")
        if target.job in queries.other_jobs:
            others.setdefault((target.job, target.labels.get(queries.node_label)), []).append(target)
        elif name and queries.job in {"", target.job}:
            known = nodes.get(name)
            # A node that moved to another address is two targets for a while: the newest scrape is the node.
            if known is None or (target.scraped_at, target.is_up) > (known.scraped_at, known.is_up):
                nodes[name] = target
    return Nodes(service, nodes, others)


def is_up(target: Target, fresh_seconds: float) -> sig.Reading:
    """Return 1 or 0, or unknown when the last scrape is too old to tell."""
    if target.age_seconds > fresh_seconds:
        return _stale(target)
    return sig.Value(1.0 if target.is_up else 0.0, target.at)


def is_trusted(behind: Sequence[Target], fresh_seconds: float) -> bool:
    """Say whether a finite number from these targets would be a value. See the module's rule."""
    is_fresh = all(target.age_seconds <= fresh_seconds for target in behind)
    return is_fresh and any(target.is_up for target in behind)


def judge(value: float | None, behind: Sequence[Target], fresh_seconds: float) -> sig.Reading:
    """Return what a number is worth, given the targets it comes from (None: no series). See the module's rule."""
    if not behind:
        return sig.Unknown(sig.UnknownReason.NO_SERIES, "no such target is scraped")
    stale = [target for target in behind if target.age_seconds > fresh_seconds]
    if stale:
        return _stale(max(stale, key=lambda target: target.age_seconds))
    serving = [target for target in behind if target.is_up]
    if not serving:
        return sig.Unknown(sig.UnknownReason.TARGET_DOWN, ", ".join(sorted(t.address for t in behind)[:3]))
    if value is None:
        return sig.Unknown(sig.UnknownReason.NO_SERIES)
    if not math.isfinite(value):
        return sig.Unknown(sig.UnknownReason.NOT_FINITE, "nothing was counted" if math.isnan(value) else "infinite")
    return sig.Value(value, min(serving, key=lambda target: target.scraped_at).at)


def combine(how: sig.Combine, readings: Mapping[str, sig.Reading]) -> sig.Reading:
    """Add up the readings of nodes by the module's rule; nodes that are down count for nothing."""
    values: list[sig.Value] = []
    for node, reading in sorted(readings.items()):
        if isinstance(reading, sig.Value):
            values.append(reading)
        elif reading.reason is not sig.UnknownReason.TARGET_DOWN:
            return sig.Unknown(reading.reason, f"node {node}" + (f": {reading.detail}" if reading.detail else ""))
    if not readings:
        return sig.Unknown(sig.UnknownReason.NO_SERIES, "no nodes")
    if not values:
        return sig.Unknown(sig.UnknownReason.TARGET_DOWN, "every node")
    return sig.Value(add_up(how, [v.value for v in values]), min(v.at for v in values))


def add_up(how: sig.Combine, values: Sequence[float]) -> float:
    """Combine plain numbers, at least one."""
    match how:
        case sig.Combine.SUM:
            return math.fsum(values)
        case sig.Combine.MEAN:
            return math.fsum(values) / len(values)
        case sig.Combine.MAX:
            return max(values)
        case sig.Combine.MIN:
            return min(values)
        case sig.Combine.NONE:
            raise errors.InvariantBrokenError("quantiles and ratios of nodes do not add up; query them per service")


def _stale(target: Target) -> sig.Unknown:
    return sig.Unknown(sig.UnknownReason.STALE, f"{target.address}: {target.age_seconds:.0f} s old")
