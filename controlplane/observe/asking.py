"""Turns services and profiles into the queries of a whole fleet: one per signal, scope and profile, never per node.

Called by the reader and `coverage`. Pure: it writes queries and sorts their answers; the reader sends them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from controlplane import promql
from controlplane.domain import services
from controlplane.domain import signals as sig
from controlplane.observe import catalogue as cat
from controlplane.observe import fleet, profiles

# The name of a thing measured: a node, or the whole service when the node is empty.
Place = tuple[str, str]  # service, node

_Thing = TypeVar("_Thing")


@dataclass(frozen=True, slots=True)
class Question:
    """One query: a signal at one scope, for every service of a group that shares the profile."""

    signal: sig.Signal
    scope: sig.Scope
    query: str
    group: fleet.Group
    queries: promql.EngineQueries

    @property
    def source(self) -> str:
        """The scrape job the numbers come from; empty for the nodes."""
        return self.queries.signals[self.signal.name].source


def questions(
    managed: Iterable[services.Service],
    known: Mapping[str, profiles.Profile],
    catalogue: cat.Catalogue,
    *,
    window: str,
    only: Sequence[str] | None = None,
) -> list[Question]:
    """Return every query the services need; `only` narrows to some signals."""
    by_profile: dict[str, list[services.Service]] = {}
    for one in managed:
        by_profile.setdefault(one.profile, []).append(one)
    return [
        question
        for name, members in by_profile.items()
        for group in fleet.group(members)
        for question in _of_group(group, known[name].queries, catalogue, window, only)
    ]


def _of_group(
    group: fleet.Group,
    queries: promql.EngineQueries,
    catalogue: cat.Catalogue,
    window: str,
    only: Sequence[str] | None,
) -> Iterator[Question]:
    by = {sig.Scope.NODE: (*group.names, queries.node_label), sig.Scope.SERVICE: group.names}
    for name, asked in queries.signals.items():
        if only is not None and name not in only:
            continue
        for scope, template in ((sig.Scope.NODE, asked.node), (sig.Scope.SERVICE, asked.service)):
            if template is not None:
                # A node label that the selector uses too must not be listed twice.
                labels = tuple(dict.fromkeys(by[scope]))
                text = template.render(selector=group.matchers, by=labels, window=window)
                yield Question(catalogue[name], scope, text, group, queries)


def placed(
    question: Question, answer: Iterable[tuple[fleet.Labels, _Thing]], nodes: Mapping[str, fleet.Nodes]
) -> Iterator[tuple[Place, _Thing]]:
    """Say what each series of an answer measures; strangers that the matchers let through are dropped."""
    owners = question.group.owners()
    for labels, thing in answer:
        owner = owners.get(question.group.key(labels))
        if question.scope is sig.Scope.SERVICE:
            if owner is not None:
                yield (owner.name, ""), thing
            continue
        node = labels.get(question.queries.node_label, "")
        owner = owner or _by_node(question.group, node, nodes)
        if owner is not None and node in nodes[owner.name].nodes:
            yield (owner.name, node), thing


def _by_node(group: fleet.Group, node: str, nodes: Mapping[str, fleet.Nodes]) -> services.Service | None:
    """Find the service of a series that carries only its node's label, as `sum by (instance) (...)` gives."""
    found = [one for one in group.members if node and node in nodes[one.name].nodes]
    return found[0] if len(found) == 1 else None
