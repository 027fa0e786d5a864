"""Pages of another origin in a real Chromium, with clients from npm in them."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from house import house
from installs import node_modules
from standin import Script, StandIn
from webdriver import Browser, browser

from cfchat.app.routes import Settings
from cfchat.server.request import Limits

AI_SDK = {"5": ("5.0.277", "2.0.280"), "6": ("6.0.325", "3.0.328"), "7": ("7.0.173", "4.0.177")}  # and its hooks
PACKAGES = (
    "@microsoft/fetch-event-source@2.0.1", "deep-chat@2.4.2", "esbuild@0.28.2", "react@19.3.1", "react-dom@19.3.1",
    "zod@4.6.7",
)  # fmt: skip


class Files(SimpleHTTPRequestHandler):
    """Modules name each other without their `.js`, as bundlers have it."""

    def translate_path(self, path: str) -> str:
        found = Path(super().translate_path(path))
        return str(found if found.exists() else found.with_suffix(".js"))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the pages are, and the packages beside them."""
    ai_sdk = [f"ai-{number}@npm:ai@{ai}" for number, (ai, _) in AI_SDK.items()]
    react = [f"react-{number}@npm:@ai-sdk/react@{hooks}" for number, (_, hooks) in AI_SDK.items()]
    folder = node_modules(tmp_path_factory.mktemp("pages"), *PACKAGES, *ai_sdk, *react)
    for number in AI_SDK:
        _bundle(folder, number)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def _bundle(folder: Path, number: str) -> None:
    """Make one script of React, of our page and of this version of the AI SDK."""
    names = f"--alias:ai=ai-{number}", f"--alias:@ai-sdk/react=react-{number}"
    mode = "--bundle", "--format=esm", '--define:process.env.NODE_ENV="production"', "--log-level=error"
    command = "node_modules/.bin/esbuild", "use_chat.mjs", *mode, *names, f"--outfile=use_chat_{number}.js"
    subprocess.run(command, cwd=folder, check=True)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


class Page:
    """The loop goes on while chromedriver is waited for."""

    def __init__(self, driver: Browser, origin: str) -> None:
        self.driver = driver
        self._origin = origin
        self.house = ""

    async def open(self, name: str) -> None:
        await asyncio.to_thread(self.driver.open, f"{self._origin}/{name}")
        await self.until("return window.ready")

    async def reload(self) -> None:
        await asyncio.to_thread(self.driver.call, "POST", "/refresh")
        await self.until("return window.ready")

    @asynccontextmanager
    async def hidden(self) -> AsyncIterator[None]:
        """In a window that is minimized."""
        await asyncio.to_thread(self.driver.call, "POST", "/window/minimize")
        yield
        await asyncio.to_thread(self.driver.call, "POST", "/window/rect", {"width": 800, "height": 600})

    async def run(self, script: str, *arguments: object) -> Any:
        return await asyncio.to_thread(self.driver.run, script, *arguments)

    async def upload(self, field: str, file: Path) -> None:
        """Choose a file in a field, by the reference of its element."""
        await asyncio.to_thread(self.driver.call, "POST", f"/element/{field}/value", {"text": str(file)})

    async def until(self, script: str, *arguments: object) -> Any:
        return await asyncio.to_thread(self.driver.until, script, *arguments)


@pytest.fixture
def page(driver: Browser, origin: str) -> Page:
    return Page(driver, origin)


@asynccontextmanager
async def asked(
    page: Page, *scripts: Script, limits: Limits = Limits(), app: Settings = Settings()
) -> AsyncIterator[StandIn]:
    async with StandIn(scripts) as standin, house(standin, limits=limits, app=app) as cfchat:
        page.house = f"http://127.0.0.1:{cfchat.port}"
        yield standin
