"""Starts a real Prometheus and a real Alertmanager for tests, and small HTTP servers beside them.

Everything listens on a free port of the loopback interface, keeps its data in the folder it is given, and is ended
by its own process handle. A missing program is an error: it never skips a test silently.
"""

import http.server
import json
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from controlplane.demo import processes

Seen = TypeVar("Seen")

PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}


def program(name: str) -> str:
    """Return the path of a program, or fail with what to install."""
    found = shutil.which(name)
    if found is None:
        raise AssertionError(f"{name} is not installed; run: apt-get install {PACKAGES.get(name, name)}")
    return found


def run_tool(*command: str | Path) -> str:
    """Run promtool or amtool to its end and return what it printed; fails with that text on an error."""
    done = subprocess.run(
        [program(str(command[0])), *map(str, command[1:])], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def free_port() -> int:
    """Return a port nobody listens on, and which no outgoing connection takes meanwhile."""
    return processes.free_ports(1)[0]


def until(look: Callable[[], Seen], what: str, *, seconds: float = 20.0, pause_seconds: float = 0.05) -> Seen:
    """Look again until the answer is true, and return it; fails with `what` and the last answer."""
    end = time.perf_counter() + seconds
    pause = threading.Event()
    while not (seen := look()):
        assert time.perf_counter() < end, f"not within {seconds:g} s: {what}; last seen: {seen!r}"
        pause.wait(pause_seconds)
    return seen


def get(url: str) -> Any:
    """Return the JSON at a URL."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


@dataclass
class Server:
    """A running program."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def stop(self) -> None:
        """End it now."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(timeout=20)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.wait(timeout=20)

    def freeze(self) -> None:
        """Make it hang: connections are taken, nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


def _start(command: list[str], url: str, ready: str, log: Path) -> Server:
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    server = Server(url, process, log)

    def answers() -> bool:
        assert process.poll() is None, f"{command[0]} ended at once:\n{log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(f"{url}{ready}", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    try:
        until(answers, f"{command[0]} is ready")
    except BaseException:
        server.stop()
        raise
    return server


def start_prometheus(folder: Path, config: str, *, port: int | None = None) -> Server:
    """Start Prometheus with `config`, or start it again over the data of an earlier one in the same folder."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(config, encoding="utf-8")
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    return _start(command, f"http://127.0.0.1:{port}", "/-/ready", folder / "prometheus.log")


def start_alertmanager(folder: Path, config: str, *, port: int | None = None) -> Server:
    """Start Alertmanager with `config`, or start it again over the data of an earlier one in the same folder."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alertmanager.yml").write_text(config, encoding="utf-8")
    command = [
        program("prometheus-alertmanager"),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    return _start(command, f"http://127.0.0.1:{port}", "/-/ready", folder / "alertmanager.log")


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Generator[str]:
    """Serve HTTP on a free port and yield host:port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="test-http")
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


class QuietHandler(http.server.BaseHTTPRequestHandler):
    """Does not write an access log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        return

    def answer(self, status: int, body: bytes = b"", kind: str = "text/plain; version=0.0.4") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@dataclass
class Exposition:
    """A scrape target whose metrics the test sets: `metrics['x{a="b"}'] = 1`. Without `is_up` it answers 503."""

    address: str = ""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    is_up: bool = True

    def set(self, values: Mapping[str, float]) -> None:
        """Replace every metric."""
        self.metrics = dict(values)


@contextmanager
def exposing() -> Generator[Exposition]:
    """Serve one scrape target."""
    state = Exposition()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            text = "".join(f"{name} {value}\n" for name, value in dict(state.metrics).items())
            self.answer(200 if state.is_up else 503, text.encode())

    with serving(Handler) as address:
        state.address = address
        yield state


@dataclass
class Inbox:
    """What a webhook receiver got: bodies, and the Authorization header of each."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    authorizations: list[str] = field(default_factory=list[str])


@contextmanager
def receiving() -> Generator[Inbox]:
    """Serve one webhook receiver that answers 202."""
    inbox = Inbox()

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            inbox.authorizations.append(self.headers.get("Authorization", ""))
            inbox.bodies.append(json.loads(body))
            self.answer(202)

    with serving(Handler) as address:
        inbox.url = f"http://{address}"
        yield inbox
