"""What a local fleet consists of, as its operator writes it into `fleet.yaml`, and what is known of its processes.

Called by `fleet` for every operation, so that an edited file counts at once. Reads files only.
"""

import json
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import pydantic

from actions.local import processes
from actions.node import directory
from controlplane import strictyaml
from controlplane.domain import errors

FILE = "fleet.yaml"
# Names become names of files; the contract allows the same ones.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
# The pool that is always on: its nodes come first and go last.
HOT = "hot"


class _Document(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Node(_Document):
    """One node: the command that starts it (its working folder is the fleet's), where it then answers, and its pool."""

    argv: Annotated[tuple[str, ...], pydantic.Field(min_length=1, max_length=100, strict=False)]
    url: str
    pool: Annotated[str, pydantic.StringConstraints(pattern=NAME)] = HOT
    environment: dict[str, str] = pydantic.Field(default_factory=dict[str, str])

    @pydantic.field_validator("url")
    @classmethod
    def _is_base_url(cls, url: str) -> str:
        try:
            directory.check_url(url, place="url")
        except errors.InvalidInputError as error:
            raise ValueError(str(error)) from error
        return url.rstrip("/")


class Fleet(_Document):
    """The nodes by name. `targets_file` is written for Prometheus (file_sd) whenever nodes come or go."""

    nodes: dict[Annotated[str, pydantic.StringConstraints(pattern=NAME)], Node] = pydantic.Field(min_length=1)
    targets_file: str | None = None
    stop_seconds: Annotated[float, pydantic.Field(gt=0, le=600, strict=False)] = 15.0

    def in_order(self) -> tuple[str, ...]:
        """Return the nodes in the order in which they are started: the hot pool first, then pools and nodes as written."""
        pools = list(dict.fromkeys([HOT, *(node.pool for node in self.nodes.values())]))
        return tuple(sorted(self.nodes, key=lambda name: pools.index(self.nodes[name].pool)))


@dataclass(frozen=True, slots=True)
class Record:
    """The newest process of a node, and the keys of what was done to it, the newest last.

    No pid: it was stopped on purpose.
    """

    argv: tuple[str, ...]
    keys: tuple[str, ...] = ()
    pid: int | None = None
    started_ticks: int = 0
    boot_id: str = ""

    @property
    def is_started(self) -> bool:
        """True when the node was started and not stopped on purpose; its process may have ended all the same."""
        return self.pid is not None

    @property
    def identity(self) -> processes.Identity | None:
        """Who the process is, None when the node was stopped."""
        return None if self.pid is None else processes.Identity(self.pid, self.started_ticks, self.boot_id, self.argv)


@dataclass(frozen=True, slots=True)
class Files:
    """The paths of a fleet's folder."""

    folder: Path
    state: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", self.folder / "state")

    def record(self, name: str) -> Path:
        """Where the record of a node stands."""
        return self.state / f"{name}.json"

    def lock(self, name: str) -> Path:
        """What a running node holds locked."""
        return self.state / f"{name}.running"

    def turn(self, name: str) -> Path:
        """What whoever starts or stops a node holds locked meanwhile."""
        return self.state / f"{name}.turn"

    @property
    def targets_turn(self) -> Path:
        """What whoever tells Prometheus which nodes there are holds locked meanwhile."""
        return self.state / ".targets.turn"  # no node can be named so

    def log(self, name: str) -> Path:
        """Where the output of a node goes."""
        return self.folder / f"{name}.log"


def read(folder: Path) -> Fleet:
    """Read fleet.yaml; raises NotFoundError when there is none, InvalidInputError when it says something wrong."""
    path = folder / FILE
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise errors.NotFoundError(f"there is no {path}; write the local fleet's nodes into it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InvalidInputError(f"cannot be read: {error}", place=str(path)) from error
    if mode & stat.S_IWOTH:
        raise errors.InvalidInputError(
            "everybody may write it, and what it names is run; take the right away: chmod o-w", place=str(path)
        )
    return strictyaml.parse(Fleet, text, source=str(path))


def read_record(path: Path) -> Record | None:
    """Return what is known of a node's process; None when it was never started. Raises InvalidInputError."""
    try:
        found = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        return Record(
            argv=tuple(found["argv"]),
            keys=tuple(found["keys"]),
            pid=found["pid"],
            started_ticks=found["started_ticks"],
            boot_id=found["boot_id"],
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise errors.InvalidInputError(
            f"is no record of a process ({error!r}); end the node yourself and remove the file", place=str(path)
        ) from error


def as_json(record: Record) -> Mapping[str, Any]:
    """Return a record as it is stored."""
    return asdict(record)


def write_whole(path: Path, content: object) -> None:
    """Write JSON so that a reader finds the old file or the new one, never a part."""
    fresh = path.with_suffix(f"{path.suffix}.new")
    fresh.write_text(json.dumps(content, indent=1), encoding="utf-8")
    fresh.replace(path)
