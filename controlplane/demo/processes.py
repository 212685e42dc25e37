"""Processes of the local fleet: each in a group of its own, with its output in a file, and stopped by its id.

Called by the demo alone. Knows nothing of what it starts. Async; one owner, who calls `stop` whatever happened: every
process that was started is ended, and with it the children it started. Should the demo itself be killed, the kernel ends
them too, where Debian's `setpriv` is at hand.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from controlplane.domain import errors, ports

_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 2.0
# Prometheus writes its last block and nodes end their streams; after that they are killed.
_TERM_SECONDS = 8.0
_LOG_LINES = 12
# Linux takes ports of outgoing connections from 32768 on (net.ipv4.ip_local_port_range); well-known servers lie lower.
_PORTS = range(20_000, 32_000)
_PORT_TRIES = 200


@dataclass(frozen=True, slots=True)
class Command:
    """One process: how it is started, and the address that answers 200 once it is ready."""

    name: str
    argv: Sequence[str]
    ready_url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody listens on; all are held until the last is known, so they differ.

    They lie below those that the kernel gives to outgoing connections: one of these could take a port in the seconds
    between this look and the start of the server it is for.
    """
    with contextlib.ExitStack() as held:
        return [_hold_port(held) for _ in range(count)]


def _hold_port(held: contextlib.ExitStack) -> int:
    for _ in range(_PORT_TRIES):
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        one = socket.socket()
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            one.close()
        else:
            held.enter_context(one)
            return port
    raise errors.GiveUpError(f"no free port between {_PORTS.start} and {_PORTS.stop}; end what listens there")


class Processes:
    """The started processes; `folder` receives NAME.log for each."""

    def __init__(self, folder: Path, clock: ports.Clock, *, term_seconds: float = _TERM_SECONDS) -> None:
        self._folder = folder
        self._term_seconds = term_seconds
        self._clock = clock
        self._running: dict[str, asyncio.subprocess.Process] = {}
        setpriv = shutil.which("setpriv")
        self._leash = (setpriv, "--pdeathsig", "TERM", "--") if setpriv else ()

    def log(self, name: str) -> Path:
        """Return where the output of a process goes."""
        return self._folder / f"{name}.log"

    async def start(self, command: Command) -> None:
        """Start a process and return at once; raises GiveUpError when there is no such program."""
        program = shutil.which(command.argv[0])
        if program is None:
            raise errors.GiveUpError(f"{command.name}: there is no program {command.argv[0]!r} here; run `make setup`")
        with self.log(command.name).open("ab") as log:
            self._running[command.name] = await asyncio.create_subprocess_exec(
                *self._leash,
                program,
                *command.argv[1:],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **command.environment},
                start_new_session=True,
            )

    async def wait_ready(self, command: Command, within_seconds: float) -> float:
        """Wait until its address answers 200, and return how long that took.

        Raises GiveUpError with the end of its log when it ends or does not answer in time.
        """
        start = self._clock.monotonic()
        async with httpx.AsyncClient(timeout=_ANSWER_SECONDS, trust_env=False) as client:
            while (waited := self._clock.monotonic() - start) < within_seconds:
                self.check(command.name)
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(command.ready_url)).is_success:
                        return waited
                await self._clock.sleep(_POLL_SECONDS)
        raise errors.GiveUpError(
            f"{command.name} was not ready within {within_seconds:g} s ({command.ready_url}); {self._last_words(command.name)}"
        )

    def check(self, *names: str) -> None:
        """Raise GiveUpError when one of these processes, or any of all, has ended."""
        for name in names or tuple(self._running):
            code = self._running[name].returncode
            if code is not None:
                raise errors.GiveUpError(f"{name} ended with status {code}; {self._last_words(name)}")

    async def stop(self, name: str) -> None:
        """End one process and its children; harmless when it has ended already."""
        process = self._running.pop(name, None)
        if process is None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(self._term_seconds):
                await process.wait()
        except TimeoutError:
            _signal_group(process.pid, signal.SIGKILL)
            await process.wait()
        _signal_group(process.pid, signal.SIGKILL)  # children that outlived it

    async def stop_all(self) -> None:
        """End everything: all are told at once, and each is waited for."""
        await asyncio.gather(*(self.stop(name) for name in tuple(self._running)))

    def _last_words(self, name: str) -> str:
        text = self.log(name).read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines()[-_LOG_LINES:]
        return "\n".join([f"the end of {self.log(name)}:", *(f"  | {line}" for line in lines)])


def _signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to the group that a process leads (`start_new_session`); nothing when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
