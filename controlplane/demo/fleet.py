"""The local fleet: its nodes, a gateway, Prometheus, Alertmanager and the control plane, all real, all on loopback.

Called by the demo's `run`. Starts them in the order in which they need each other and says what it waits for. The nodes
are started through the same local fleet through which the control plane restarts them. Async; whoever constructs it calls
`stop` and stops the processes, whatever happened; should the demo be killed, nodes and gateway end themselves.
"""

import asyncio
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from actions.local import definitions
from actions.local import fleet as local
from actions.node import data
from controlplane import settings
from controlplane.demo import configuration, constants, history, monitoring, processes
from controlplane.domain import errors, policies, ports
from controlplane.scenarios import remote, stories

_SERVER = "server"
_PROMETHEUS_DATA = "prometheus-data"
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Plot:
    """A past, and when the peak is due that it leads up to."""

    past: stories.Past
    peak_at: datetime


class LocalFleet:
    """Everything of the demo but its clients."""

    def __init__(
        self,
        files: configuration.Files,
        started: processes.Processes,
        clock: ports.Clock,
        say: Callable[[str], None],
    ) -> None:
        self._files = files
        self._processes = started
        self._clock = clock
        self._say = say
        self._nodes = local.LocalFleet(constants.SERVICE, files.folder, clock)
        self._data = data.NodeData("")

    async def start(self, mode: policies.Mode, plot: Plot | None = None) -> None:
        """Start everything and return when it is ready; raises GiveUpError naming what did not come up, and its log.

        Alertmanager comes last: its webhook needs a token that only the running control plane can make. With a plot,
        Prometheus begins with a past.
        """
        configuration.write_fleet(self._files, num_spare=0)
        services = configuration.write_services(self._files, event=plot.past, event_at=plot.peak_at) if plot else None
        server, names = self._server(mode, services or configuration.write_services(self._files)), self._files.started
        if plot is not None:
            await self._write_past(plot)
        for name in names:
            await self._nodes.start(name)
        await self._processes.start(server)
        self._say(f"starting {', '.join(names)} and the control plane; importing torch takes a while")
        await asyncio.gather(self._ready(server), *(self._node_ready(name) for name in names))
        # Scraping begins when there is something to scrape, so that nothing is reported missing that only starts.
        for command in (self._gateway(), self._prometheus(), self._alertmanager(await self._make_webhook_token())):
            await self._processes.start(command)
            await self._ready(command)
        await self._ready(processes.Command(server.name, (), f"{self._files.addresses.server}/readyz"))

    async def _write_past(self, plot: Plot) -> None:
        past = plot.past
        self._say(f"writing {past.days} days of arrivals into Prometheus; the peak is due at {plot.peak_at:%H:%M} UTC")
        await history.write(
            history.Past(past.days, past.rate, past.peak_rate, past.peak_seconds, plot.peak_at),
            self._clock.now(),
            text_file=self._files.folder / "history.txt",
            data_folder=self._files.folder / _PROMETHEUS_DATA,
        )

    async def _ready(self, command: processes.Command) -> None:
        seconds = await self._processes.wait_ready(command, constants.READY_SECONDS)
        self._say(f"{command.name} answers at {command.ready_url} after {seconds:.1f} s")

    async def _node_ready(self, name: str) -> None:
        """Wait for a node; raises GiveUpError with the end of its log when it ends, or does not answer in time."""
        start = self._clock.monotonic()
        while not await self._data.is_ready(self._nodes.url(name)):
            status, waited = self._nodes.status(name), self._clock.monotonic() - start
            if not status.is_running or waited >= constants.READY_SECONDS:
                raise errors.GiveUpError(
                    f"{name} is {status} and was not ready after {waited:.0f} s; {self._nodes.last_words(name)}"
                )
            await self._clock.sleep(_POLL_SECONDS)
        self._say(f"{name} answers at {self._nodes.url(name)} after {self._clock.monotonic() - start:.1f} s")

    async def stop(self) -> None:
        """End the control plane, so that it repairs nothing any more, and then the nodes."""
        await self._processes.stop(_SERVER)
        await self._data.aclose()
        if (self._files.folder / definitions.FILE).exists():
            await asyncio.gather(*(self._nodes.stop(name) for name in self._nodes.names()))

    def _gateway(self) -> processes.Command:
        config = configuration.write_gateway(self._files)
        argv = (sys.executable, "-m", "inference_node.gateway", "--config", str(config))
        return processes.Command("gateway", argv, f"{self._files.addresses.gateway}/ready")

    def _server(self, mode: policies.Mode, services: Path) -> processes.Command:
        config = configuration.write_server_files(self._files, mode, services=services)
        argv = (sys.executable, "-m", "controlplane.cli", "server", "start", "--config", str(config))
        return processes.Command(_SERVER, argv, f"{self._files.addresses.server}/livez")

    def _prometheus(self) -> processes.Command:
        config = monitoring.write_prometheus(self._files)
        url = self._files.addresses.prometheus
        argv = (
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={self._files.folder / _PROMETHEUS_DATA}",
            f"--storage.tsdb.retention.time={history.RETENTION}",
            f"--web.listen-address={url.removeprefix('http://')}",
            f"--web.external-url={url}",
            "--log.level=warn",
        )
        return processes.Command("prometheus", argv, f"{url}/-/ready")

    def _alertmanager(self, token_file: Path) -> processes.Command:
        config = monitoring.write_alertmanager(self._files, token_file)
        url = self._files.addresses.alertmanager
        # Debian's package and upstream's archive name the program differently.
        program = "prometheus-alertmanager" if shutil.which("prometheus-alertmanager") else "alertmanager"
        argv = (
            program,
            f"--config.file={config}",
            f"--storage.path={self._files.folder / 'alertmanager-data'}",
            f"--web.listen-address={url.removeprefix('http://')}",
            f"--web.external-url={url}",
            "--cluster.listen-address=",
            "--log.level=warn",
        )
        return processes.Command("alertmanager", argv, f"{url}/-/ready")

    def server_token(self) -> str:
        """Return the token of the control plane's administrator."""
        return settings.read_secret(self._files.server_token_file)

    async def _make_webhook_token(self) -> Path:
        async with remote.client(self._files.addresses.server, self.server_token()) as http:
            token = await remote.Api(http).create_token("alertmanager", "events")
        return self._files.write_secret("webhook-token", token)
