"""What a process looks like from inside, for whoever has to explain later why it was restarted.

Called by the admin API, and by the memory keeper for the last line of a log. Holds places in code and numbers only: no
argument, no local variable, no prompt and no secret can get in. Bounded in size by its constants and in time by the
caller; it changes nothing. Blocks for as long as it samples, so that it belongs on a thread of its own.
"""

import gc
import sys
import threading
import tracemalloc
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

MAX_BYTES = 262_144
"""What the answer never exceeds: 48 threads of 32 frames of 120 characters are 200 kB."""
MAX_SECONDS = 5.0
MAX_THREADS = 48
MAX_FRAMES = 32
MAX_TOP = 20
PROFILE_SAMPLES = 25
SAMPLE_SECONDS = 0.02
_MAX_PLACE = 120
_MAX_NAME = 40
# Enough of a path to find the file, too little to tell of the machine.
_PATH_PARTS = 3


def stacks() -> list[dict[str, Any]]:
    """Return the stack of every thread, the innermost call first."""
    names = {each.ident: each.name for each in threading.enumerate()}
    found = sorted(_frames().items())[:MAX_THREADS]
    return [
        {"thread": _ascii(names.get(ident, "unnamed"), _MAX_NAME), "frames": _walk(frame)} for ident, frame in found
    ]


def profile(num_samples: int = PROFILE_SAMPLES) -> dict[str, Any]:
    """Return where the other threads were, sampled for half a second: the innermost place, by how often it was seen."""
    own, seen, pause = threading.get_ident(), Counter[str](), threading.Event()
    for _ in range(num_samples):
        seen.update(_place(frame) for ident, frame in _frames().items() if ident != own)
        pause.wait(SAMPLE_SECONDS)
    top = [{"place": place, "samples": count} for place, count in seen.most_common(MAX_TOP)]
    return {"samples": num_samples, "sample_seconds": SAMPLE_SECONDS, "top": top}


def allocations() -> dict[str, Any]:
    """Return what Python allocated most, where that is traced (PYTHONTRACEMALLOC); else say that it is not."""
    if not tracemalloc.is_tracing():
        return {"is_traced": False, "top": []}
    top = tracemalloc.take_snapshot().statistics("lineno")[:MAX_TOP]
    places = [(each.traceback[0].filename, each.traceback[0].lineno, each) for each in top]
    found = [
        {"place": _ascii(f"{_short(file)}:{line}"), "bytes": of.size, "blocks": of.count} for file, line, of in places
    ]
    return {"is_traced": True, "top": found}


def cuda() -> dict[str, int] | None:
    """Return what torch holds of the GPU, or None without one.

    Only where torch has been imported and has a context already: looking must neither import it nor make one. The
    allocator's counters may be read from any thread, so that a model thread that hangs does not hide them.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    numbers = torch.cuda.memory_stats()
    names = {
        "allocated_bytes": "allocated_bytes.all.current",
        "reserved_bytes": "reserved_bytes.all.current",
        "max_allocated_bytes": "allocated_bytes.all.peak",
        "inactive_split_bytes": "inactive_split_bytes.all.current",
        "num_out_of_memory": "num_ooms",
    }
    return {name: int(numbers.get(known, 0)) for name, known in names.items()}


def num_open_files() -> int | None:
    """Return how many file descriptors are open, or None where the system does not say."""
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return None


def take() -> dict[str, Any]:
    """Return all of it; takes the half second that the profile samples."""
    return {
        "gc_counts": list(gc.get_count()),
        "num_threads": threading.active_count(),
        "num_open_files": num_open_files(),
        "cuda": cuda(),
        "allocations": allocations(),
        "stacks": stacks(),
        "profile": profile(),
    }


def _frames() -> dict[int, FrameType]:
    return sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented, and the only way


def _walk(frame: FrameType | None) -> list[str]:
    places: list[str] = []
    while frame is not None and len(places) < MAX_FRAMES:
        places.append(_place(frame))
        frame = frame.f_back
    return places


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return _ascii(f"{_short(code.co_filename)}:{frame.f_lineno} {code.co_qualname}")


def _short(path: str) -> str:
    return "/".join(path.split("/")[-_PATH_PARTS:])


def _ascii(text: str, length: int = _MAX_PLACE) -> str:
    """Return at most `length` printable characters, each of them one byte on the wire."""
    return "".join(char if " " <= char <= "~" and char not in '"\\' else "?" for char in text[-length:])
