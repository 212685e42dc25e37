"""Domain values to JSON and back, for the document columns of the store.

Called by the repositories and by the run engine's ledger. Never decides anything. Pure, so safe from any thread.

Decoding follows the annotations of the frozen dataclasses. pydantic cannot do it here: `outcomes.Json` is a
recursive alias without a name of its own, which a schema cannot refer to.
"""

import dataclasses
import enum
import types
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import pydantic_core

from controlplane.domain import errors, outcomes

T = TypeVar("T")


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
        return cast("T", _decode(kind, data, kind.__name__))
    except (TypeError, ValueError) as error:
        raise errors.InvariantBrokenError(f"a stored {kind.__name__} cannot be read: {error}") from error


def _decode(hint: Any, data: object, place: str) -> object:
    if hint == outcomes.Json:
        return data
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(cast("type[Any]", hint), _as_mapping(data, place), place)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _decode_optional(hint, data, place)
    if origin is not None:
        return _decode_container(origin, get_args(hint), data, place)
    return _decode_scalar(hint, data, place)


def _decode_dataclass(kind: type[Any], data: Mapping[str, object], place: str) -> object:
    known = [one for one in dataclasses.fields(kind) if one.name in data]
    return kind(**{one.name: _decode(one.type, data[one.name], f"{place}.{one.name}") for one in known})


def _decode_optional(hint: Any, data: object, place: str) -> object:
    if data is None:
        return None
    (inner,) = (one for one in get_args(hint) if one is not types.NoneType)
    return _decode(inner, data, place)


def _decode_container(origin: object, args: tuple[Any, ...], data: object, place: str) -> object:
    if origin is Mapping:
        return {key: _decode(args[1], value, f"{place}.{key}") for key, value in _as_mapping(data, place).items()}
    items = _as_list(data, place)
    if origin is tuple and args[-1] is not Ellipsis:
        return tuple(_decode(one, item, place) for one, item in zip(args, items, strict=True))
    if origin in (tuple, Sequence):
        return tuple(_decode(args[0], item, f"{place}[{index}]") for index, item in enumerate(items))
    raise TypeError(f"{place} has a type the store does not know: {origin!r}")


_SCALARS: Mapping[type, Callable[[Any], object]] = {
    datetime: lambda data: datetime.fromisoformat(data).astimezone(UTC),
    float: float,
}


def _decode_scalar(hint: type, data: object, place: str) -> object:
    if issubclass(hint, enum.Enum):
        return hint(data)
    if hint in _SCALARS:
        return _SCALARS[hint](data)
    if hint not in (str, int, bool) or not isinstance(data, hint):
        raise TypeError(f"{place} is {type(data).__name__}, not {hint.__name__}")
    return data


def _as_mapping(data: object, place: str) -> Mapping[str, object]:
    if not isinstance(data, Mapping):
        raise TypeError(f"{place} is {type(data).__name__}, not an object")
    return cast("Mapping[str, object]", data)


def _as_list(data: object, place: str) -> Sequence[object]:
    if not isinstance(data, list):
        raise TypeError(f"{place} is {type(data).__name__}, not a list")
    return cast("Sequence[object]", data)
