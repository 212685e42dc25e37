"""Domain values to JSON and back, for the document columns of the store.

Called by the repositories and by the run engine's ledger. Never decides anything. Pure, so safe from any thread.

Decoding follows the annotations of the frozen dataclasses, which are looked at once for each type. pydantic cannot do it
here: `outcomes.Json` is a recursive alias without a name of its own, which a schema cannot refer to.
"""

import dataclasses
import enum
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import pydantic_core

from controlplane.domain import errors, outcomes

T = TypeVar("T")
_Decoder = Callable[[Any], object]


class _MisfitError(ValueError):
    """Data that does not fit; `place` is where, from the value that was asked for."""

    def __init__(self, place: str, text: str) -> None:
        super().__init__(text)
        self.place = place
        self.text = text


def to_json(value: object) -> outcomes.Json:
    """Return dataclasses, enums, times and containers as plain JSON values."""
    return cast("outcomes.Json", pydantic_core.to_jsonable_python(value))


def from_json(kind: type[T], data: object) -> T:
    """Build a `kind` from what `to_json` returned.

    Unknown keys are ignored and absent ones take their default, so that rows survive an added field. Raises
    InvariantBrokenError, with the place, for anything else that does not fit.

    >>> from_json(outcomes.GateAnswer, {"gate": "mode", "is_passed": True, "sentence": "auto", "numbers": {}}).gate
    <Gate.MODE: 'mode'>
    """
    try:
        return cast("T", _decoder(kind)(data))
    except _MisfitError as error:
        raise errors.InvariantBrokenError(
            f"a stored {kind.__name__} cannot be read: {kind.__name__}{error.place}: {error.text}"
        ) from error
    except (TypeError, ValueError) as error:
        raise errors.InvariantBrokenError(f"a stored {kind.__name__} cannot be read: {error}") from error


@functools.cache
def _decoder(hint: Any) -> _Decoder:
    """Return what reads one annotation."""
    if hint == outcomes.Json:
        return lambda data: data
    if dataclasses.is_dataclass(hint):
        return _of_dataclass(cast("type[Any]", hint))
    origin, args = get_origin(hint), get_args(hint)
    if origin is None:
        return _of_scalar(hint)
    if origin in (Union, types.UnionType):
        return _of_optional(args)
    return _of_container(origin, args)


def _of_container(origin: object, args: tuple[Any, ...]) -> _Decoder:
    if origin is Mapping:
        return _of_mapping(_decoder(args[1]))
    if origin is tuple and args[-1] is not Ellipsis:
        return _of_fixed([_decoder(one) for one in args])
    if origin in (tuple, Sequence):
        return _of_items(_decoder(args[0]))
    raise TypeError(f"{origin!r} is a type the store does not know")


def _of_dataclass(kind: type[Any]) -> _Decoder:
    decoders = [(one.name, _decoder(one.type)) for one in dataclasses.fields(kind)]

    def decode(data: object) -> object:
        known, values = _as_mapping(data), dict[str, object]()
        for name, read in decoders:
            if name in known:
                try:
                    values[name] = read(known[name])
                except (TypeError, ValueError) as error:
                    raise _misfit(f".{name}", error) from error
        return kind(**values)

    return decode


def _of_optional(args: tuple[Any, ...]) -> _Decoder:
    (inner,) = (one for one in args if one is not types.NoneType)
    read = _decoder(inner)
    return lambda data: None if data is None else read(data)


def _of_mapping(read: _Decoder) -> _Decoder:
    def decode(data: object) -> object:
        known, values = _as_mapping(data), dict[str, object]()
        for key, value in known.items():
            try:
                values[key] = read(value)
            except (TypeError, ValueError) as error:
                raise _misfit(f".{key}", error) from error
        return values

    return decode


def _of_items(read: _Decoder) -> _Decoder:
    def decode(data: object) -> object:
        values: list[object] = []
        for index, value in enumerate(_as_list(data)):
            try:
                values.append(read(value))
            except (TypeError, ValueError) as error:
                raise _misfit(f"[{index}]", error) from error
        return tuple(values)

    return decode


def _of_fixed(decoders: Sequence[_Decoder]) -> _Decoder:
    return lambda data: tuple(read(value) for read, value in zip(decoders, _as_list(data), strict=True))


def _of_scalar(hint: type) -> _Decoder:
    if hint is datetime:
        return lambda data: datetime.fromisoformat(data).astimezone(UTC)
    if hint is float:
        return float
    if issubclass(hint, enum.Enum):
        return hint

    def decode(data: object) -> object:
        if hint not in (str, int, bool) or not isinstance(data, hint):
            raise TypeError(f"is {type(data).__name__}, not {hint.__name__}")
        return data

    return decode


def _misfit(place: str, error: Exception) -> _MisfitError:
    """Put a place before the one an inner decoder has named."""
    if isinstance(error, _MisfitError):
        return _MisfitError(place + error.place, error.text)
    return _MisfitError(place, str(error))


def _as_mapping(data: object) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise TypeError(f"is {type(data).__name__}, not an object")
    return cast("Mapping[str, Any]", data)


def _as_list(data: object) -> Sequence[Any]:
    if not isinstance(data, list):
        raise TypeError(f"is {type(data).__name__}, not a list")
    return cast("Sequence[Any]", data)
