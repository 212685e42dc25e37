"""Runs the control plane as a process: opens what it needs, serves, and closes everything in reverse order.

Called by `dsctl server`. `serve` owns the event loop. SIGTERM and SIGINT end it gracefully: no new step is started,
running ones get their grace period, and what is left is taken over by the next start.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import structlog
import uvicorn

from controlplane import clock, settings, telemetry
from controlplane.api import app
from controlplane.domain import errors
from controlplane.runs import failpoints
from controlplane.store import database as db
from controlplane.store import house as stores
from controlplane.wiring import files, rooms

# Queries of one tick run side by side; Prometheus itself allows twenty at once by default.
_NUM_QUERY_THREADS = 8
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


async def _serve(chosen: settings.Settings) -> None:
    async with _running(chosen) as running:
        config = uvicorn.Config(
            app.create_app(running.home),
            host=chosen.listen.host,
            port=chosen.listen.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        await uvicorn.Server(config).serve()


@asynccontextmanager
async def _running(chosen: settings.Settings) -> AsyncGenerator[rooms.Rooms]:
    """Open, start, yield, stop and close, each in its order."""
    log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("dsctl.server")
    system = clock.SystemClock()
    fail = failpoints.read_environment(os.environ)
    async with AsyncExitStack() as stack:
        targets = rooms.Targets.build(chosen)
        for client in targets.admin:
            stack.push_async_callback(client.aclose)
        content = files.load(chosen, targets.actions)
        store = _open_store(chosen, system)
        stack.callback(store.close)
        await _first_token(chosen, store)
        settings.check_bind(chosen, has_tokens=bool(await store.tokens.list()))
        executor = stack.enter_context(ThreadPoolExecutor(_NUM_QUERY_THREADS, thread_name_prefix="dsctl-query"))
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        built = rooms.build(chosen, content, rooms.World(system, store, targets, http, executor), fail)
        await built.engine.start()
        stack.push_async_callback(built.engine.stop)
        await built.loop.start()
        stack.push_async_callback(built.loop.stop)
        log.info("started", mode=chosen.mode, host=chosen.listen.host, port=chosen.listen.port)
        yield built
        log.info("stopping")


def _open_store(chosen: settings.Settings, system: clock.SystemClock) -> stores.House:
    chosen.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return stores.open_house(db.DatabaseSettings(chosen.resolved_database_url()), system)


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
