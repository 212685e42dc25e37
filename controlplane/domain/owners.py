"""Who else has a say over a target: a controller that owns it, or a person who holds it. Pure values.

The hook `ports.Owners` says who; the guard's gate `ownership` says what follows.
"""

from dataclasses import dataclass
from enum import StrEnum

from controlplane.domain import runs


class Kind(StrEnum):
    """What kind of owner it is: two controllers would fight, a person can change a mind."""

    CONTROLLER = "controller"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim on something that a plan would change. `what` is owned or held, `how` says by what, in a few words."""

    kind: Kind
    owner: str
    what: str
    how: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """A node that is kept out. `run` is the run that did it, None when none did, or none that anybody remembers."""

    target: str
    how: str
    reason: str = ""
    run: runs.Run | None = None


def claim_of(hold: Hold) -> Claim | None:
    """Return the claim behind a hold: a person's, or somebody's whom nobody can name; what automation did is no claim.

    >>> claim_of(Hold("chat/node-a", "ejected", "memory test until noon")).owner
    'somebody'
    """
    if hold.run is None:
        how = f"{hold.how} ({hold.reason})" if hold.reason else hold.how
        return Claim(Kind.PERSON, "somebody", hold.target, how)
    request = hold.run.plan.request
    if request.policy is not None:
        return None
    return Claim(Kind.PERSON, request.requested_by, hold.target, f"{hold.how} by run {hold.run.id}")
