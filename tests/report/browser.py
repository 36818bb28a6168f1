# SPDX-License-Identifier: MIT
"""A real browser without a window, spoken to over two pipes (DevTools protocol)."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Without a window, and without what a browser does in the background of its own accord.
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-pipe",
)  # fmt: skip
TIMEOUT_S = 60


def find_browser() -> str | None:
    """Path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Browser:
    """A running browser: a message to it is JSON that ends with a zero byte, as is its answer."""

    to_browser: int
    from_browser: int
    events: list[dict[str, Any]] = field(default_factory=list)
    _rest: bytes = b""
    _number: int = 0

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        _write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer.get("result", {})
            self.events.append(answer)

    def wait_for(self, method: str) -> None:
        """Wait for an event."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.from_browser], [], [], max(left, 0))
            if not ready:
                raise TimeoutError(f"the browser said nothing for {TIMEOUT_S} s")
            part = os.read(self.from_browser, 1 << 16)
            if not part:
                raise EOFError("the browser has ended")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(
        self, page: Path, *, width: int = 1600, scripts: bool = True, medium: str = ""
    ) -> Tab:
        """Open a page of the disk in a tab of some width in pixels, and wait until it is there."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        self.call("Emulation.setDeviceMetricsOverride", session, width=width, height=900,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        self.call("Emulation.setScriptExecutionDisabled", session, value=not scripts)
        self.call("Emulation.setEmulatedMedia", session, media=medium)
        self.events.clear()
        self.call("Page.navigate", session, url=page.resolve().as_uri())
        self.wait_for("Page.loadEventFired")
        return Tab(self, session, target)


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


@dataclass
class Tab:
    """A page in the browser."""

    browser: Browser
    session: str
    target: str

    def ask(self, expression: str) -> Any:
        """Value of an expression on the page; promises are waited for."""
        answer = self.browser.call("Runtime.evaluate", self.session, expression=expression,
                                   returnByValue=True, awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, *, text: str = "") -> None:
        """Press a key of the keyboard."""
        code = {"Tab": 9, "Enter": 13}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            self.browser.call("Input.dispatchKeyEvent", self.session, type=kind, key=key, code=key,
                              windowsVirtualKeyCode=code, **extra)  # fmt: skip

    def write(self, text: str) -> None:
        """Type text into what has the focus."""
        self.browser.call("Input.insertText", self.session, text=text)

    def show_all(self) -> None:
        """Scroll through the page, so that every picture is loaded."""
        self.ask("""(async () => {
            for (const image of document.images) image.loading = 'eager';
            await Promise.all(Array.from(document.images, image => image.decode()));
        })()""")

    def complaints(self) -> list[str]:
        """Everything that the console was told, and exceptions."""
        self.ask("0")  # what is on its way has come then
        found = []
        for event in self.browser.events:
            method, params = event.get("method", ""), event.get("params", {})
            if method == "Log.entryAdded":
                found.append(params["entry"]["text"])
            elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                found.append(json.dumps(params))
        return found

    def requests(self) -> list[str]:
        """Addresses that were asked for, but for pictures that lie in the page."""
        return [
            event["params"]["request"]["url"]
            for event in self.browser.events
            if event.get("method") == "Network.requestWillBeSent"
            and not event["params"]["request"]["url"].startswith("data:")
        ]

    def picture(self, file: Path) -> Path:
        """Save the whole page as a PNG."""
        answer = self.browser.call("Page.captureScreenshot", self.session,
                                   captureBeyondViewport=True)  # fmt: skip
        file.write_bytes(base64.b64decode(answer["data"]))
        return file

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)


@contextmanager
def started(program: str, folder: Path) -> Iterator[Browser]:
    """Start a browser with a profile of its own in a folder, and end it."""
    command = [program, *OPTIONS, f"--user-data-dir={folder / 'profile'}"]
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    # The program reads from 3 and writes to 4; a shell puts the pipes there.
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
        pass_fds=(theirs_in, theirs_out),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_out, ours_in)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(TIMEOUT_S)
        os.close(ours_out)
        os.close(ours_in)
