"""A small client of W3C WebDriver: starts chromedriver, and drives one headless Chromium."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "disable-dev-shm-usage", "hide-scrollbars",
)  # fmt: skip
ENTER, ESCAPE, TAB, SHIFT, SPACE = "\ue007", "\ue00c", "\ue004", "\ue008", " "
PATIENCE = 15.0  # seconds
STARTS = 20


class WebDriverError(Exception):
    """What chromedriver answers when it cannot: its own kind of error, and words."""


class Browser:
    """One window. Elements are found by CSS selectors of the page, `>>>` stepping into a shadow root."""

    def __init__(self, port: int, session: str) -> None:
        self._port = port
        self._path = f"/session/{session}"

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One command of the session; its `value`. Raises WebDriverError."""
        return call(self._port, method, self._path + path, body)

    def open(self, url: str) -> None:
        self.call("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """The body of a function, run in the page; a promise is awaited."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script: str, *arguments: object) -> Any:
        """Run it until its value is true; that value. Raises TimeoutError."""
        end = time.monotonic() + PATIENCE
        while not (value := self.run(script, *arguments)):
            if time.monotonic() > end:
                raise TimeoutError(script)
        return value

    def keys(self, text: str) -> None:
        """Type into whatever has the focus. A SHIFT holds until the end."""
        down = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp") if key != SHIFT]
        if SHIFT in text:
            down = [{"type": "keyDown", "value": SHIFT}, *down, {"type": "keyUp", "value": SHIFT}]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": down}]})

    def command(self, name: str, **parameters: object) -> Any:
        """A command of the Chrome DevTools Protocol."""
        return self.call("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def size(self, width: int, height: int) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def prefer(self, scheme: str) -> None:
        """`light` or `dark`."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path) -> None:
        """A PNG of what the window shows."""
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def log(self) -> list[str]:
        """What the console has had to say since the last time."""
        entries = self.call("POST", "/se/log", {"type": "browser"})
        return [f"{entry['level']} {entry['message']}" for entry in entries]


def call(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        content = json.dumps(body or {}) if method == "POST" else None
        connection.request(method, path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        value = json.loads(response.read())["value"]
    finally:
        connection.close()
    if response.status != 200:
        raise WebDriverError(f"{value['error']}: {value['message'].splitlines()[0]}")
    return value


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own in `folder`. Needs CHROMIUM and CHROMEDRIVER."""
    assert CHROMIUM and CHROMEDRIVER, "chromium and chromedriver are required"
    with _driver() as (driver, port):
        try:
            yield from _session(port, folder)
        finally:
            driver.terminate()


@contextmanager
def _driver() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A chromedriver and its port. It takes any that is free of IPv6, and ends if IPv4 has none of that number."""
    command = [str(CHROMEDRIVER), "--port=0"]
    for _ in range(STARTS):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
            assert driver.stdout
            for line in driver.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    yield driver, int(found[1])
                    return
    raise AssertionError("chromedriver did not start")


def _session(port: int, folder: Path) -> Iterator[Browser]:
    options = {"binary": CHROMIUM, "args": [*FLAGS, f"user-data-dir={folder}"]}
    asked = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    session = call(port, "POST", "/session", {"capabilities": {"alwaysMatch": asked}})["sessionId"]
    try:
        yield Browser(port, session)
    finally:
        call(port, "DELETE", f"/session/{session}")


def is_missing() -> bool:
    """Whether the tests in a browser must be left out; never on CI, where what is missing fails."""
    return not (CHROMIUM and CHROMEDRIVER) and "CI" not in os.environ
