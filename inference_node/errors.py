"""What the node and the gateway refuse or fail on purpose, and how each refusal reads on the wire.

The data API renders `DataError` in OpenAI's form, the admin API renders `AdminError` as a problem detail; `web` does both.
"""


class NodeError(Exception):
    """The island names everything it raises on purpose under this root."""


class SettingsError(NodeError):
    """The configuration cannot be used; the message says which place and what to write instead."""


class DataError(NodeError):
    """A data API call ends with `status`. `is_refusal` says that nothing was computed for it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class AdminError(NodeError):
    """An admin call is refused with `status`; nothing was changed."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        places: tuple[tuple[str, str], ...] = (),
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.places = places
        self.retry_after_seconds = retry_after_seconds


class EngineFailedError(NodeError):
    """The model could not compute a step; every request of that step fails with this."""


def overloaded(message: str, retry_after_seconds: int) -> DataError:
    """Return the 429 of a full or shed level: counted apart from 5xx, so that shedding never looks like breaking."""
    return DataError(
        429, message, kind="rate_limit_error", code="rate_limit_exceeded", retry_after_seconds=retry_after_seconds
    )


def unavailable(message: str, code: str, retry_after_seconds: int) -> DataError:
    """Return the 503 of a process that takes no requests now."""
    return DataError(503, message, kind="service_unavailable", code=code, retry_after_seconds=retry_after_seconds)
