"""The operator's page in a real Chromium, before a cfchat whose model is the stand-in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from axe import FAULTS, install_axe
from serving import post, served
from standin import STREAM_TYPE, Exchange, head_of
from webdriver import Browser, browser, is_missing

import cfchat

pytestmark = pytest.mark.skipif(is_missing(), reason="chromium and chromedriver are not installed")

# Runs in each page before anything of its own: its timers run twenty times as fast, and those that are set are known.
WATCH = """
window.reports = []; window.timers = new Set();
addEventListener("securitypolicyviolation", (event) => reports.push(event.violatedDirective + " " + event.blockedURI));
addEventListener("error", (event) => reports.push("error " + event.message));
addEventListener("unhandledrejection", (event) => reports.push("rejected " + event.reason));
const [set, clear] = [window.setTimeout, window.clearTimeout];
window.setTimeout = (call, ms) => {
  const timer = set(() => { timers.delete(timer); call(); }, ms / 20);
  timers.add(timer);
  return timer;
};
window.clearTimeout = (timer) => { timers.delete(timer); clear(timer); };
"""
SAYS = "return document.body.innerText.replace(/\\s+/g, ' ').includes(arguments[0])"
HIDE = """
Object.defineProperty(document, "hidden", { value: arguments[0], configurable: true });
document.dispatchEvent(new Event("visibilitychange"));
"""


class Model:
    """A model that says one word, waits until `go` is set, and refuses where it is asked to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        if b"refuse" in exchange.body:
            await exchange.send(head_of(400, []) + b'{"errors":[{"code":5006,"message":"no"}]}')
        else:
            await exchange.send(head_of(200, [STREAM_TYPE]) + b'data: {"response":"Hel"}\n\n')
            await self.go.wait()
            usage = b'"usage":{"prompt_tokens":50,"completion_tokens":450,"total_tokens":500,"neurons":12.5}'
            await exchange.send(b'data: {"response":"lo",' + usage + b"}\n\ndata: [DONE]\n\n")
        exchange.close()


class Page:
    """The browser from within a coroutine, and the cfchat that it shows."""

    def __init__(self, driver: Browser, serving: cfchat.Serving) -> None:
        self.driver = driver
        self.serving = serving

    async def run(self, script: str, *arguments: object) -> Any:
        return await asyncio.to_thread(self.driver.run, script, *arguments)

    async def says(self, words: str) -> None:
        """Wait until the page has these words."""
        await asyncio.to_thread(self.driver.until, SAYS, words)

    async def command(self, name: str, **parameters: object) -> None:
        await asyncio.to_thread(lambda: self.driver.command(name, **parameters))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        started.command("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        started.command("Network.enable")
        yield started


@asynccontextmanager
async def watching(driver: Browser, model: Model, **settings: Any) -> AsyncIterator[Page]:
    """Open the page of a cfchat, and see that nothing went wrong in it."""
    async with served(model, admin="127.0.0.1:0", **settings) as serving:
        admin = serving.service.admin
        assert admin is not None
        page = Page(driver, serving)
        await asyncio.to_thread(driver.size, 1200, 900)
        await asyncio.to_thread(driver.prefer, "light")
        await asyncio.to_thread(driver.open, f"http://127.0.0.1:{admin.address[1]}/")
        await page.says("Ready")
        yield page
        assert await page.run("return window.reports") == []
        await asyncio.to_thread(driver.open, "about:blank")


async def test_it_shows_what_happens_while_it_happens(driver: Browser) -> None:
    model = Model()
    async with watching(driver, model, daily_tokens=600, max_tokens=500) as page:
        await page.says("No errors since the start.")
        await post(page.serving.port, b"no json")
        await post(page.serving.port, b'[{"role": "user", "content": "refuse"}]')
        asked = asyncio.create_task(post(page.serving.port))
        await page.says("Replies running 1")
        model.go.set()
        assert (await asked).whole
        await page.says("Replies running 0")
        await page.says("Tokens 500 / 600 83% of the budget")
        await page.says("Neurons 12.5 / 10,000")
        await page.says("100% whole, 0 broken off")
        await page.says("upstream_refused Cloudflare 1 1")
        await page.says("invalid_json cfchat 1 1")
        bar = "(it) => [it.ariaLabel, it.ariaValueNow, it.dataset.full]"
        (tokens, _, worker) = await page.run(f"return [...document.querySelectorAll('.meter')].map({bar})")
        assert tokens == ["Tokens today", "83", "1"] and worker[1:] == ["83", "1"]


async def test_it_says_when_the_metrics_cannot_be_read_and_goes_on_when_they_can(driver: Browser) -> None:
    async with watching(driver, Model()) as page:
        await page.command("Network.setBlockedURLs", urls=["*/metrics"])
        await page.says("/metrics cannot be read: the server does not answer. What you see is of ")
        await page.command("Network.setBlockedURLs", urls=[])
        await page.says("Ready")
        assert await page.run("return document.querySelector('#trouble').hidden")
    driver.log()


async def test_a_page_that_nobody_sees_asks_for_nothing(driver: Browser) -> None:
    async with watching(driver, Model()) as page:
        await page.run(HIDE, True)
        await asyncio.to_thread(driver.until, "return timers.size == 0")
        asked = await page.run("return performance.getEntriesByType('resource').length")
        await page.run(HIDE, False)
        more = "return performance.getEntriesByType('resource').length > arguments[0] && timers.size == 1"
        await asyncio.to_thread(driver.until, more, asked)


async def test_what_it_keeps_is_bounded(driver: Browser) -> None:
    """Two hundred readings, of which it keeps and draws what five minutes hold."""
    async with watching(driver, Model()) as page:
        await page.run("window.setTimeout = (call) => queueMicrotask(call)")
        read = "return performance.getEntriesByName(location.href + 'metrics').length >= 200"
        await asyncio.to_thread(driver.until, read)
        drawn = await page.run("return document.querySelector('#streams path').getAttribute('d')")
        assert len(re.findall("[ML]", drawn)) == 151


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return install_axe(tmp_path_factory.mktemp("axe"))


@pytest.mark.parametrize("width", [320, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_fault(driver: Browser, axe: str, scheme: str, width: int) -> None:
    model = Model()
    model.go.set()
    async with watching(driver, model, daily_tokens=600, max_tokens=500) as page:
        await asyncio.to_thread(driver.prefer, scheme)
        await asyncio.to_thread(driver.size, width, 800)
        assert await page.run(FAULTS, axe) == []
        await post(page.serving.port)
        await post(page.serving.port, b"no json")
        await page.says("invalid_json")
        assert await page.run(FAULTS, axe) == []
        assert await page.run("return document.documentElement.scrollWidth <= innerWidth")
        await page.command("Network.setBlockedURLs", urls=["*/metrics"])
        await page.says("/metrics cannot be read")
        assert await page.run(FAULTS, axe) == []
        await page.command("Network.setBlockedURLs", urls=[])
    driver.log()
