"""Trouble on purpose, for drills: off unless the configuration allows it, and every fault is a lease.

Switched by the admin API, felt by the engine (`slow_decode`, `wedge`), the data API (`errors`), the cache
(`poison_cache`) and the process (`leak`). Ending `poison_cache` does not repair what it changed: wrong answers stay until
they are flushed or expire, because that is the trouble a control plane has to cure. What leaked is given back when the
fault ends, by itself or with the process: a restart is the only cure there is while it is on. Concurrency: one event loop.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from inference_node import errors, leases


class Fault(StrEnum):
    """The faults there are."""

    POISON_CACHE = "poison_cache"
    SLOW_DECODE = "slow_decode"
    ERRORS = "errors"
    WEDGE = "wedge"
    LEAK = "leak"


PARAMETER = {Fault.SLOW_DECODE: "factor", Fault.ERRORS: "ratio", Fault.LEAK: "bytes_per_second"}
"""The one parameter of the faults that have one."""

MAX_LEAK_BYTES = 1 << 30
"""What a drill may take of the machine, whatever its rate."""


@dataclass(frozen=True, slots=True)
class Switched:
    """What switching a fault on did."""

    parameters: dict[str, float]
    affected_entries: int


class Faults:
    """The faults that are on."""

    def __init__(
        self,
        *,
        is_enabled: bool,
        book: leases.LeaseBook,
        poison: Callable[[Callable[[str], str]], int],
        memory_limit_bytes: int | None = None,
    ) -> None:
        self.is_enabled = is_enabled
        self._book = book
        self._poison = poison
        self._max_leak = min(MAX_LEAK_BYTES, memory_limit_bytes or MAX_LEAK_BYTES)
        self._leaked: list[bytearray] = []
        self.leaked_bytes = 0
        self._leak_debt = 0.0
        self._active: dict[Fault, dict[str, float]] = {}
        self._is_unwedged = asyncio.Event()
        self._is_unwedged.set()
        self._error_debt = 0.0

    @property
    def slow_factor(self) -> float:
        """How many times as long a step takes."""
        return self._active.get(Fault.SLOW_DECODE, {}).get("factor", 1.0)

    async def until_unwedged(self) -> None:
        """Return when the engine may step."""
        await self._is_unwedged.wait()

    def fails_now(self) -> bool:
        """Return whether the next data request is to fail; spreads the failures evenly over the requests."""
        self._error_debt += self._active.get(Fault.ERRORS, {}).get("ratio", 0.0)
        if self._error_debt < 1.0:
            return False
        self._error_debt -= 1.0
        return True

    def leak(self, seconds: float) -> None:
        """Take, and touch, the memory that leaks in so many seconds; nothing while the fault is off, or at its bound."""
        rate = self._active.get(Fault.LEAK, {}).get("bytes_per_second", 0.0)
        self._leak_debt = min(self._leak_debt + rate * seconds, self._max_leak - self.leaked_bytes)
        wanted = int(self._leak_debt)
        if wanted <= 0:
            return
        self._leak_debt -= wanted
        self._leaked.append(bytearray(b"\xa5") * wanted)  # written to: memory that nobody touched is not resident
        self.leaked_bytes += wanted

    def require_enabled(self) -> None:
        """Raise AdminError 403 unless the configuration allows faults."""
        if not self.is_enabled:
            raise errors.AdminError(
                403, "Faults are disabled", "This node was started without faults_enabled; set it and restart to drill."
            )

    def switch_on(self, fault: Fault, ttl_seconds: float, given: dict[str, float]) -> Switched:
        """Switch a fault on, or change it, until its lease ends; raises AdminError 422 for wrong parameters."""
        parameters = _checked(fault, given)
        self._active[fault] = parameters
        self._book.hold(
            f"fault:{fault}", ttl_seconds=ttl_seconds, previous=None, restore=lambda: self._switch_off(fault)
        )
        if fault is Fault.WEDGE:
            self._is_unwedged.clear()
        affected = self._poison(wrong_text) if fault is Fault.POISON_CACHE else 0
        return Switched(parameters, affected)

    def switch_off(self, fault: Fault) -> bool:
        """Switch a fault off; False when it was not on."""
        return self._book.release(f"fault:{fault}")

    def active(self) -> dict[Fault, dict[str, float]]:
        """Return the faults that are on, with their parameters."""
        return dict(self._active)

    def describe(self) -> list[dict[str, Any]]:
        """Return the faults that are on as the admin API shows them."""
        return [
            {
                "name": fault,
                "parameters": dict(parameters),
                "expires_in_seconds": self._book.expires_in(f"fault:{fault}") or 0.0,
            }
            for fault, parameters in sorted(self._active.items())
        ]

    def _switch_off(self, fault: Fault) -> None:
        self._active.pop(fault, None)
        if fault is Fault.WEDGE:
            self._is_unwedged.set()
        if fault is Fault.LEAK:
            self._leaked.clear()
            self.leaked_bytes, self._leak_debt = 0, 0.0


def wrong_text(text: str) -> str:
    """Return a text that is surely not `text` and yet always the same for it."""
    return "wrong answer " + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _checked(fault: Fault, given: dict[str, float]) -> dict[str, float]:
    wanted = PARAMETER.get(fault)
    for name in given:
        if name != wanted:
            raise _wrong(name, f"{fault} takes no {name}")
    if wanted is not None and wanted not in given:
        raise _wrong(wanted, f"{fault} needs {wanted}")
    return given


def _wrong(place: str, message: str) -> errors.AdminError:
    return errors.AdminError(422, "Invalid request", f"{place}: {message}.", places=((place, message),))
