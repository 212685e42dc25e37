"""A paced node without torch, served for real: the model of integers behind the real engine, batcher and HTTP."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from inference_node import clock, web
from inference_node.server import app, node
from tests.support import node_fakes


@contextlib.asynccontextmanager
async def served(**overrides: Any) -> AsyncGenerator[str]:
    """Serve on a free loopback port in this event loop until the block ends; yield the URL."""
    chosen = node_fakes.node_settings(**{"pace_step_seconds": 0.02, "batch": {"max_size": 8}} | overrides)
    made = node.Node(
        chosen,
        time=clock.SystemClock(),
        thread=node_fakes.InlineThread(),
        load=lambda version: node_fakes.model(version, node_fakes.FakeRunner()),
    )
    bound, url = web.listen("127.0.0.1", 0)
    server = web.Server(app.create(made)[0], grace_seconds=1, on_stop=lambda: None)
    await made.start()
    serving = asyncio.create_task(server.serve(sockets=[bound]), name="http")
    try:
        yield url
    finally:
        server.should_exit = True
        await serving
        await made.stop()
