"""The whole service for tests: the real server as a process, real Prometheus and Alertmanager, nodes that are fakes.

`installed` writes every file an operator would write, starts everything on free loopback ports and ends it by process
handle. Intervals are short (scrape and tick 1 s, rates over 4 s, rules at a twentieth of their time), so that a loop
closes within half a minute. Concurrency: blocking, for tests without an event loop; the fakes run in threads.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support import fake_node
from tests.support import prometheus as real
from tests.support import service_files as files

Json = dict[str, Any]

# Importing the server takes 2 to 3 s here, and far longer beside other work.
START_SECONDS = 60.0
# From trouble to a closed incident it takes about 25 s: scrape, alert, flush, three samples 5 s apart, quiet time.
LOOP_SECONDS = 120.0
AUDITS_PER_SCRAPE = 20
# Between two looks through the API, so that looking does not slow down what is looked at.
LOOK_SECONDS = 0.25

# What must never stand in the log, whatever was broken around the server.
OUR_BUGS = frozenset({"unexpected_error", "tick_broken", "run_broken", "claim_broken", "run_dropped", "job_trouble"})


def audited(node: fake_node.FakeNode) -> None:
    """Give a node the counters of an audited cache: poisoned, every hit is wrong until it is flushed."""
    counts = {"match": 0, "mismatch": 0}

    def page() -> Mapping[str, float]:
        counts["mismatch" if node.is_poisoned and node.entries else "match"] += AUDITS_PER_SCRAPE
        return {f'dsctl_node_cache_audits_total{{tier="l1",result="{name}"}}': n for name, n in counts.items()}

    node.metrics = page


@dataclass
class Server:
    """`dsctl server start` with one settings file; started, stopped, killed and started again."""

    config: Path
    log: Path
    url: str
    token_file: Path
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=20, trust_env=False))
    process: "subprocess.Popen[bytes] | None" = None

    def spawn(self, *, failpoint: str = "") -> None:
        """Start the process and return at once."""
        environment = clean_environment() | ({"DSCTL_FAILPOINT": failpoint} if failpoint else {})
        command = [sys.executable, "-m", "controlplane.cli", "server", "start", "--config", str(self.config)]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=self.config.parent)

    def start(self, *, failpoint: str = "") -> None:
        """Start the process and wait until it answers."""
        self.spawn(failpoint=failpoint)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the API answers."""
        real.until(self._answers, "the server is ready", seconds=START_SECONDS, pause_seconds=LOOK_SECONDS)

    def _answers(self) -> bool:
        assert self._running().poll() is None, f"the server ended at once:\n{self.log.read_text()[-3000:]}"
        try:
            return self.http.get(f"{self.url}/livez", timeout=2).is_success
        except httpx.TransportError:
            return False

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self.process is not None, "the server was never started"
        return self.process

    @property
    def pid(self) -> int:
        return self._running().pid

    def stop(self, *, seconds: float = 30.0) -> int:
        """Ask it to end, as a service manager does, and return its exit status."""
        self._running().send_signal(signal.SIGTERM)
        return self._running().wait(seconds)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._running().kill()
        self._running().wait(20)

    def wait_killed(self, *, seconds: float = 60.0) -> None:
        """Wait until an armed fail point has killed it."""
        assert self._running().wait(seconds) == -signal.SIGKILL, self.log.read_text()[-3000:]

    def events(self, *names: str) -> list[Json]:
        """Return the lines of the log that are events of these names, or all of them."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if not names or line.get("event") in names]

    def bugs(self) -> list[str]:
        """Return what the log holds that no outside trouble excuses."""
        text = self.log.read_text().splitlines()
        # After kill -9 Python's own tracker removes what the pool of fits had open, and says so.
        foreign = [
            line for line in text if line.strip() and not line.startswith("{") and "resource_tracker" not in line
        ]
        # A tick that is still running when the next is due is slow, and on a busy machine no bug.
        ours = [one for one in self.events(*OUR_BUGS) if one.get("reason") != "'it was still running'"]
        return [*(json.dumps(one) for one in ours), *foreign]

    def call(self, method: str, path: str, body: object = None, *, token: str | None = None) -> httpx.Response:
        """Send one request with the administrator's token, or another."""
        secret = token or self.token_file.read_text().strip()
        headers = {"Authorization": f"Bearer {secret}"}
        return self.http.request(method, f"{self.url}{path}", json=body, headers=headers)

    def get(self, path: str) -> Any:
        """Return the JSON at a path of the API; fails for anything but success."""
        answer = self.call("GET", f"/api/v1{path}")
        assert answer.is_success, answer.text
        return answer.json()

    def new_token(self, name: str, role: str) -> str:
        """Make a token and return its secret."""
        answer = self.call("POST", "/api/v1/tokens", {"name": name, "role": role})
        assert answer.is_success, answer.text
        return answer.json()["token"]

    def wait_ticks(self, count: int) -> None:
        """Wait until the loop has gone round so many times more, good or not."""

        def ticks() -> float:
            lines = self.http.get(f"{self.url}/metrics").text.splitlines()
            return sum(float(line.split()[1]) for line in lines if line.startswith("dsctl_ticks_total{"))

        goal = ticks() + count
        real.until(lambda: ticks() >= goal, f"{count} ticks more", seconds=60, pause_seconds=LOOK_SECONDS)

    def metric(self, name: str) -> float:
        """Return one unlabelled number of the server's own metrics."""
        text = self.http.get(f"{self.url}/metrics").text
        [line] = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(line.split()[1])


