"""Starts a node: `python -m inference_node.server --config FILE [--port N] [--name X]`.

Probes answer while the model loads. Prints one line when ready. SIGTERM refuses new requests, lets open answers end
within the grace time, and exits 0. Exit codes: 1 the settings or the model cannot be used, 2 wrong arguments.
"""

import argparse
import asyncio
import sys
from pathlib import Path

import prometheus_client

from inference_node import clock, errors, logs, settings, web
from inference_node.engine import ports, thread
from inference_node.server import app, node


def main() -> int:
    """Run a node until it is stopped."""
    arguments = _arguments()
    logs.configure()
    prometheus_client.disable_created_metrics()
    try:
        chosen = settings.load(settings.NodeSettings, arguments.config, port=arguments.port, name=arguments.name)
        return asyncio.run(_serve(chosen))
    except errors.SettingsError as error:
        sys.stderr.write(f"node not started: {error}\n")
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m inference_node.server", description="Serve a model.")
    parser.add_argument("--config", type=Path, required=True, help="settings file, YAML or JSON")
    parser.add_argument("--port", type=int, help="port to listen on instead of the configured one; 0 takes a free one")
    parser.add_argument("--name", help="name of the node instead of the configured one")
    return parser.parse_args()


async def _serve(chosen: settings.NodeSettings) -> int:
    bound, url = web.listen(chosen.host, chosen.port)
    model_thread = thread.ExecutorThread()

    def load(version: str) -> ports.LoadedModel:
        from inference_node.models import loading

        return loading.load(chosen.model, version)

    served = node.Node(chosen, time=clock.SystemClock(), thread=model_thread, load=load)
    server = web.Server(
        app.create(served)[0], grace_seconds=chosen.shutdown_grace_seconds, on_stop=served.controls.drain
    )
    serving = asyncio.create_task(server.serve(sockets=[bound]), name="http")
    try:
        async with server.tied_to(chosen.lifeline_pid, served.clock):
            await _start(served, serving, url)
            await serving
        return 0
    finally:
        server.should_exit = True
        await asyncio.wait({serving})
        await served.stop()
        model_thread.close()


async def _start(served: node.Node, serving: asyncio.Task[None], url: str) -> None:
    """Load the model and say so, unless the process is stopped meanwhile."""
    starting = asyncio.create_task(served.start(), name="start")
    await asyncio.wait({starting, serving}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return
    starting.result()
    model = served.require_engine().model
    sys.stdout.write(
        f"ready name={served.settings.name} url={url} model={model.name} version={model.version} device={model.device}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
