"""A node on its way out: out of rotation, drained, and stopped once nothing is left on it.

Called by `scale`. The gateway is told first, and the node only when the gateway has nothing outstanding there: a request
on its way must not meet a node that refuses it. What is done on the way are leases, so that a node whose control plane
dies in between serves again by itself. Without leave to lose requests a busy node is put back, never stopped.
Concurrency: async; one object for one node in one try of a step.
"""

from dataclasses import dataclass

from actions import params
from actions.local import work
from actions.node import drain
from controlplane.domain import errors

_POLL_SECONDS = 0.25
# Beyond the step's own time: so long the next owner of a run that died may take to find it and go on.
_LEASE_MARGIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Departed:
    """A node that was stopped: how many requests ended on it before, and how many were cut off."""

    ended: int
    lost: int


@dataclass(frozen=True, slots=True)
class _Left:
    """What is outstanding at the gateway for the node, and on the node itself; None where nobody can tell."""

    at_gateway: int | None
    at_node: int | None

    @property
    def is_nothing(self) -> bool:
        return self.at_gateway == 0 and self.at_node == 0

    @property
    def num_requests(self) -> int:
        return max(self.at_gateway or 0, self.at_node or 0)

    def __str__(self) -> str:
        if self.num_requests:
            return f"{self.num_requests} of its requests have not ended in time"
        return "whether requests are left on it cannot be seen"


class Departure:
    """Takes one node out by `deadline`; with `may_lose_requests` it is stopped then, whatever is left on it."""

    def __init__(self, job: work.Work, name: str, *, deadline: float, may_lose_requests: bool) -> None:
        self._job = job
        self._name = name
        self._deadline = deadline
        self._may_lose_requests = may_lose_requests
        self._has_gateway = True
        self._is_ejected_here = False
        self._is_drained_here = False
        self._is_drained = False
        self._most = 0

    async def run(self) -> Departed:
        """Take it out and stop it; raises RetryLaterError when it was put back because requests did not end in time."""
        left = _Left(0, 0)
        if self._is_running:
            await self._take_out()
            left = await self._until_idle()
            if self._is_running and not self._may_stop(left):
                raise errors.RetryLaterError(f"{self._name} was not stopped: {left}; {await self._put_back()}")
        await self._job.local.stop(self._name, self._job.stop_key)
        await forget(self._job, self._name)
        return Departed(self._most - left.num_requests, left.num_requests)

    @property
    def _is_running(self) -> bool:
        return self._job.local.status(self._name).is_running

    def _may_stop(self, left: _Left) -> bool:
        """Say whether it may be stopped now. Of a node that does not answer, its gateway alone knows what is left."""
        if left.is_nothing or self._may_lose_requests:
            return True
        return self._has_gateway and left.at_gateway == 0 and left.at_node is None

    async def _take_out(self) -> None:
        """Have the gateway send it nothing new; an ejection of somebody else is good enough, and is left alone."""
        known = await work.rotation(self._job.targets, self._job.service)
        self._has_gateway = known is not None
        at = None if known is None else known.get(self._name)
        if at is None:
            return
        self._most = at.outstanding
        # An earlier try of this run that was cut off has ejected it, and may have drained it.
        self._is_ejected_here = at.eject_reason.startswith(f"{self._job.context.run_id} ")
        self._is_drained_here = self._is_ejected_here
        if at.state != work.IN_SERVICE:
            return
        done = await self._job.targets.gateways.change_node(
            self._job.service,
            self._name,
            "eject",
            body={"ttl_seconds": self._ttl, "reason": f"{self._job.context.run_id} step {self._job.context.step}"},
            key=self._job.key(f"eject:{self._name}"),
            timeout_seconds=work.CALL_SECONDS,
        )
        self._is_ejected_here = True
        self._most = done.node.outstanding

    @property
    def _ttl(self) -> float:
        return min(params.MAX_TTL_SECONDS, self._job.context.timeout_seconds + _LEASE_MARGIN_SECONDS)

    async def _until_idle(self) -> _Left:
        """Wait until nothing is left, at most until the deadline; a node whose process ends is waited for no longer."""
        clock = self._job.targets.clock
        while True:
            # First the time that a request needs which the gateway had just chosen this node for.
            await clock.sleep(_POLL_SECONDS)
            at_gateway = await self._at_gateway()
            left = _Left(at_gateway, await self._at_node(may_drain=at_gateway == 0))
            self._most = max(self._most, left.num_requests)
            if left.is_nothing or not self._is_running or clock.monotonic() >= self._deadline:
                return left

    async def _at_gateway(self) -> int | None:
        try:
            known = await work.rotation(self._job.targets, self._job.service)
        except errors.DsctlError:
            return None
        at = None if known is None else known.get(self._name)
        return 0 if at is None else at.outstanding

    async def _at_node(self, *, may_drain: bool) -> int | None:
        """Return what runs and waits on the node; it counts only once the node takes nothing new."""
        try:
            if may_drain and not self._is_drained:
                await self._drain()
            state = await self._job.targets.nodes.state(self._job.service, self._name)
        except errors.DsctlError:
            return None
        return state.running + state.waiting

    async def _drain(self) -> None:
        """Stop admission on the node, for those who call it past the gateway."""
        if not (await self._job.targets.nodes.state(self._job.service, self._name)).is_draining:
            await self._change(drain.DRAIN, {"ttl_seconds": self._ttl})
            self._is_drained_here = True
        self._is_drained = True

    async def _put_back(self) -> str:
        """Undo what was done on the way, and say how that went."""
        try:
            if self._is_drained_here:
                await self._change(drain.UNDRAIN, None)
            if self._is_ejected_here:
                await self._job.targets.gateways.change_node(
                    self._job.service,
                    self._name,
                    "return",
                    body=None,
                    key=self._job.key(f"return:{self._name}"),
                    timeout_seconds=work.CALL_SECONDS,
                )
        except errors.DsctlError as error:
            return f"it serves again in {self._ttl:.0f} s at the latest, for it could not be put back: {error}"
        return "it serves again"

    async def _change(self, path: str, body: dict[str, float] | None) -> None:
        await self._job.targets.nodes.change(
            self._job.service,
            self._name,
            "POST",
            path,
            body=body,
            key=self._job.key(f"{path.rpartition('/')[2]}:{self._name}"),
            timeout_seconds=work.CALL_SECONDS,
        )


async def forget(job: work.Work, name: str) -> None:
    """Have the gateway forget a node that was stopped; raises OutcomeUnknownError when it does not answer."""
    try:
        await job.targets.gateways.remove(
            job.service, name, key=job.key(f"remove:{name}"), timeout_seconds=work.CALL_SECONDS
        )
    except errors.NotFoundError:
        return  # it is forgotten already, or there is no gateway
    except errors.RetryLaterError as error:
        raise errors.OutcomeUnknownError(f"{name} is stopped and its gateway still names it: {error}") from error
