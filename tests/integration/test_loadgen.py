"""The load generator against a real HTTP server: rate, comparison with the engine's own answers, bounds."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from controlplane.scenarios import loadplan
from controlplane.scenarios import samples as smp

pytestmark = pytest.mark.integration
PROMPTS = ("red", "green", "blue")


class Gateway(http.server.BaseHTTPRequestHandler):
    """Answers each prompt with its length; lies about one prompt unless the cache is bypassed; fails for another."""

    protocol_version = "HTTP/1.1"
    bypassed: ClassVar[list[str]] = []
    lies_about: ClassVar[str] = ""
    fails_for: ClassVar[str] = ""

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, is_bypass = body["prompt"], self.headers.get("Cache-Control") == "no-cache"
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0, 4)
        if is_bypass:
            self.bypassed.append(prompt)
        elif prompt == self.fails_for:
            self._send(503, {"error": {"message": "draining"}})
            return
        text = "lie" if prompt == self.lies_about and not is_bypass else str(len(prompt))
        self._send(200, {"choices": [{"text": text}]})

    def _send(self, status: int, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Keep quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    """The address of a gateway that lies about green and fails for blue."""
    Gateway.bypassed, Gateway.lies_about, Gateway.fails_for = [], "green", "blue"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def run(url: str, folder: Path, **changes: object) -> tuple[subprocess.CompletedProcess[str], list[smp.Sample]]:
    """Run the generator to its end, and return what it wrote."""
    plan = {
        "gateway_url": url,
        "prompts": PROMPTS,
        "max_tokens": 4,
        "rate_per_second": 15,
        "users": 3,
        "seconds": 4,
        "samples_path": str(folder / "samples.jsonl"),
        **changes,
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    command = [sys.executable, "-m", "controlplane.scenarios.loadgen", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    samples = folder / "samples.jsonl"
    lines = samples.read_text(encoding="utf-8").splitlines() if samples.exists() else []
    return ended, [loadplan.from_line(line) for line in lines]


def test_answers_are_compared_with_the_engines_own(url: str, tmp_path: Path):
    """Each prompt is learned once past the cache; afterwards lies and failures are counted apart."""
    ended, samples = run(url, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert sorted(Gateway.bypassed) == sorted(PROMPTS)
    assert {(sample.code, sample.is_wrong) for sample in samples} == {(200, False), (200, True), (503, False)}
    wrong = sum(sample.is_wrong for sample in samples) / len(samples)
    assert wrong == pytest.approx(1 / 3, abs=0.1)


def test_the_rate_is_kept_for_the_time_asked_for(url: str, tmp_path: Path):
    """15 a second for 4 s is about 60; a busy machine may lose some and must not invent any."""
    _, samples = run(url, tmp_path)
    assert 25 <= len(samples) <= 75
    assert max(s.at for s in samples) - min(s.at for s in samples) <= 6


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
