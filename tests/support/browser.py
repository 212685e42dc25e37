"""Drives a real Chromium without a window, through its debugging pipe: null-terminated JSON on two file descriptors.

No library is needed for the little that tests ask: open an address, type, click, wait for something, take a picture.
Blocking; one page per browser, which is ended by its own process handle.
"""

import base64
import contextlib
import itertools
import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

_ANSWER_SECONDS = 15.0
_POLL_SECONDS = 0.05
# As root there is no sandbox to be had; the pages are our own. Nothing is fetched from anywhere but loopback.
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
    "--window-size=1100,1300",
)
# The browser reads descriptor 3 and writes descriptor 4; the second copy is in case one of the pipe's ends is one of them.
_PUT_IN_PLACE = """
import os, sys
for place, end in [(3, os.dup(os.dup(int(sys.argv[1])))), (4, os.dup(os.dup(int(sys.argv[2]))))]:
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


def found() -> str | None:
    """Return the path of Chromium, or None where it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class RefusedError(AssertionError):
    """The browser could not do what it was asked, as while it leaves a page."""


class Page:
    """One page of one browser."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session: str | None = None
        self.complaints: list[str] = []  # what the console of the page reports, refusals of the policy among it
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Go to an address and wait until it is there."""
        self.run("window.isLeft = true")
        self._ask("Page.navigate", url=url)
        self._arrive("true")

    def follow(self, selector: str, path: str) -> None:
        """Click on what leads to another page, and wait until that is there."""
        self.run("window.isLeft = true")
        self.click(selector)
        self._arrive(f"location.pathname === {json.dumps(path)}")

    def _arrive(self, is_there: str) -> None:
        self.wait(f"!window.isLeft && {is_there} && document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RefusedError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = _ANSWER_SECONDS) -> None:
        """Wait until an expression is true; a page that is just being left answers nothing, and is asked again."""
        deadline = time.monotonic() + seconds  # noqa: TID251  # a real browser keeps real time
        while not self._is_true(expression):
            if time.monotonic() > deadline:  # noqa: TID251
                raise AssertionError(f"never true: {expression}; the page says:\n{self.text()}")
            time.sleep(_POLL_SECONDS)  # noqa: TID251

    def _is_true(self, expression: str) -> bool:
        try:
            return bool(self.run(expression))
        except RefusedError:
            return False

    def text(self) -> str:
        return self.run("document.body.innerText")

    def fill(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self._ask("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def scheme(self, name: str) -> None:
        """Say which colours the system prefers: light or dark."""
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def width(self, pixels: int) -> None:
        self._ask("Emulation.setDeviceMetricsOverride", width=pixels, height=1300, deviceScaleFactor=1, mobile=False)

    def picture(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        shot = self._ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(shot))

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        asked: dict[str, Any] = {"id": number, "method": method, "params": params}
        asked |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while True:
            answer = self._read(method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RefusedError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        entry = event["params"]["entry"] if event.get("method") == "Log.entryAdded" else {"level": ""}
        if entry["level"] in {"warning", "error"}:
            self.complaints.append(entry["text"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(event["params"]["exceptionDetails"]))

    def _read(self, method: str) -> dict[str, Any]:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._from, selectors.EVENT_READ)
            while b"\0" not in self._buffer:
                if not waiting.select(_ANSWER_SECONDS):
                    raise AssertionError(f"the browser did not answer {method} within {_ANSWER_SECONDS:g} s")
                chunk = os.read(self._from, 1 << 16)
                assert chunk, f"the browser ended while it was asked {method}"
                self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@contextlib.contextmanager
def page(program: str, folder: Path) -> Generator[Page]:
    """Start a browser with a fresh profile in `folder`, and end it afterwards."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    command = [sys.executable, "-c", _PUT_IN_PLACE, str(theirs_in), str(theirs_out), program, *_OPTIONS]
    command += [f"--user-data-dir={folder}", "about:blank"]
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(ours_out, ours_in)
    finally:
        os.close(ours_out)  # the browser ends when nobody holds its pipe
        os.close(ours_in)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
