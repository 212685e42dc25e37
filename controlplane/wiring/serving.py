"""Runs the control plane as a process: opens what it needs, serves, and closes everything in reverse order.

Called by `dsctl server`. `serve` owns the event loop. SIGTERM and SIGINT end it gracefully: no new step is started,
running ones get their grace period, and what is left is taken over by the next start.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import structlog
import uvicorn

from controlplane import clock, settings, telemetry
from controlplane.api import app
from controlplane.console import pages
from controlplane.domain import errors
from controlplane.runs import failpoints
from controlplane.store import database as db
from controlplane.store import house as stores
from controlplane.wiring import adapters, files, fits, rooms

# Queries of one tick run side by side; Prometheus itself allows twenty at once by default.
_NUM_QUERY_THREADS = 8
# One for each detector, so that one that hangs does not keep the others from speaking.
_NUM_DETECTOR_THREADS = 4
# A detector judges ten nodes in 0.2 s; the first call imports its libraries, which takes seconds on a busy machine.
_DETECT_SECONDS = 5.0
_ADMIN = "admin"
# A webhook or a watching client may hold a connection; the process ends without waiting for it longer than this.
_SHUTDOWN_SECONDS = 5


def check(chosen: settings.Settings) -> list[str]:
    """Read and check every file the server would read, and return what was found; starts nothing."""
    return files.load(chosen, rooms.Targets.build(chosen).actions).lines()


def serve(chosen: settings.Settings) -> None:
    """Serve until told to stop. Raises DsctlError when the start is refused."""
    telemetry.configure_logging(chosen.log.level, chosen.log.format)
    asyncio.run(_serve(chosen))


class _Server(uvicorn.Server):
    """Leaves signals to `_serve`: uvicorn would raise them again when it has ended, before anything else is closed."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture nothing."""
        yield


async def _serve(chosen: settings.Settings) -> None:
    async with _running(chosen) as (running, listening):
        served = app.create_app(running.home)
        pages.add(served)
        config = uvicorn.Config(
            served,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        server = _Server(config)

        def end(number: signal.Signals) -> None:
            pages.close(served)  # an open page would keep its stream, and the process with it
            server.handle_exit(number, None)

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        await server.serve([listening])


@asynccontextmanager
async def _running(chosen: settings.Settings) -> AsyncGenerator[tuple[rooms.Rooms, socket.socket]]:
    """Open, start, yield, stop and close, each in its order."""
    log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("dsctl.server")
    system = clock.SystemClock()
    fail = failpoints.read_environment(os.environ)
    async with AsyncExitStack() as stack:
        targets = rooms.Targets.build(chosen)
        for client in targets.pools:
            stack.push_async_callback(client.aclose)
        content = files.load(chosen, targets.actions)
        store = _open_store(chosen, system)
        stack.callback(store.close)
        await _first_token(chosen, store)
        settings.check_bind(chosen, has_tokens=bool(await store.tokens.list()))
        listening = stack.enter_context(_listen(chosen.listen))
        executor = stack.enter_context(ThreadPoolExecutor(_NUM_QUERY_THREADS, thread_name_prefix="dsctl-query"))
        threads = stack.enter_context(ThreadPoolExecutor(_NUM_DETECTOR_THREADS, thread_name_prefix="dsctl-detect"))
        bench = adapters.ThreadBench(threads, _DETECT_SECONDS)
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        fitter = _open_fits(chosen, content)
        if fitter is not None:
            stack.push_async_callback(fitter.close)
        world = rooms.World(system, store, targets, http, executor, bench, fitter)
        built = rooms.build(chosen, content, world, fail)
        await built.engine.start()
        stack.push_async_callback(built.engine.stop)
        await built.loop.start()
        stack.push_async_callback(built.loop.stop)
        host, port = listening.getsockname()[:2]
        log.info("started", mode=chosen.mode, host=host, port=port)
        yield built, listening
        log.info("stopping")


def _listen(at: settings.Listen) -> socket.socket:
    """Take the address before anything runs, so that a server nobody can reach never acts."""
    try:
        family, _, _, _, address = socket.getaddrinfo(at.host, at.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise errors.GiveUpError(
            f"cannot listen on {at.host} port {at.port}: {error.strerror or error}; end what listens there, or set "
            "listen.host and listen.port to an address of this machine that is free"
        ) from error


def _open_fits(chosen: settings.Settings, content: files.Content) -> fits.FitPool | None:
    """Prepare the process that fits forecasts, where any service has pools; it starts with the first fit."""
    if not chosen.forecast.is_enabled or not any(one.pools for one in content.services):
        return None
    return fits.FitPool(chosen.forecast.fit_deadline_seconds)


def _open_store(chosen: settings.Settings, system: clock.SystemClock) -> stores.House:
    chosen.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return stores.open_house(
        db.DatabaseSettings(chosen.resolved_database_url()),
        system,
        alert_max_age_seconds=chosen.alert_max_age_seconds,
    )


async def _first_token(chosen: settings.Settings, store: stores.House) -> None:
    """Make the administrator's token on the very first start, and leave it where the command line looks for it."""
    if any(info.revoked_at is None for info in await store.tokens.list()):
        return
    path = chosen.admin_token_file
    token = await store.tokens.create(_ADMIN, _ADMIN)
    _write_secret(path, token)
    log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("dsctl.server")
    log.info("first_token", role=_ADMIN, file=str(path))


def _write_secret(path: Path, secret: str) -> None:
    """Write a file that only this user may read, from its first byte on."""
    try:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(secret + "\n")
    except OSError as error:
        raise errors.GiveUpError(f"the first token cannot be written to {path}: {error}") from error
