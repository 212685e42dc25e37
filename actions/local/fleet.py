"""The nodes of one service as processes of this machine: start, stop, restart, each found again after a crash.

Built by `wiring` and by the demo; the local actions call it. A node that is defined and not started is a spare. Everything it knows stands in files of the fleet's folder:
what the nodes are (`fleet.yaml`), and who their processes are (`state/NAME.json`, written by the process itself before
it runs). So a control plane that was killed finds the very processes of its predecessor, and one that was killed in the
middle of a restart completes it: under one key a node is restarted once, whoever asks how often.

Never signals a process that it has not checked to be the one it started. Linux only. Concurrency: async; one operation
at a time per node, over all processes that use the folder.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path

from actions.local import definitions, launch, processes
from controlplane.domain import errors, outcomes, ports

_POLL_SECONDS = 0.1
# Starting an interpreter and writing one file; far more than that on a busy machine.
_LAUNCH_SECONDS = 30.0
# A killed process is gone once the kernel has let go of its memory.
_KILL_SECONDS = 10.0
# Longer than a start takes; whoever stops the node may take longer, and is then not waited for.
_TURN_SECONDS = 5.0
# Keys that are still remembered; a run in flight asks for its own ones only.
_MAX_KEYS = 100
# Settings and secrets of the control plane are none of a node's business.
_OWN_VARIABLES = "DSCTL_"
_LOG_LINES = 12
_LOG_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Status:
    """A node's newest process, if it ever had one, and whether that runs."""

    record: definitions.Record | None
    is_running: bool

    def __str__(self) -> str:
        if self.record is None or self.record.pid is None:
            return "not started"
        return f"process {self.record.pid}" if self.is_running else f"process {self.record.pid}, which has ended"


@dataclass(frozen=True, slots=True)
class Member:
    """A defined node and what is known of its process."""

    name: str
    pool: str
    record: definitions.Record | None

    @property
    def is_started(self) -> bool:
        """True when it was started and not stopped on purpose; False for a spare."""
        return self.record is not None and self.record.is_started

    @property
    def is_running(self) -> bool:
        """Look whether its process runs; raises GiveUpError when it does as something else than what was started."""
        identity = None if self.record is None else self.record.identity
        return identity is not None and processes.is_running(identity)

    def has(self, key: str) -> bool:
        """Say whether something was done to it under this key."""
        return self.record is not None and key in self.record.keys


