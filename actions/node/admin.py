"""The admin API of a node, typed: the calls that actions make, and the parts of its answers they read.

Called by the actions. Errors are those of `client`. Concurrency: async, stateless.
"""

from collections.abc import Mapping
from typing import TypeVar

import pydantic

from actions.node import client, directory
from controlplane.domain import errors, outcomes

STATE = "/admin/v1/state"
OPERATIONS = "/admin/v1/operations"


class _Answer(pydantic.BaseModel):
    # A newer node may say more than this version reads.
    model_config = pydantic.ConfigDict(extra="ignore", strict=True, frozen=True)


class Batch(_Answer):
    """How requests are batched."""

    max_size: int
    max_wait_seconds: float


class Degradation(_Answer):
    """How far answers are cut; level 0 is full service."""

    level: int
    max_tokens: int | None


class Lease(_Answer):
    """An override that ends by itself; `previous` is the value that returns then."""

    kind: str
    expires_in_seconds: float
    previous: pydantic.JsonValue = None


class Tier(_Answer):
    """One tier of the response cache; `generation` counts its flushes since the node started."""

    entries: int
    generation: int


class Cache(_Answer):
    """The response cache of a node."""

    l1: Tier


class Model(_Answer):
    """What the node serves."""

    name: str
    version: str


class NodeState(_Answer):
    """What actions read of a node's state."""

    boot_id: str
    model: Model
    is_draining: bool
    running: int
    waiting: int
    batch: Batch
    degradation: Degradation
    cache: Cache
    leases: list[Lease]

    def lease(self, kind: str) -> Lease | None:
        """Return the lease of a kind, when one is held."""
        return next((lease for lease in self.leases if lease.kind == kind), None)


class Flushed(_Answer):
    """The answer to a flush."""

    flushed: int
    generation: int
    boot_id: str


class Warmed(_Answer):
    """The answer to warming."""

    warmed: int
    failed: int


class Operation(_Answer):
    """An operation that a process remembers: it took effect, and this is what it answered."""

    key: str
    operation: str
    result: dict[str, pydantic.JsonValue]
    boot_id: str


_Model = TypeVar("_Model", bound=pydantic.BaseModel)


def read_as(model: type[_Model], answer: Mapping[str, outcomes.Json], target: str) -> _Model:
    """Return a reading as a typed value; raises GiveUpError when the other side speaks another contract."""
    try:
        return model.model_validate(answer)
    except pydantic.ValidationError as error:
        raise errors.GiveUpError(f"{target} gave no {model.__name__}: {_first(error)}; compare versions") from error


def changed_as(model: type[_Model], answer: Mapping[str, outcomes.Json], target: str) -> _Model:
    """Return the answer to a change; raises OutcomeUnknownError, for something was done that we cannot read."""
    try:
        return model.model_validate(answer)
    except pydantic.ValidationError as error:
        raise errors.OutcomeUnknownError(f"{target} did it but gave no {model.__name__}: {_first(error)}") from error


def _first(error: pydantic.ValidationError) -> str:
    complaint = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in complaint['loc'])}: {complaint['msg']}"


class NodeAdmin:
    """Calls nodes by service and name."""

    def __init__(self, http: client.AdminClient, where: directory.NodeDirectory) -> None:
        self._http = http
        self._where = where

    async def state(self, service: str, node: str) -> NodeState:
        """Read the state of a node."""
        target = f"{service}/{node}"
        return read_as(NodeState, await self._http.read(self._url(service, node), STATE, target=target), target)

    async def operation(self, service: str, node: str, key: str) -> Operation | None:
        """Return what the node remembers under a key, None when it remembers nothing."""
        return await operation(self._http, self._url(service, node), key, target=f"{service}/{node}")

    async def change(
        self,
        service: str,
        node: str,
        method: str,
        path: str,
        *,
        body: Mapping[str, outcomes.Json] | None = None,
        key: str,
        timeout_seconds: float,
    ) -> Mapping[str, outcomes.Json]:
        """Send one change to a node."""
        return await self._http.change(
            method,
            self._url(service, node),
            path,
            target=f"{service}/{node}",
            body=body,
            key=key,
            timeout_seconds=timeout_seconds,
        )

    def _url(self, service: str, node: str) -> str:
        return self._where.node_url(service, node)


async def operation(http: client.AdminClient, url: str, key: str, *, target: str) -> Operation | None:
    """Return what a process remembers under a key, None when it remembers nothing."""
    try:
        answer = await http.read(url, f"{OPERATIONS}/{client.segment(key)}", target=target)
    except errors.NotFoundError:
        return None
    return read_as(Operation, answer, target)