@dataclass
class Rig:
    """One installation. `people` receives what Alertmanager tells people."""

    folder: Path
    nodes: Mapping[str, fake_node.FakeNode]
    server: Server
    people: real.Inbox
    alertmanager_text: str
    prometheus_text: str = ""
    alertmanager: real.Server | None = None
    prometheus: real.Server | None = None
    running: dict[str, ExitStack] = field(default_factory=dict[str, ExitStack])

    def poison(self, name: str) -> fake_node.FakeNode:
        """Let the cache of a node give wrong answers until it is flushed."""
        node = self.nodes[name]
        node.entries, node.is_poisoned = 812, True
        return node

    def serve(self, name: str) -> None:
        """Bring a node up, on its address."""
        self.running[name] = ExitStack()
        self.running[name].enter_context(self.nodes[name].running_in_thread())

    def take_down(self, name: str) -> None:
        """Let a node vanish: nobody listens there."""
        self.running.pop(name).close()

    def start_prometheus(self) -> None:
        """Start Prometheus, or start it again with its data on its port."""
        port = files.port_in(self.server.config, "prometheus_url")
        self.prometheus = real.start_prometheus(self.folder / "prometheus", self.prometheus_text, port=port)

    def start_alertmanager(self) -> None:
        """Start Alertmanager, or start it again with its data on its port."""
        port = files.port_in(self.server.config, "alertmanager_url")
        self.alertmanager = real.start_alertmanager(self.folder / "am", self.alertmanager_text, port=port)

    def stop_all(self) -> None:
        """End what stands around the server."""
        for one in (self.prometheus, self.alertmanager):
            if one is not None:
                one.stop()
        for one in self.running.values():
            one.close()

    def incidents(self) -> list[Json]:
        """Return the incidents about caches, newest first; other trouble (a node that is down) has its own."""
        return [one for one in self.server.get("/incidents")["items"] if one["fault"] == "cache"]

    def incident(self, holds: Callable[[Json], bool], what: str, *, seconds: float = LOOP_SECONDS) -> Json:
        """Wait for the newest incident to be as `holds` says, and return it."""

        def look() -> Json:
            found = self.incidents()
            return found[0] if found and holds(found[0]) else {}

        try:
            return real.until(look, what, seconds=seconds, pause_seconds=LOOK_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None

    def closed(self) -> Json:
        """Wait until the newest incident is closed."""
        return self.incident(lambda one: one["state"] == "closed", "the incident is closed")

    def timeline(self, incident: Json) -> list[str]:
        """Return the notes on an incident, in order."""
        return [one["note"] for one in self.server.get(f"/incidents/{incident['id']}/timeline")["items"]]

    def runs(self) -> list[Json]:
        """Return the runs, newest first."""
        return self.server.get("/runs")["items"]

    def ended(self, run_id: str, *, seconds: float = LOOP_SECONDS) -> Json:
        """Wait until a run has ended and return it."""

        def look() -> Json:
            run = self.server.get(f"/runs/{run_id}")
            return run if run["ended_at"] else {}

        try:
            return real.until(look, f"{run_id} ends", seconds=seconds, pause_seconds=LOOK_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None

    def events(self, run_id: str) -> list[Json]:
        """Return the log of a run."""
        return self.server.get(f"/runs/{run_id}/events")["items"]

    def decisions(self) -> list[Json]:
        """Return the answers of decide and guard, newest first."""
        return self.server.get("/decisions")["items"]

    def tell(self, *alerts: Json, status: str = "firing") -> httpx.Response:
        """Send one notification, as Alertmanager does."""
        token = files.webhook_token(self.server.config).read_text()
        return self.server.call("POST", files.WEBHOOK, files.notification(*alerts, status=status), token=token)

    def until_seen(self) -> None:
        """Wait until this start of the server has seen every node."""
        names = set(self.nodes)

        def look() -> bool:
            answer = self.server.call("GET", "/api/v1/nodes")
            return answer.is_success and {one["name"] for one in answer.json()["items"] if one["is_up"]} == names

        real.until(look, "every node is seen", seconds=30, pause_seconds=LOOK_SECONDS)

    def until_scraped(self) -> None:
        """Wait until the audits of every node are known: a rate takes two scrapes."""

        def look() -> bool:
            answer = self.server.call("GET", "/api/v1/signals")
            rows = answer.json()["items"] if answer.is_success else []
            return any(one["signal"] == "cache_wrong_ratio" and one["state"] == "found" for one in rows)

        self.until_seen()
        real.until(look, "the audits are known", seconds=30, pause_seconds=LOOK_SECONDS)

    def order(self, node: str, *, key: str = "") -> httpx.Response | None:
        """Ask, as a person does, for a flush of a node; None when the server died over it."""
        body = {"runbook": "flush-cache", "service": files.SERVICE, "node": node, "reason": "a test asks"}
        secret = self.server.token_file.read_text().strip()
        headers = {"Authorization": f"Bearer {secret}"} | ({"Idempotency-Key": key} if key else {})
        try:
            return self.server.http.post(f"{self.server.url}/api/v1/runs", json=body, headers=headers)
        except httpx.TransportError:
            return None

    def story(self) -> str:
        """Return what a failed test should show: incidents, runs and their logs, the last lines of the server's log."""
        lines: list[str] = []
        try:
            for incident in self.server.get("/incidents")["items"]:
                lines += [f"{incident['id']} {incident['state']}: {incident['sentence']}"]
                lines += [f"    {note}" for note in self.timeline(incident)]
            for run in self.runs():
                lines += [f"{run['id']} {run['state']} {run['verdict']}: {run['sentence']}"]
                lines += [f"    {one['kind']} {one['step']} {one['data']}" for one in self.events(run["id"])]
        except (httpx.TransportError, AssertionError) as error:
            lines.append(f"the server tells nothing: {error!r}")
        return "\n".join([*lines, "the end of its log:", self.server.log.read_text()[-3000:]])

    def cli(self, *words: str, token_file: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Run `dsctl` against the server."""
        told = {"DSCTL_SERVER": self.server.url, "DSCTL_TOKEN_FILE": str(token_file or self.server.token_file)}
        return dsctl(*words, cwd=self.folder, **told)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without anything that dsctl would read."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DSCTL_")}


def dsctl(*words: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `dsctl` as a process to its end."""
    return subprocess.run(
        [sys.executable, "-m", "controlplane.cli", *words],
        cwd=cwd,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def server_of(config: Path) -> Server:
    """Return the server of a settings file, not yet started."""
    settings = yaml.safe_load(config.read_text())
    folder = config.parent
    url = f"http://127.0.0.1:{settings['listen']['port']}"
    return Server(config, folder / "server.log", url, folder / settings["data_dir"] / "admin-token")


@contextmanager
def installed(
    folder: Path,
    *,
    mode: str = "auto",
    names: Sequence[str] = ("n1", "n2"),
    has_prometheus: bool = True,
    has_alertmanager: bool = True,
    failpoint: str = "",
    **settings: object,
) -> Generator[Rig]:
    """Start nodes, Alertmanager, the server and Prometheus; the server's log must be clean of bugs at the end."""
    with ExitStack() as stack:
        people = stack.enter_context(real.receiving())
        nodes = {name: fake_node.FakeNode(name) for name in names}
        config = files.write(folder, mode=mode, **settings)
        server = server_of(config)
        rig = Rig(folder, nodes, server, people, files.alertmanager(config, server.url, people.url))
        stack.callback(rig.stop_all)
        stack.callback(server.http.close)
        server.spawn(failpoint=failpoint)
        stack.callback(_end, server)
        if has_alertmanager:
            rig.start_alertmanager()
        for name, node in nodes.items():
            audited(node)
            rig.serve(name)
        rig.prometheus_text = files.prometheus(
            config, {name: node.url.removeprefix("http://") for name, node in nodes.items()}
        )
        server.wait_ready()
        files.webhook_token(server.config).write_text(server.new_token("alertmanager", "events"), encoding="utf-8")
        if has_prometheus:
            rig.start_prometheus()
        yield rig
        assert not server.bugs(), "\n".join(server.bugs())


def _end(server: Server) -> None:
    """End the server, however the test left it."""
    if server.process is not None and server.process.poll() is None:
        try:
            server.stop()
        except subprocess.TimeoutExpired:
            server.kill()
