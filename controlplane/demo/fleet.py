"""The local fleet: two nodes, a gateway, Prometheus, Alertmanager and the control plane, all real, all on loopback.

Called by the demo's `run`. Starts them in the order in which they need each other, says what it waits for, and is where
stories inject their faults. Async; whoever constructs it stops the processes, whatever happened.
"""

import asyncio
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from controlplane import settings
from controlplane.demo import configuration, constants, monitoring, processes
from controlplane.domain import errors, outcomes, policies
from controlplane.scenarios import remote

_ADMIN_TIMEOUT_SECONDS = 10.0


class LocalFleet:
    """Everything of the demo but its clients."""

    def __init__(self, files: configuration.Files, started: processes.Processes, say: Callable[[str], None]) -> None:
        self._files = files
        self._processes = started
        self._say = say

    async def start(self, mode: policies.Mode) -> None:
        """Start everything and return when it is ready; raises GiveUpError naming what did not come up, and its log.

        Alertmanager comes last: its webhook needs a token that only the running control plane can make.
        """
        server = self._server(mode)
        first = [self._node(name) for name in constants.NODES] + [server]
        for command in first:
            await self._processes.start(command)
        self._say(f"starting {', '.join(constants.NODES)} and the control plane; importing torch takes a while")
        await asyncio.gather(*(self._ready(command) for command in first))
        # Scraping begins when there is something to scrape, so that nothing is reported missing that only starts.
        for command in (self._gateway(), self._prometheus(), self._alertmanager(await self._make_webhook_token())):
            await self._processes.start(command)
            await self._ready(command)
        await self._ready(processes.Command(server.name, (), f"{self._files.addresses.server}/readyz"))

    async def _ready(self, command: processes.Command) -> None:
        seconds = await self._processes.wait_ready(command, constants.READY_SECONDS)
        self._say(f"{command.name} answers at {command.ready_url} after {seconds:.1f} s")

    def _node(self, name: str) -> processes.Command:
        config = configuration.write_node(self._files, name)
        argv = (sys.executable, "-m", "inference_node.server", "--config", str(config))
        return processes.Command(name, argv, f"{self._files.addresses.nodes[name]}/ready", {"OMP_NUM_THREADS": "1"})

    def _gateway(self) -> processes.Command:
        config = configuration.write_gateway(self._files)
        argv = (sys.executable, "-m", "inference_node.gateway", "--config", str(config))
        return processes.Command("gateway", argv, f"{self._files.addresses.gateway}/ready")

    def _server(self, mode: policies.Mode) -> processes.Command:
        config = configuration.write_server_files(self._files, mode)
        argv = (sys.executable, "-m", "controlplane.cli", "server", "start", "--config", str(config))
        return processes.Command("server", argv, f"{self._files.addresses.server}/livez")

    def _prometheus(self) -> processes.Command:
        config = monitoring.write_prometheus(self._files)
        url = self._files.addresses.prometheus
        argv = (
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={self._files.folder / 'prometheus-data'}",
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

    async def inject(self, node: str, fault: str, params: dict[str, outcomes.Json], ttl_seconds: float) -> None:
        """Switch a fault on at a node; raises GiveUpError when it refuses or does not answer."""
        await self._admin("PUT", node, fault, {**params, "ttl_seconds": round(ttl_seconds)})

    async def withdraw(self, node: str, fault: str) -> None:
        """Switch a fault off; one that is off already is fine."""
        await self._admin("DELETE", node, fault, None)

    async def _admin(self, method: str, node: str, fault: str, body: dict[str, outcomes.Json] | None) -> None:
        url = f"{self._files.addresses.nodes[node]}/admin/v1/faults/{fault}"
        headers = {"Authorization": f"Bearer {self._files.admin_token}"}
        try:
            async with httpx.AsyncClient(timeout=_ADMIN_TIMEOUT_SECONDS, trust_env=False) as http:
                answer = await http.request(method, url, json=body, headers=headers)
        except httpx.TransportError as error:
            raise errors.GiveUpError(f"{node} does not answer {method} {fault}: {error!r}") from error
        if not answer.is_success:
            raise errors.GiveUpError(f"{node} refused {method} {fault} with {answer.status_code}: {answer.text[:200]}")
