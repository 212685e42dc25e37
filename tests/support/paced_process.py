"""A paced node without torch as a process of its own, for local fleets.

`python -m tests.support.paced_process --folder F --name N --port P --pace SECONDS`. It speaks the whole contract and is
ready within some seconds. Each start adds a line to `N.starts`. While `N.broken` exists it says so and ends.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from inference_node import clock, web
from inference_node.server import app, node
from tests.support import node_fakes, nodes

PATIENT = {"concurrency": 500, "queue": 500, "timeout_seconds": 30}
"""Places and time limit of a level whose callers wait for long answers."""


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pace", type=float, required=True)
    given = parser.parse_args()
    with (given.folder / f"{given.name}.starts").open("a", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    if (given.folder / f"{given.name}.broken").exists():
        sys.stdout.write("the weights are missing\n")
        sys.stdout.flush()
        return
    asyncio.run(_serve(given.name, given.port, given.pace))


async def _serve(name: str, port: int, pace: float) -> None:
    chosen = node_fakes.node_settings(
        name=name,
        api_keys=nodes.NODE_DEFAULTS["api_keys"],
        admin_tokens=[nodes.ADMIN_TOKEN],
        pace_step_seconds=pace,
        batch={"max_size": 8},
        cache={"audit_ratio": 0.0},
        levels={"standard": PATIENT},
    )
    made = node.Node(
        chosen,
        time=clock.SystemClock(),
        thread=node_fakes.InlineThread(),
        load=lambda version: node_fakes.model(version, node_fakes.FakeRunner()),
    )
    bound, _ = web.listen("127.0.0.1", port)
    server = web.Server(app.create(made)[0], grace_seconds=1, on_stop=lambda: None)
    await made.start()
    try:
        await server.serve(sockets=[bound])
    finally:
        await made.stop()


if __name__ == "__main__":
    main()