class LocalFleet:
    """The processes of one service, in one folder."""

    def __init__(self, service: str, folder: Path, clock: ports.Clock) -> None:
        self._service = service
        self._files = definitions.Files(folder.absolute())
        self._clock = clock

    def names(self) -> tuple[str, ...]:
        """Return the defined nodes; raises as `definitions.read` does."""
        return tuple(definitions.read(self._files.folder).nodes)

    def members(self) -> tuple[Member, ...]:
        """Return every defined node in the order in which nodes are started; raises as `definitions.read` does."""
        defined = definitions.read(self._files.folder)
        return tuple(
            Member(name, defined.nodes[name].pool, definitions.read_record(self._files.record(name)))
            for name in defined.in_order()
        )

    @property
    def stop_seconds(self) -> float:
        """How long ending a node may take at most, SIGKILL and the wait for its lock included."""
        return definitions.read(self._files.folder).stop_seconds + 2 * _KILL_SECONDS

    def url(self, name: str) -> str:
        """Return where a node answers; raises NotFoundError for one that is not defined."""
        return self._node(name).url

    def status(self, name: str) -> Status:
        """Look at a node's process; raises GiveUpError when it runs as something else than what was started."""
        self._node(name)
        record = definitions.read_record(self._files.record(name))
        identity = None if record is None else record.identity
        return Status(record, identity is not None and processes.is_running(identity))

    def last_words(self, name: str) -> str:
        """Return the end of a node's log."""
        log = self._files.log(name)
        if not log.exists():
            return f"{log} does not exist"
        with log.open("rb") as opened:
            opened.seek(max(0, log.stat().st_size - _LOG_BYTES))
            text = opened.read().decode("utf-8", "replace")
        return "\n".join([f"the end of {log}:", *(f"  | {line}" for line in text.splitlines()[-_LOG_LINES:])])

    async def start(self, name: str, key: str | None = None) -> Status:
        """Start a node unless it runs, and return at once; raises GiveUpError when it cannot be started.

        The key stands in the record of the process that this call starts, and not in that of one that ran already.
        """
        async with self._turn(name):
            found = self.status(name)
            if found.is_running:
                return found
            if found.record is not None:
                await self._end(name, found.record)
            return await self._launch(name, found, key)

    async def stop(self, name: str, key: str | None = None) -> None:
        """End a node: SIGTERM, after `stop_seconds` SIGKILL. Harmless when it has ended. The key is noted in its record."""
        async with self._turn(name):
            found = self.status(name)
            if found.record is None:
                return
            await self._end(name, found.record)
            stopped = definitions.Record(found.record.argv, _with(found.record.keys, key))
            definitions.write_whole(self._files.record(name), definitions.as_json(stopped))
            self.tell_prometheus()

    async def restart(self, name: str, key: str) -> Status:
        """End a node and start it anew, once per key; returns at once, also when that was done before.

        Raises GiveUpError when it cannot be started (it then still runs, unless the program vanished in between),
        RetryLaterError while somebody else starts or stops it, OutcomeUnknownError when it survives SIGKILL.
        """
        async with self._turn(name):
            found = self.status(name)
            if found.record is not None and key in found.record.keys:
                return found
            self._check_program(name)
            if found.record is not None:
                await self._end(name, found.record)
            return await self._launch(name, found, key, demanded=key)

    def _node(self, name: str) -> definitions.Node:
        known = definitions.read(self._files.folder).nodes
        if name not in known:
            place = self._files.folder / definitions.FILE
            raise errors.NotFoundError(f"{place} defines no node {name!r}; it defines {', '.join(known)}")
        return known[name]

    def _check_program(self, name: str) -> str:
        """Return the path of a node's program; raises GiveUpError before anything is ended for its sake."""
        program = self._node(name).argv[0]
        folder = self._files.folder
        found = shutil.which(str(folder / program)) if "/" in program else shutil.which(program)
        if found is None:
            raise errors.GiveUpError(
                f"{self._service}/{name} cannot be started: there is no program {program!r}; correct {definitions.FILE}"
            )
        return found

    @contextlib.asynccontextmanager
    async def _turn(self, name: str) -> AsyncGenerator[None]:
        """Be the only one who starts or stops this node; the lock falls with the process that holds it."""
        self._node(name)
        self._files.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._files.turn(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = self._clock.monotonic() + _TURN_SECONDS
            while not _is_locked_now(lock):
                if self._clock.monotonic() >= deadline:
                    raise errors.RetryLaterError(f"{self._service}/{name} is being started or stopped by somebody else")
                await self._clock.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(lock)

    async def _end(self, name: str, record: definitions.Record) -> None:
        """End the process of a record and wait until it is gone, and its lock with it."""
        if record.identity is not None:
            await self._end_process(name, record, record.identity)
            await self._until_unlocked(name)

    async def _end_process(self, name: str, record: definitions.Record, identity: processes.Identity) -> None:
        with processes.opened(identity) as handle:
            if handle is None:
                return
            handle.terminate()
            stop_seconds = definitions.read(self._files.folder).stop_seconds
            if await self._is_gone(identity, stop_seconds):
                return
            handle.kill()
            if not await self._is_gone(identity, _KILL_SECONDS):
                raise errors.OutcomeUnknownError(
                    f"{self._service}/{name}: process {record.pid} is still there {_KILL_SECONDS:g} s after SIGKILL; "
                    "look what it waits for (`ps -o stat,wchan`)"
                )

    async def _is_gone(self, identity: processes.Identity, within_seconds: float) -> bool:
        deadline = self._clock.monotonic() + within_seconds
        while processes.is_running(identity):
            if self._clock.monotonic() >= deadline:
                return False
            await self._clock.sleep(_POLL_SECONDS)
        return True

    async def _launch(self, name: str, found: Status, key: str | None, *, demanded: str | None = None) -> Status:
        """Start a node's process through the launcher, which writes its record."""
        node, program = self._node(name), self._check_program(name)
        argv = (program, *node.argv[1:])
        record = definitions.Record(argv, _with(() if found.record is None else found.record.keys, key))
        code, said = await _run_launcher(self._request(name, record, node.environment))
        if code == launch.BUSY:
            return self._who_was_faster(name, demanded)
        if code != 0:
            raise errors.GiveUpError(f"{self._service}/{name} cannot be started: {said.strip() or f'status {code}'}")
        self.tell_prometheus()
        return self.status(name)

    async def _until_unlocked(self, name: str) -> None:
        """Wait for a process that is ending: it gives its memory back first, then its lock, and has no name meanwhile.

        Gives up without a word: who starts the node next finds the lock taken, and that is answered there.
        """
        lock = os.open(self._files.lock(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = self._clock.monotonic() + _KILL_SECONDS
            while not _is_locked_now(lock) and self._clock.monotonic() < deadline:
                await self._clock.sleep(_POLL_SECONDS)
        finally:
            os.close(lock)

    def _request(
        self, name: str, record: definitions.Record, environment: Mapping[str, str]
    ) -> dict[str, outcomes.Json]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_VARIABLES)}
        return {
            "folder": str(self._files.folder),
            "record_file": str(self._files.record(name)),
            "lock_file": str(self._files.lock(name)),
            "log_file": str(self._files.log(name)),
            "record": {"argv": [*record.argv], "keys": [*record.keys]},
            "argv": [*record.argv],
            "environment": {**inherited, **environment},
        }

    def _who_was_faster(self, name: str, demanded: str | None) -> Status:
        """A launcher of a control plane that has died since came first: its process is the one, if the key is ours."""
        now = self.status(name)
        if now.is_running and now.record is not None and (demanded is None or demanded in now.record.keys):
            return now
        raise errors.GiveUpError(
            f"{self._service}/{name} runs already, as a process that {self._files.record(name)} does not name; "
            f"find it with `fuser {self._files.lock(name)}` and end it"
        )

    def tell_prometheus(self) -> None:
        """Write which nodes there are: those that were started and not stopped on purpose. Blocks for milliseconds."""
        fleet = definitions.read(self._files.folder)
        if fleet.targets_file is None:
            return
        path = self._files.folder / fleet.targets_file
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Reading and writing belong together: of two who start nodes at once, the later one must know both.
        with self._files.targets_turn.open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            started = {one.name for one in self.members() if one.is_started}
            definitions.write_whole(
                path, [self._target(name, node) for name, node in fleet.nodes.items() if name in started]
            )

    def _target(self, name: str, node: definitions.Node) -> dict[str, outcomes.Json]:
        return {"targets": [node.url.partition("://")[2]], "labels": {"service": self._service, "node": name}}


def _with(keys: tuple[str, ...], key: str | None) -> tuple[str, ...]:
    """Return the keys with one more, the oldest forgotten beyond the bound."""
    return (*keys, *([] if key is None or key in keys else [key]))[-_MAX_KEYS:]


def _is_locked_now(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _run_launcher(request: Mapping[str, outcomes.Json]) -> tuple[int, str]:
    """Run the launcher and return its exit code and what it said; raises OutcomeUnknownError when it hangs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        launch.PATH,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_LAUNCH_SECONDS):
            said, _ = await process.communicate(json.dumps(request).encode("utf-8"))
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise errors.OutcomeUnknownError("the launcher of a local process hangs; look at the machine") from error
    return process.returncode or 0, said.decode("utf-8", "replace")
