"""One try of one call to the outside: with a deadline, and with every way it can end sorted.

Used by `acting` and `undoing`. Async.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from actions import api as actions
from controlplane.domain import errors, plans
from controlplane.runs import moves

T = TypeVar("T")


async def attempt(call: Awaitable[actions.ActionResult], *, timeout_seconds: float) -> moves.Outcome:
    """Await an effect and say whether it is done, done in part, certainly not done, or in doubt.

    Only what an action declares by its errors counts as "not done": a timeout, or an error nobody foresaw, may have
    come after the effect.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            return moves.Done(await call)
    except TimeoutError:
        return moves.InDoubt(f"no answer within {timeout_seconds:g} s; it may have happened")
    except errors.RetryLaterError as error:
        return moves.NotDone(str(error), error.delay_seconds)
    except errors.GiveUpError as error:
        is_partly_done = isinstance(error, errors.PartlyDoneError)
        return moves.PartlyDone(str(error)) if is_partly_done else moves.NotDone(str(error), None)
    except errors.LostLeaseError:
        raise
    except errors.DsctlError as error:
        return moves.InDoubt(str(error))
    except Exception as error:  # noqa: BLE001 - an action's bug must not decide that nothing happened
        return moves.InDoubt(f"the action broke with {type(error).__name__}: {error}")


async def bounded(call: Awaitable[T], *, timeout_seconds: float) -> T:
    """Await `call` for at most `timeout_seconds`; raises TimeoutError."""
    async with asyncio.timeout(timeout_seconds):
        return await call


async def look(call: Awaitable[actions.Probed], *, timeout_seconds: float) -> actions.Probed:
    """Await a probe; whatever goes wrong while looking means that it cannot tell."""
    try:
        async with asyncio.timeout(timeout_seconds):
            return await call
    except TimeoutError:
        return actions.CannotTell(f"looking gave no answer within {timeout_seconds:g} s")
    except Exception as error:  # noqa: BLE001 - see above: a probe that broke has not told
        return actions.CannotTell(f"looking failed with {type(error).__name__}: {error}")


def make_context(claim: moves.Claim, step: plans.PlannedStep, key: str) -> actions.ActionContext:
    """Return what an action is told about the try at the cursor."""
    return actions.ActionContext(
        run_id=claim.run_id,
        step=step.name,
        attempt=claim.cursor.attempt,
        idempotency_key=key,
        token=claim.token,
        timeout_seconds=step.timeout_seconds,
        scope=actions.Scope(claim.plan.request.service, claim.plan.request.node),
    )
