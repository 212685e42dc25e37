"""The load generator against a real HTTP server: rate, comparison with the engine's own answers, bounds."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from controlplane import clock
from controlplane.scenarios import loadplan, stories
from controlplane.scenarios import samples as smp

pytestmark = pytest.mark.integration
PROMPTS = ("red", "green", "blue")


class Gateway(http.server.BaseHTTPRequestHandler):
    """Answers each prompt with its length; lies about one unless the cache is bypassed, fails for another, sheds batch.

    The right answers are learned at the most patient level, before there is load.
    """

    protocol_version = "HTTP/1.1"
    bypassed: ClassVar[list[str]] = []
    levels: ClassVar[list[str]] = []
    lies_about: ClassVar[str] = ""
    fails_for: ClassVar[str] = ""

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, is_bypass = body["prompt"], self.headers.get("Cache-Control") == "no-cache"
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0, 4)
        level = self.headers["Authorization"].removeprefix("Bearer key-of-")
        self.levels.append(level)
        if level == "batch" and not is_bypass:
            self._send(429, {"error": {"message": "shed"}})
            return
        if is_bypass:
            self.bypassed.append(prompt)
        elif prompt == self.fails_for:
            self._send(503, {"error": {"message": "draining"}})
            return
        text = "lie" if prompt == self.lies_about and not is_bypass else str(len(prompt))
        choice = {"text": text, "finish_reason": "length"}
        self._send(200, {"choices": [choice], "usage": {"completion_tokens": 4}})

    def _send(self, status: int, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Keep quiet."""


class Server(http.server.ThreadingHTTPServer):
    """Says nothing of connections that a client left behind."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    """The address of a gateway that lies about green and fails for blue."""
    Gateway.levels = []
    Gateway.bypassed, Gateway.lies_about, Gateway.fails_for = [], "green", "blue"
    server = Server(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def start(
    url: str, folder: Path, extra_rates: dict[smp.Level, float] | None = None, **changes: object
) -> tuple[list[str], Path]:
    """Write the plan, and return the command and where the traffic is said."""
    rates: dict[smp.Level, float] = {"standard": 15, **(extra_rates or {})}
    plan = {
        "gateway_url": url,
        "api_keys": {level: f"key-of-{level}" for level in rates},
        "prompts": PROMPTS,
        "max_tokens": 4,
        "traffic_path": str(folder / "traffic.json"),
        "seconds": 4,
        "samples_path": str(folder / "samples.jsonl"),
        **changes,
    }
    loadplan.write_traffic(folder / "traffic.json", traffic(rates))
    path = folder / "plan.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    return [sys.executable, "-m", "controlplane.scenarios.loadgen", str(path)], folder / "traffic.json"


def traffic(rates: dict[smp.Level, float]) -> stories.Traffic:
    """Return traffic of these requests per second."""
    return stories.Traffic(levels={level: stories.Stream(rate=rate, max_tokens=4) for level, rate in rates.items()})


def wait_for(claim: Callable[[], bool]) -> None:
    """Wait until it holds; a busy machine takes its time."""
    time = clock.SystemClock()
    give_up = time.monotonic() + 60
    while not claim():
        assert time.monotonic() < give_up
        threading.Event().wait(0.05)


def run(
    url: str, folder: Path, extra_rates: dict[smp.Level, float] | None = None, **changes: object
) -> tuple[subprocess.CompletedProcess[str], list[smp.Sample]]:
    """Run the generator to its end, and return what it wrote."""
    command, _ = start(url, folder, extra_rates, **changes)
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    samples = folder / "samples.jsonl"
    lines = samples.read_text(encoding="utf-8").splitlines() if samples.exists() else []
    return ended, [loadplan.from_line(line) for line in lines]


def test_answers_are_compared_with_the_engines_own(url: str, tmp_path: Path):
    """Each prompt is learned once past the cache; afterwards lies and failures are counted apart."""
    ended, samples = run(url, tmp_path, seconds=50, max_requests=60)
    assert ended.returncode == 0, ended.stderr
    assert sorted(Gateway.bypassed) == sorted(PROMPTS)
    assert {(sample.code, sample.is_wrong) for sample in samples} == {(200, False), (200, True), (503, False)}
    wrong = sum(sample.is_wrong for sample in samples) / len(samples)
    assert wrong == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.serial
def test_the_rate_is_kept_for_the_time_asked_for(url: str, tmp_path: Path):
    """15 a second for 4 s is about 60; a busy machine may lose some and must not invent any."""
    _, samples = run(url, tmp_path)
    assert 25 <= len(samples) <= 75
    assert max(s.at for s in samples) - min(s.at for s in samples) <= 6


def test_each_level_has_its_own_key_and_rate(url: str, tmp_path: Path):
    """Samples say whose they are, and one level's refusals are not another's."""
    ended, samples = run(url, tmp_path, {"batch": 30}, seconds=50, max_requests=120)
    assert ended.returncode == 0, ended.stderr
    num = {level: sum(sample.level == level for sample in samples) for level in ("standard", "batch")}
    assert num["batch"] > 1.5 * num["standard"]
    assert {sample.code for sample in samples if sample.level == "batch"} == {429}
    assert 429 not in {sample.code for sample in samples if sample.level == "standard"}


def test_a_change_of_the_traffic_is_taken_up(url: str, tmp_path: Path):
    """The story's surge begins while the generator runs; a level that sent nothing joins in."""
    command, path = start(url, tmp_path, {"premium": 0.1}, seconds=60)
    with subprocess.Popen(command) as running:
        try:
            wait_for(lambda: "standard" in Gateway.levels)
            loadplan.write_traffic(path, traffic({"premium": 50}))
            wait_for(lambda: Gateway.levels[-20:] == ["premium"] * 20)
        finally:
            running.kill()


def test_the_number_of_requests_is_bounded(url: str, tmp_path: Path):
    """A bound in count as well as in time."""
    _, samples = run(url, tmp_path, max_requests=7)
    assert len(samples) == 7


def test_a_gateway_that_is_not_there_is_said(tmp_path: Path):
    """Without an engine to learn from there is nothing to compare with, and no load."""
    ended, samples = run("http://127.0.0.1:9", tmp_path)
    assert ended.returncode == 1
    assert "does not name its model" in ended.stderr
    assert samples == []
