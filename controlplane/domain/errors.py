"""Every error the product raises on purpose, sorted by what the caller should do next.

Adapters translate foreign errors into these at the border and chain the original. A message says what
happened, to which target, and what to do next.
"""


class DsctlError(Exception):
    """Something went wrong that dsctl knows how to name."""


class RetryLaterError(DsctlError):
    """The other side is not able to answer now; the same call may succeed after `delay_seconds`."""

    def __init__(self, message: str, *, delay_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds


class OverloadedError(RetryLaterError):
    """A bounded queue of ours is full; nothing was accepted."""


class GiveUpError(DsctlError):
    """The call was understood and refused; repeating it unchanged cannot succeed."""


class PartlyDoneError(GiveUpError):
    """Some of several targets took it and the rest refused: repeating cannot complete it, and it has had an effect."""


class InvalidInputError(GiveUpError):
    """A document, request or parameter is wrong; `place` says where, as a path such as `spec.steps[1].with`."""

    def __init__(self, message: str, *, place: str = "") -> None:
        super().__init__(f"{place}: {message}" if place else message)
        self.place = place


class NotFoundError(GiveUpError):
    """The named thing does not exist."""


class ConflictError(GiveUpError):
    """The state moved on: what the caller wanted to change is no longer as the caller saw it."""


class NeedsHumanError(DsctlError):
    """Only a person can decide what to do next."""


class OutcomeUnknownError(NeedsHumanError):
    """An effect may or may not have happened. Look before doing anything again."""


class LostLeaseError(DsctlError):
    """This replica no longer owns the run: drop it without writing; another replica drives it."""


class InvariantBrokenError(DsctlError):
    """A bug of ours: state that the code never produces. Stop rather than guess."""
