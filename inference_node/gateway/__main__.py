"""Starts a gateway: `python -m inference_node.gateway --config FILE [--port N]`. Needs no torch.

Prints one line when ready. SIGTERM lets open answers end within the grace time and exits 0.
Exit codes: 1 the settings cannot be used, 2 wrong arguments.
"""

import argparse
import asyncio
import sys
from pathlib import Path

import prometheus_client

from inference_node import clock, errors, logs, settings, web
from inference_node.gateway import app, gateway


def main() -> int:
    """Run a gateway until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m inference_node.gateway", description="Balance over nodes.")
    parser.add_argument("--config", type=Path, required=True, help="settings file, YAML or JSON")
    parser.add_argument("--port", type=int, help="port to listen on instead of the configured one; 0 takes a free one")
    arguments = parser.parse_args()
    logs.configure()
    prometheus_client.disable_created_metrics()
    try:
        return asyncio.run(_serve(settings.load(settings.GatewaySettings, arguments.config, port=arguments.port)))
    except errors.SettingsError as error:
        sys.stderr.write(f"gateway not started: {error}\n")
        return 1


async def _serve(chosen: settings.GatewaySettings) -> int:
    bound, url = web.listen(chosen.host, chosen.port)
    served = gateway.Gateway(chosen, time=clock.SystemClock())
    server = web.Server(app.create(served)[0], grace_seconds=chosen.shutdown_grace_seconds, on_stop=lambda: None)
    served.start()
    try:
        serving = asyncio.create_task(server.serve(sockets=[bound]), name="http")
        sys.stdout.write(f"ready name=gateway url={url} nodes={len(chosen.nodes)}\n")
        sys.stdout.flush()
        async with server.tied_to(chosen.lifeline_pid, served.clock):
            await serving
        return 0
    finally:
        await served.stop()


if __name__ == "__main__":
    sys.exit(main())
