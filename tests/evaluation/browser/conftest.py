"""Headless Chromium over its DevTools pipe, with nothing but the standard library.

The protocol: JSON messages that end in a zero byte, written to the browser's file descriptor 3 and
read from its 4 (``--remote-debugging-pipe``).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
"""The browser of this machine; ``install.sh`` beside this file installs Debian's."""

_PATIENCE = 120.0


class Browser:
    """One tab. ``console`` collects errors and warnings, ``requests`` whatever was asked for."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._waiting, self._count, self._session = b"", 0, ""
        self.console: list[str] = []
        self.requests: list[str] = []
        self._loaded = 0
        self._features: list[dict[str, str]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a DevTools command; AssertionError where it fails."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, page: Path, *, width: int, dark: bool = False, media: str = "screen") -> None:
        """Shows a file on a screen of that width, in light or dark, or as it is printed."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = "dark" if dark else "light"
        self._features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=self._features)
        self.console.clear()
        self.requests.clear()
        loaded = self._loaded
        self.call("Page.navigate", url=page.as_uri())
        while self._loaded == loaded:
            self._next()

    def value(self, expression: str) -> Any:
        """What JavaScript gives in the page, as JSON."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """One key, for example Tab or Enter."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **pressed, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """The page as PNG, from top to bottom or only what is on the screen."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it is printed on A4, in the scheme it was opened in."""
        self.call("Emulation.setEmulatedMedia", media="", features=self._features)
        paper = {"paperWidth": 8.27, "paperHeight": 11.69}
        printed = self.call("Page.printToPDF", printBackground=True, **paper)
        path.write_bytes(base64.b64decode(printed["data"]))

    def _next(self) -> dict[str, Any]:
        """The next message; what it says about console, requests and loading is kept."""
        until = time.monotonic() + _PATIENCE
        while b"\0" not in self._waiting:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            read = os.read(self._read, 1 << 20) if ready else b""
            assert read, "Chromium closed its pipe or said nothing for two minutes"
            self._waiting += read
        text, _, self._waiting = self._waiting.partition(b"\0")
        message = json.loads(text)
        about = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded += 1
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Log.entryAdded":
                self.console.append(f"{about['entry']['level']}: {about['entry']['text']}")
            case "Runtime.consoleAPICalled":
                self.console.append(f"{about['type']}: {about['args']}")
            case "Runtime.exceptionThrown":
                self.console.append(f"exception: {about['exceptionDetails']['text']}")
        return message


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: run tests/evaluation/browser/install.sh (Debian)")
    with browsing(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser with a fresh profile in ``folder``; it is ended afterwards."""
    assert CHROMIUM is not None
    out_read, out_write = os.pipe()
    in_read, in_write = os.pipe()
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        "--remote-debugging-pipe",
    ]

    def place() -> None:
        # Copies above 10 first: the ends of a pipe may themselves be called 3 or 4.
        read, write = (os.dup2(end, number) for end, number in ((out_read, 50), (in_write, 51)))
        os.dup2(read, 3)
        os.dup2(write, 4)

    process = subprocess.Popen(
        command, preexec_fn=place, pass_fds=(3, 4), stderr=subprocess.DEVNULL
    )
    os.close(out_read)
    os.close(in_write)
    try:
        yield Browser(out_write, in_read)
    finally:
        process.terminate()
        process.wait(30)
        os.close(out_write)
        os.close(in_read)
