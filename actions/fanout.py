"""The same call to several nodes at once, with every node's outcome kept apart.

Called by the actions that work on a whole service. Concurrency: async; at most MAX_AT_ONCE calls are on their way,
so that one hanging node delays nobody else and a large fleet does not open a thousand connections.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from controlplane.domain import errors

MAX_AT_ONCE = 16

_T = TypeVar("_T")


async def outcomes(
    nodes: Sequence[str], call: Callable[[str], Awaitable[_T]]
) -> tuple[Mapping[str, _T], Mapping[str, errors.DsctlError]]:
    """Call every node; return the answers and the refusals, both by node in the order given."""
    gate = asyncio.Semaphore(MAX_AT_ONCE)

    async def ask(node: str) -> _T | errors.DsctlError:
        async with gate:
            try:
                return await call(node)
            except errors.DsctlError as error:
                return error

    async with asyncio.TaskGroup() as group:
        tasks = {node: group.create_task(ask(node), name=f"fanout:{node}") for node in nodes}
    answers: dict[str, _T] = {}
    refusals: dict[str, errors.DsctlError] = {}
    for node, task in tasks.items():
        outcome = task.result()
        if isinstance(outcome, errors.DsctlError):
            refusals[node] = outcome
        else:
            answers[node] = outcome
    return answers, refusals


async def read(nodes: Sequence[str], call: Callable[[str], Awaitable[_T]]) -> Mapping[str, _T]:
    """Read every node; raises the first node's error, since a reading with holes decides nothing."""
    answers, refusals = await outcomes(nodes, call)
    for error in refusals.values():
        raise error
    return answers


async def change(nodes: Sequence[str], call: Callable[[str], Awaitable[_T]]) -> Mapping[str, _T]:
    """Change every node; raises one error that says what is known about the whole.

    RetryLaterError only when certainly no node was changed. When some were, or may have been, the outcome of the
    whole is unknown: a probe finds the rest, and the same keys make sending again harmless. A refusal is final when
    every other node is known: PartlyDoneError where some node was changed, GiveUpError where none was.
    """
    answers, refusals = await outcomes(nodes, call)
    if not refusals:
        return answers
    said = "; ".join(str(error) for error in refusals.values())
    if answers:
        said = f"done on {', '.join(answers)}, not on all: {said}"
    kinds = [type(error) for error in refusals.values()]
    if any(issubclass(kind, errors.OutcomeUnknownError) for kind in kinds):
        raise errors.OutcomeUnknownError(said)
    if any(issubclass(kind, errors.GiveUpError) for kind in kinds):
        raise errors.PartlyDoneError(said) if answers else errors.GiveUpError(said)
    if answers:
        raise errors.OutcomeUnknownError(said)
    delays = [error.delay_seconds for error in refusals.values() if isinstance(error, errors.RetryLaterError)]
    raise errors.RetryLaterError(said, delay_seconds=max(delays, default=1.0))
