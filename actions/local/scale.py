"""Action `scale`: a stated number of nodes of a local fleet runs. Spares are started, or nodes are drained and stopped."""

from collections.abc import Sequence
from typing import Annotated

import pydantic

from actions import api, clients, fanout, params
from actions.local import arrival, departure, fleet, placement, work
from controlplane.domain import errors, outcomes, plans

# Loading a model is heavy on disks and processors; so many at once is still faster than one after the other.
DEFAULT_STARTING = 4


class Params(params.Params):
    """How many nodes shall run, and how they come and go."""

    replicas: Annotated[int, pydantic.Field(ge=0, description="How many nodes of the service shall run.")]
    drain_seconds: Annotated[
        float, pydantic.Field(ge=0, le=3600, description="How long the requests of a leaving node may take to end.")
    ] = 30.0
    max_starting: Annotated[
        int, pydantic.Field(ge=1, le=64, description="How many nodes may be starting at the same time.")
    ] = DEFAULT_STARTING
    may_lose_requests: Annotated[
        bool, pydantic.Field(description="Stop a leaving node also when its requests have not ended in time.")
    ] = False


class Scale:
    """Absolute: sent twice nothing doubles, and what a crash cut off is completed by sending it again."""

    def __init__(self, targets: clients.Clients) -> None:
        self._targets = targets

    @property
    def spec(self) -> api.ActionSpec:
        """What the action declares."""
        return api.ActionSpec(
            name="scale",
            summary="Have a stated number of a service's nodes run, shrinking only after draining",
            reentry=plans.Reentry.IDEMPOTENT,
            is_reversible=True,
            is_destructive=False,
            parameters=params.schema(Params),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return the nodes that leave, as unavailable: the guard adds them to those that are out for other reasons.

        It is meant that they are gone; that so many at once are, and fewer than the pools need, is not. Nothing is
        destroyed while their requests are let to end. Growing touches nobody.
        """
        what = _parse(params)
        leaving = (await self._difference(self._fleet(scope), scope.service, what.replicas)).leaving
        return plans.BlastRadius(leaving, leaving, is_destructive=bool(leaving) and what.may_lose_requests)

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Read which nodes would be started or stopped; raises GiveUpError when fewer are defined than asked for."""
        what, local, service = _parse(params), self._fleet(scope), scope.service
        found = await self._difference(local, service, what.replicas)
        stopped = "none" if what.may_lose_requests else "none, once its requests have ended"
        return (
            plans.Change(service, "nodes", found.running, what.replicas),
            *(
                plans.Change(f"{service}/{name}", "process", str(local.status(name)), "a new one")
                for name in found.starting
            ),
            *(plans.Change(f"{service}/{name}", "process", str(local.status(name)), stopped) for name in found.leaving),
        )

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Start what is missing and wait until it is ready, or drain and stop what is too much.

        Raises GiveUpError or PartlyDoneError when nodes do not become ready (those are stopped again and named with the
        end of their logs, the others stay), RetryLaterError when every leaving node is busy and was put back,
        OutcomeUnknownError when sending it again can complete it.
        """
        what, job = _parse(params), self._job(context)
        arrived = arrival.Arrival(job, max_starting=what.max_starting)
        missing = placement.difference(_seen(job.local.members(), None), what.replicas)
        await arrived.bring(missing.candidates, missing.wanted)
        try:
            departed = await self._depart(job, what, await self._leaving(job, what))
            await self._introduce(job, what)
        except (errors.RetryLaterError, errors.GiveUpError) as error:
            raise _after(job, error) from error
        job.local.tell_prometheus()
        return _result(job, what, arrived, departed)

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Look whether as many nodes as asked for run, are ready, and are known to the gateway."""
        what, job = _parse(params), self._job(context)
        found = await self._difference(job.local, job.service, what.replicas)
        if found.wanted or found.leaving:
            return api.NotApplied(f"{found.running} nodes of {job.service} run, not {what.replicas}")
        known = await work.rotation(self._targets, job.service)
        for one in job.local.members():
            if one.is_running and not await self._targets.data.is_ready(job.local.url(one.name)):
                return api.NotApplied(f"{one.name} is not ready; sending again only waits")
            if one.is_running and known is not None and one.name not in known:
                return api.NotApplied(f"the gateway does not know {one.name}; sending again registers it")
        return api.Applied(_result(job, what, arrival.Arrival(job, max_starting=what.max_starting), {}))

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Stop what was started, after draining, and start what was stopped; what others did since is left alone."""
        what, job = _parse(params), self._job(context)
        members = job.local.members()
        back = [one.name for one in members if one.name in _names(result, "stopped") and not one.is_running]
        out = [one.name for one in members if one.name in _names(result, "started") and one.is_started]
        if not back and not out:
            return api.ActionResult(f"{job.service} runs what it ran before; nothing to undo")
        await arrival.Arrival(job, max_starting=what.max_starting).bring(back, len(back))
        await self._depart(job, what, out)
        job.local.tell_prometheus()
        told = [*(f"{name} runs again" for name in back), *(f"{name} was stopped" for name in out)]
        return api.ActionResult(", ".join(told))

    async def _leaving(self, job: work.Work, what: Params) -> tuple[str, ...]:
        return (await self._difference(job.local, job.service, what.replicas)).leaving

    async def _introduce(self, job: work.Work, what: Params) -> None:
        """Have the gateway know the nodes that run, those of an earlier try that was cut off too, and no others."""
        known = await work.rotation(self._targets, job.service)
        if known is None:
            return
        members = job.local.members()
        strange = [one.name for one in members if one.is_running and not _is_listed(known, one.name)]
        await arrival.Arrival(job, max_starting=what.max_starting).bring(strange, len(strange))
        for one in members:
            if not one.is_started and one.name in known:
                await departure.forget(job, one.name)

    async def _depart(self, job: work.Work, what: Params, leaving: Sequence[str]) -> dict[str, departure.Departed]:
        deadline = min(self._targets.clock.monotonic() + what.drain_seconds, job.patient_until)

        async def leave(name: str) -> departure.Departed:
            one = departure.Departure(job, name, deadline=deadline, may_lose_requests=what.may_lose_requests)
            return await one.run()

        return dict(await fanout.change(leaving, leave))

    async def _difference(self, local: fleet.LocalFleet, service: str, replicas: int) -> placement.Difference:
        """Compare; the gateway is asked only where nodes leave: one that is overwhelmed must not keep others from coming."""
        members = local.members()
        found = placement.difference(_seen(members, None), replicas)
        if not found.leaving:
            return found
        return placement.difference(_seen(members, await work.rotation(self._targets, service)), replicas)

    def _job(self, context: api.ActionContext) -> work.Work:
        return work.Work(self._targets, self._fleet(context.scope), context, self._targets.clock.monotonic())

    def _fleet(self, scope: api.Scope) -> fleet.LocalFleet:
        if scope.node:
            raise errors.InvalidInputError("scale works on a whole service; leave the node out", place="node")
        found = self._targets.fleets.get(scope.service)
        if found is None:
            raise errors.GiveUpError(
                f"dsctl does not start the nodes of {scope.service} and cannot scale it; "
                f"set local_fleets.{scope.service}.folder, or scale it where it is run"
            )
        return found


def _seen(members: Sequence[fleet.Member], known: work.Rotation | None) -> list[placement.Seen]:
    return [placement.Seen(one.name, one.is_started, one.is_running, _is_served(known, one.name)) for one in members]


def _is_served(known: work.Rotation | None, name: str) -> bool:
    """Say whether the gateway sends the node requests; without a gateway nobody keeps it from them."""
    if known is None:
        return True
    return name in known and known[name].state == work.IN_SERVICE


def _is_listed(known: work.Rotation, name: str) -> bool:
    """Say whether the gateway keeps the node, be it ejected; one that it is about to forget is not listed any more."""
    return name in known and known[name].state in {work.IN_SERVICE, work.EJECTED}


def _done(job: work.Work) -> tuple[list[str], list[str]]:
    """Return the nodes that this step started, and those that it stopped, whichever try it was."""
    members = job.local.members()
    return (
        [one.name for one in members if one.is_started and one.has(job.start_key)],
        [one.name for one in members if not one.is_started and one.has(job.stop_key)],
    )


def _after(job: work.Work, error: errors.RetryLaterError | errors.GiveUpError) -> errors.DsctlError:
    """Return what an error means at this point: once nodes came or left, something has happened."""
    if not any(_done(job)):
        return error
    said = f"nodes have come or gone, and the rest is open: {error}"
    if isinstance(error, errors.RetryLaterError):
        return errors.OutcomeUnknownError(said)
    return errors.PartlyDoneError(said)


def _result(
    job: work.Work, what: Params, arrived: arrival.Arrival, departed: dict[str, departure.Departed]
) -> api.ActionResult:
    """Say what was done; `started` and `stopped` also name what earlier tries of the step did."""
    started, stopped = _done(job)
    ended, lost = sum(one.ended for one in departed.values()), sum(one.lost for one in departed.values())
    data: dict[str, outcomes.Json] = {
        "replicas": what.replicas,
        "started": [*started],
        "stopped": [*stopped],
        "ready_after_seconds": {**arrived.ready_after},
        "requests_ended": ended,
        "requests_lost": lost,
    }
    said = [f"{job.service} runs {what.replicas} nodes"]
    said += [f"{name} was ready after {seconds:.1f} s" for name, seconds in arrived.ready_after.items()]
    if stopped:
        said.append(f"{', '.join(stopped)} left, {ended} requests ended before and {lost} were lost")
    said += [arrived.replaced()] if arrived.replaced() else []
    return api.ActionResult("; ".join(said), data)


def _names(result: api.ActionResult, group: str) -> list[outcomes.Json]:
    found = result.data.get(group)
    return found if isinstance(found, list) else []


def _parse(given: api.Params) -> Params:
    return params.parse(Params, given)
