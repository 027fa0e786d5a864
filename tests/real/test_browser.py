"""<cf-chat> and its page in a real Chromium, the model behind them the stand-in."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from axe import FAULTS, install_axe
from between import Between
from between import Line as Cable
from house import House, house
from standin import (
    Exchange,
    Model,
    StandIn,
    event,
    head_of,
    json_error,
    partial,
    raw,
    reply,
    wire_of,
    words,
)
from webdriver import ENTER, ESCAPE, SHIFT, SPACE, TAB, Browser, browser, is_missing

from cfchat.app.kept.replies import Keeping
from cfchat.app.routes import Settings as AppSettings
from cfchat.guard.cors import Origins
from cfchat.guard.guard import Guard, Settings
from cfchat.guard.keys import parse_keys
from cfchat.guard.limits import Rate
from cfchat.server.request import Limits

pytestmark = pytest.mark.skipif(is_missing(), reason="chromium and chromedriver are not installed")

# Runs in each page before anything of its own.
WATCH = """
window.reports = []; window.tasks = []; window.fired = [];
addEventListener("securitypolicyviolation", (event) => reports.push(event.violatedDirective + " " + event.blockedURI));
addEventListener("error", (event) => reports.push("error " + event.message));
addEventListener("unhandledrejection", (event) => reports.push("rejected " + event.reason));
new PerformanceObserver((list) => tasks.push(...list.getEntries())).observe({ type: "longtask" });
for (const name of ["delta", "done", "error"])
  addEventListener("cfchat-" + name, (event) => fired.push([name, event.detail]));
"""
NAMES = """
const chat = document.querySelector("cf-chat"), root = chat?.shadowRoot, $ = (what) => root.querySelector(what);
const $$ = (what) => [...root.querySelectorAll(what)], replies = () => $$(".reply-bubble").map((it) => it.innerText);
const press = (what) => $(what).click(), focused = () => root.activeElement;
"""
SAMPLE = """\
# Streams

Text with **bold**, *emphasis*, `code` and [a link](https://example.com/a_(b)?c=d "title"), or https://example.com/x.
Second line: 2 * 3 * 4, snake_case, a lone ** and a [bracket].

1. First
   - nested **one**
   - nested two
2. Second

   ```python
   def f(x):
       return f"{x}`"
   ```
3. Third

> Quoted
> twice
>
> and again

| Name | Size |
|------|-----:|
| `a`  | **1** |

---
```
open, and not closed: <b>**no**</b>
"""


def asked(exchange: Exchange) -> list[tuple[str, str]]:
    """What the model was sent, without the system message."""
    return [(m["role"], m["content"]) for m in json.loads(exchange.body)["messages"] if m["role"] != "system"]


class Page:
    """The browser from within a coroutine: the loop goes on while chromedriver is waited for."""

    def __init__(self, driver: Browser) -> None:
        self.driver = driver
        self.expected = ""  # in the console's lines that are no fault
        self.reports: list[str] = []  # what the page itself saw go wrong

    async def open(self, url: str) -> None:
        await asyncio.to_thread(self.driver.open, url)
        await self.until("return !!customElements.get('cf-chat')")

    async def leave(self) -> None:
        """While its server is still there: what the browser wants of it later, a favicon for one, would fail."""
        self.reports += await self.run("return window.reports")
        await asyncio.to_thread(self.driver.open, "about:blank")

    async def run(self, script: str, *arguments: object) -> Any:
        return await asyncio.to_thread(self.driver.run, NAMES + script, *arguments)

    async def until(self, script: str, *arguments: object) -> Any:
        return await asyncio.to_thread(self.driver.until, NAMES + script, *arguments)

    async def keys(self, text: str) -> None:
        await asyncio.to_thread(self.driver.keys, text)

    async def say(self, text: str) -> None:
        """Type it, and press Enter."""
        await self.run("chat.focus()")
        await self.keys(text + ENTER)

    async def said(self, *texts: str) -> None:
        """Until these are the replies, and no other is running."""
        await self.until("return $('.stop').hidden && JSON.stringify(replies()) == arguments[0]", dumps(texts))

    async def command(self, name: str, **parameters: object) -> Any:
        return await asyncio.to_thread(lambda: self.driver.command(name, **parameters))


def dumps(texts: tuple[str, ...]) -> str:
    return json.dumps(texts, ensure_ascii=False, separators=(",", ":"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        started.command("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        yield started


@pytest.fixture
def page(driver: Browser) -> Iterator[Page]:
    driver.size(1000, 700)
    driver.prefer("light")
    driver.open("about:blank")
    driver.log()
    opened = Page(driver)
    yield opened
    assert opened.reports == []
    told = [line for line in driver.log() if not opened.expected or opened.expected not in line]
    assert told == []


@asynccontextmanager
async def chatting(page: Page, *scripts: Any, **more: Any) -> AsyncIterator[StandIn]:
    """The page of a house whose model follows the scripts, open."""
    async with StandIn(scripts) as standin, house(standin, **more) as cfchat:
        await page.open(f"http://127.0.0.1:{cfchat.port}/")
        yield standin
        await page.leave()


# --- a conversation -----------------------------------------------------------------------------


async def test_a_reply_grows_while_it_runs(page: Page) -> None:
    model = Model()
    async with chatting(page, model, words("And you?")) as standin:
        await page.say("Hello")
        await page.until("return $('.waiting') && !$('.stop').hidden && $('.send').hidden")
        for piece, shown in (("Good", "Good"), (" **mor", "Good mor"), ("ning**\n\n- a", "Good morning\n\na")):
            model.say(piece)
            await page.until("return replies()[0] == arguments[0]", shown)
        assert await page.run("return $('.log').ariaBusy") == "true"
        model.end()
        await page.said("Good morning\n\na")
        await page.say("Fine")
        await page.said("Good morning\n\na", "And you?")
        assert await page.run("return $('.input').value") == ""
        fired = await page.run("return fired")
        deltas = [detail["text"] for name, detail in fired[: fired.index(["done", fired[-1][1]])] if name == "delta"]
        assert "".join(deltas).startswith("Good **morning**\n\n- a")
        assert fired[-1] == ["done", {"text": "And you?", "stopped": False}]
        assert await page.run("return chat.messages.length") == 4
    said = [("user", "Hello"), ("assistant", "Good **morning**\n\n- a"), ("user", "Fine")]
    assert asked(standin.requests[1]) == said


@pytest.mark.parametrize("how", ["press('.stop')", "keys", "chat.stop()", "chat.clear()", "chat.remove()"])
async def test_stop_closes_the_call_to_the_model(page: Page, how: str) -> None:
    model = Model()
    async with chatting(page, model, words("Again")) as standin:
        await page.say("Hello")
        model.say("Not yet fin")
        await page.until("return replies()[0] == 'Not yet fin'")
        await (page.keys(ESCAPE) if how == "keys" else page.run(how))
        await standin.wait_closed_by_peer()
        if how in ("chat.clear()", "chat.remove()"):
            assert await page.run("return [root && replies().length, chat?.messages.length]") in ([0, 0], [None, None])
            return
        await page.said("Not yet fin")
        assert "stopped" in await page.run("return $('.notice').innerText")
        assert await page.run("return fired.at(-1)") == ["done", {"text": "Not yet fin", "stopped": True}]
        await page.say("Go on")
        await page.said("Not yet fin", "Again")
    assert asked(standin.requests[1]) == [("user", "Hello"), ("assistant", "Not yet fin"), ("user", "Go on")]


async def test_what_only_javascript_takes_for_the_end_of_a_line_is_text(page: Page) -> None:
    """U+2028 and U+2029 may stand in JSON as they are, and end no line of an event stream."""
    said = "One\u2028two\u2029data: three\x85four"
    async with chatting(page, words(said)):
        await page.say("Hello")
        await page.until("return fired.length && fired.at(-1)[0] != 'delta'")
        assert await page.run("return fired.at(-1)") == ["done", {"text": said, "stopped": False}]


async def test_words_right_before_a_break_reach_a_page(page: Page) -> None:
    """Of the bare text, by the reader that pages write themselves."""
    page.expected = "net::ERR_INCOMPLETE_CHUNKED_ENCODING"
    read = """
    window.got = [];
    async function read() {
      let text = "";
      try {
        const body = JSON.stringify([{ role: "user", content: "Hello" }]);
        const reader = (await fetch("/api/chatbot", { method: "POST", body })).body.getReader();
        for (let it = await reader.read(); !it.done; it = await reader.read())
          text += new TextDecoder().decode(it.value);
      } catch (error) {
        text += " " + error.name;
      }
      window.got.push(text);
    }
    for (let i = 0; i < 8; i++) read();
    """
    said = wire_of(b"".join(map(event, ("one", " two three", " four five six"))))
    broken = said.removesuffix(b"0\r\n\r\n")
    cut = raw(broken, [len(broken) // 2, len(broken) - 1], then="close")
    async with chatting(page, *[cut] * 8):
        await page.run(read)
        await page.until("return window.got.length == 8")
        assert await page.run("return window.got") == ["one two three four five six TypeError"] * 8


async def test_a_connection_that_is_lost_behind_the_end_of_a_reply(page: Page) -> None:
    """The reply is whole, and nobody asks again."""
    page.expected = "net::ERR_INCOMPLETE_CHUNKED_ENCODING"
    shown = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        said = b'data: {"text":"Whole"}\n\ndata: [DONE]\n\n'
        await exchange.send(wire_of(said).removesuffix(b"0\r\n\r\n"))
        await shown.wait()
        exchange.close()

    async with beside(page, "resume", script) as server:
        await page.say("Hello")
        await page.until("return replies()[0] == 'Whole'")
        shown.set()
        await page.said("Whole")
        assert not await page.run("return $('.notice')") and len(server.requests) == 2


async def test_an_interruption_is_marked_and_can_be_tried_again(page: Page) -> None:
    page.expected = "net::ERR_INCOMPLETE_CHUNKED_ENCODING"
    model = Model()
    async with chatting(page, model, words("Whole")) as standin:
        await page.say("Hello")
        model.say("Half a wo")
        await page.until("return replies()[0] == 'Half a wo'")
        model.break_off()
        await page.until("return $('.notice.error')")
        await page.said("Half a wo")
        assert "broke off" in await page.run("return $('.notice').innerText")
        error = await page.run("return fired.at(-1)")
        assert (error[0], error[1]["text"], error[1]["status"]) == ("error", "Half a wo", 0)
        await page.run("press('.retry')")
        await page.said("Half a wo", "Whole")
        assert await page.run("return $$('.retry').length") == 0
        assert await page.run("return chat.messages.map((message) => message.content)") == ["Hello", "Whole"]
    assert asked(standin.requests[1]) == [("user", "Hello")]


async def test_a_reply_that_is_cut_at_its_length_goes_on(page: Page) -> None:
    model = Model()
    cut = {"choices": [{"index": 0, "delta": {"content": "One **two"}, "finish_reason": "length"}]}
    long = reply(b"data: " + json.dumps(cut).encode() + b"\n\ndata: [DONE]\n\n")
    async with chatting(page, long, json_error(400, 5006, "no"), model) as standin:
        page.expected = "status of 502"
        await page.say("Count")
        await page.until("return $('.notice') && !$('.notice.error')")
        assert await page.run("return [$('.notice > span').innerText, $('.retry').innerText]") == [
            "The reply was cut, because it is as long as replies may be.",
            "Continue",
        ]
        await page.run("press('.retry')")
        await page.until("return $('.notice.error') && $('.retry').innerText == 'Continue'")
        await page.run("press('.retry')")
        model.say(" three** four")
        model.end()
        await page.said("One two three four")
        assert await page.run("return [$$('strong').length, $$('.notice').length]") == [1, 0]
        assert await page.run("return chat.messages.map((message) => message.content)") == [
            "Count",
            "One **two three** four",
        ]
        assert await page.run("return fired.at(-1)") == ["done", {"text": "One **two three** four", "stopped": False}]
    said = asked(standin.requests[2])
    assert said[:2] == [("user", "Count"), ("assistant", "One **two")] and said[2][0] == "user" and len(said) == 3


async def test_an_error_before_the_first_byte(page: Page) -> None:
    page.expected = "status of 502"
    refused = json_error(401, 10000, "Authentication error")
    async with chatting(page, refused, words("Well")) as standin:
        await page.say("Hello")
        shown = await page.until("return $('.notice.error')?.innerText")
        error = await page.run("return fired.at(-1)")
        assert (error[0], error[1]["status"], error[1]["code"]) == ("error", 502, "upstream_auth")
        assert error[1]["message"] in shown and "10000" not in shown
        await page.run("press('.retry')")
        await page.until("return replies().at(-1) == 'Well'")
    assert asked(standin.requests[1]) == [("user", "Hello")]


async def test_words_and_errors_that_come_behind_heartbeats(page: Page) -> None:
    """An error has no status of its own any more. Thoughts are not drawn."""

    async def late(exchange: Exchange) -> None:
        await asyncio.sleep(0.2)  # a model's silence, of several heartbeats
        script = words("<think>Hm.</think>", "Good") if len(standin.requests) == 1 else json_error(400, 5006, "no")
        await script(exchange)

    more = {"limits": Limits(heartbeat=0.03), "app": AppSettings(thoughts=True)}
    async with chatting(page, late, late, words("Again"), **more) as standin:
        await page.say("Hello")
        await page.said("Good")
        await page.say("And now?")
        await page.until("return $('.notice.error')")
        name, error = await page.run("return fired.at(-1)")
        assert (name, error["status"], error["code"], error["text"]) == ("error", 0, "upstream_refused", "")
        await page.run("press('.retry')")
        await page.said("Good", "Again")
        assert await page.run("return chat.messages.length") == 4


async def test_retry_after_is_respected(page: Page) -> None:
    page.expected = "status of 429"
    guard = Guard(Settings(rate=Rate(1, 60)))
    async with chatting(page, words("One"), guard=guard):
        await page.say("Hello")
        await page.said("One")
        await page.say("Hello")
        await page.until("return $('.retry')?.disabled && /Try again in \\d+ s/.test($('.retry').innerText)")
        assert 0 < (await page.run("return fired.at(-1)"))[1]["retryAfter"] <= 60


@asynccontextmanager
async def elsewhere(page: Page, port: int, attributes: str = "") -> AsyncIterator[None]:
    """A page of another origin, open, with nothing but the two lines of the README."""
    html = (
        "<!doctype html><html lang=en><link rel=icon href=data:,><title>Elsewhere</title>"
        f'<script type=module src="http://127.0.0.1:{port}/cfchat.js"></script><cf-chat {attributes}></cf-chat>'
    )
    script = reply(html.encode(), framing="length", fields=[("content-type", "text/html")])
    async with StandIn([script], repeat=True, certificate=None) as server:
        await page.open(f"http://localhost:{server.port}/")
        yield
        await page.leave()


async def test_from_another_origin_with_a_key(page: Page) -> None:
    """The module and the chat come from another origin; the preflight answers what is asked for."""
    guard = Guard(Settings(keys=parse_keys("page 0123456789abcdef")))
    async with StandIn([words("From afar")]) as standin, house(standin, guard=guard) as cfchat:
        async with elsewhere(page, cfchat.port):
            await page.run(
                "chat.headers = { Authorization: 'Bearer 0123456789abcdef',"
                " 'X-Stainless-Lang': 'js', 'X-Stainless-Retry-Count': '0' }"
            )
            await page.say("Hello")
            await page.said("From afar")
        assert any("OPTIONS /api/chatbot 204" in line for line in cfchat.log)


async def test_a_page_of_a_named_origin_may_send_cookies_and_read_a_404(page: Page) -> None:
    page.expected = "status of 404"
    ask = """
    window.got = null;
    const fields = { "Content-Type": "application/json", Authorization: "Bearer x" };
    const init = { method: "POST", credentials: "include", headers: fields, body: '[{"role":"user","content":"Hi"}]' };
    Promise.all(["/api/chatbot", "/api/chatbo"].map(async (path) => (await fetch(arguments[0] + path, init)).text()))
      .then((texts) => { window.got = texts; }, (error) => { window.got = [String(error)]; });
    """
    body = b"<!doctype html><link rel=icon href=data:,>"
    html = reply(body, framing="length", fields=[("content-type", "text/html")])
    async with StandIn([html], repeat=True, certificate=None) as server:
        origin = f"http://localhost:{server.port}"
        guard = Guard(Settings(origins=Origins((origin,))))
        async with StandIn([words("From afar")]) as standin, house(standin, guard=guard) as cfchat:
            await asyncio.to_thread(page.driver.open, origin)
            await page.run(ask, f"http://127.0.0.1:{cfchat.port}")
            got = await page.until("return window.got")
            await page.leave()
    assert got[0] == "From afar" and json.loads(got[1])["error"]["code"] == "not_found"


async def test_nobody_there(page: Page) -> None:
    page.expected = "net::ERR_CONNECTION_REFUSED"
    async with StandIn([]) as gone:
        pass
    endpoint = f'endpoint="http://127.0.0.1:{gone.port}/api/chatbot"'
    async with StandIn([]) as standin, house(standin) as cfchat, elsewhere(page, cfchat.port, endpoint):
        await page.say("Hello")
        assert "cannot be reached" in await page.until("return $('.notice.error')?.innerText")


# --- what is said -------------------------------------------------------------------------------


async def test_markup_stays_text(page: Page) -> None:
    text = (
        "<script>reports.push('script')</script><img src=x onerror=\"reports.push('img')\"> &lt;\n"
        "[a](javascript:reports.push(1)) [b](data:text/html,x) [c](/relative) [d](JaVaScRiPt:x) [e](mailto:a@b.example)"
        "\n![picture](https://example.com/p.png) [f](https://example.com/) **<b>bold</b>**\n"
        "```html\n<script>reports.push('code')</script>\n```\n"
    )
    async with chatting(page, words(text)):
        await page.say("<b>Hello</b>")
        await page.until("return fired.at(-1)?.[0] == 'done'")
        shown = await page.run("return replies()[0]")
        assert "<script>reports.push('script')</script><img src=x" in shown and "&lt;" in shown
        assert "<script>reports.push('code')</script>" in shown
        assert await page.run("return $('.user-bubble').innerText") == "<b>Hello</b>"
        assert await page.run("return $$('.thread :is(script, img, b, iframe, [onerror], [style])').length") == 0
        anchors = await page.run("return $$('.thread a').map((it) => [it.href, it.rel, it.target])")
    safe = ("noopener noreferrer nofollow", "_blank")
    addresses = ("mailto:a@b.example", "https://example.com/p.png", "https://example.com/")
    assert anchors == [[address, *safe] for address in addresses]


STREAM = """
const [text, step] = arguments, letters = [...text], frames = new MessageChannel(), waiting = [], spoken = [];
frames.port1.onmessage = () => waiting.shift()();
window.requestAnimationFrame = (work) => (waiting.push(work), frames.port2.postMessage(0));
const hear = (changes) => changes.forEach((it) => it.addedNodes.forEach((node) => spoken.push(node.textContent)));
const ear = new MutationObserver(hear);
ear.observe($("[aria-live]"), { childList: true });
const pieces = step ? [] : [text];
while (step && letters.length) pieces.push(letters.splice(0, step).join(""));
const datas = [...pieces.map((piece) => JSON.stringify({ text: piece })), "[DONE]"];
const events = datas.map((data) => `data: ${data}\\n\\n`).join("");
const bytes = new TextEncoder().encode(events), size = step ? 7 * step + 3 : bytes.length;
window.fetch = async () => new Response(new ReadableStream({
  async start(sink) {
    for (let at = 0; at < bytes.length; at += size) {
      sink.enqueue(bytes.slice(at, at + size));
      await new Promise(requestAnimationFrame);
    }
    sink.close();
  },
}));
chat.clear();
return chat.send("x").then(() => {
  hear(ear.takeRecords());
  return [$(".reply-bubble").innerHTML, spoken.join(" ").replaceAll(/\\s+/g, " ")];
});
"""


async def test_any_cut_gives_the_same_document(page: Page) -> None:
    """Events of few letters and of many, in pieces that end inside of events and of characters too."""
    text = SAMPLE + "çedilla 世界 \U0001f600 end"
    async with chatting(page):
        whole, spoken = await page.run(STREAM, text, 0)
        for step in (1, 3, 7, 64):
            assert await page.run(STREAM, text, step) == [whole, spoken]
    for tag in (
        '<h4 dir="auto" class="level-1">Streams</h4>',
        "<strong>bold</strong>, <em>emphasis</em>, <code>code</code>",
        '<a href="https://example.com/a_(b)?c=d"',
        '<a href="https://example.com/x"',
        "2 * 3 * 4, snake_case, a lone ** and",
        '<ol dir="auto" start="1"><li>First<ul dir="auto"><li>nested <strong>one</strong></li>',
        'return f"{x}`"</span>',
        "<li>Third</li></ol><blockquote>",
        "Quoted\ntwice</p><p",
        "<td><strong>1</strong></td>",
        "<hr>",
        "not closed: &lt;b&gt;**no**&lt;/b&gt;",
    ):
        assert tag in whole, tag
    assert whole.count("<ol") == 1 and whole.count("<pre") == 2
    assert "First nested one nested two Second" in spoken and "return f" not in spoken


async def test_a_long_reply_leaves_the_page_responsive(page: Page) -> None:
    """10,000 tokens, some of them as one paragraph and one block of code: no task takes 50 ms."""
    prose = ["A sentence with **bold** words and `code` in it. "] * 80 + ["\n\n- item"] * 200
    code = ["\n\n```python\n", *(f"value_{line} = compute({line}) + 1  # line\n" for line in range(800)), "```\n\n"]
    tokens = [piece[at : at + 4] for piece in prose + code for at in range(0, len(piece), 4)]
    tokens += ["word "] * (10_000 - len(tokens))
    assert len(tokens) == 10_000

    async def script(exchange: Exchange) -> None:
        await exchange.send(head_of(200, [("content-type", "text/event-stream"), ("connection", "close")]))
        for at in range(0, len(tokens), 50):
            await exchange.send(b"".join(map(event, tokens[at : at + 50])))
            await asyncio.sleep(0.01)  # a fast model: 5,000 tokens a second
        await exchange.send(b"data: [DONE]\n\n")
        exchange.close()

    async with chatting(page, script, script, script):
        longest = []
        for _ in range(3):
            begun = await page.run("chat.clear(); fired.length = 0; return performance.now()")
            await page.say("Tell me all")
            await page.until("return fired.at(-1)?.[0] == 'done'")
            assert await page.run("return chat.messages[1].content.length") == sum(map(len, tokens))
            # The browser tells of none below 50 ms.
            ran = "return tasks.filter((task) => task.startTime > arguments[0]).map((task) => task.duration)"
            longest.append(max(await page.run(ran, begun), default=0))
            # Where more programs run than there are processors, the longest task is the one that waited for its turn.
            if min(longest) < 50 * max(1, os.getloadavg()[0] / (os.cpu_count() or 1)):
                return
    pytest.fail(f"the longest task of each run, in milliseconds: {longest}")


# --- the reader ---------------------------------------------------------------------------------


async def test_keyboard_only(page: Page) -> None:
    page.expected = "net::ERR_INCOMPLETE_CHUNKED_ENCODING"
    model = Model()
    async with chatting(page, words("One"), model, words("Three")) as standin:
        for place in ("new-chat", "log", "input"):
            await page.keys(TAB)
            assert place in await page.run("return focused().className")
        for keys in ("a", SHIFT + ENTER, "b"):
            await page.keys(keys)
        assert await page.run("return $('.input').value") == "a\nb"
        await page.keys(TAB)
        assert await page.run("return focused() == $('.send')")
        await page.keys(SPACE)
        await page.said("One")
        assert await page.run("return focused() == $('.input')"), "the button that went gave the focus back"
        await page.keys("c" + ENTER)
        await standin.wait_requests(2)
        model.say("Two")
        await page.until("return replies()[1] == 'Two'")
        await page.keys("typing on" + ENTER)  # nothing is sent while a reply runs
        model.break_off()
        await page.until("return $('.retry')")
        assert await page.run("return [$('.input').value, focused() == $('.input')]") == ["typing on", True]
        for _ in ("copy", "retry"):
            await page.keys(SHIFT + TAB)
        assert await page.run("return focused() == $('.retry')")
        await page.keys(ENTER)
        await page.said("One", "Two", "Three")
        assert await page.run("return focused() == $('.input')")
    assert asked(standin.requests[0]) == [("user", "a\nb")]


async def test_enter_that_ends_a_composition_sends_nothing(page: Page) -> None:
    async with chatting(page) as standin:
        await page.run("chat.focus()")
        await page.command("Input.imeSetComposition", text="に", selectionStart=1, selectionEnd=1)
        enter = "new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, ...arguments[0] })"
        for how in ({"isComposing": True}, {"keyCode": 229}):
            await page.run(f"$('.input').dispatchEvent({enter})", how)
        assert await page.run("return [$('.input').value, replies().length]") == ["に", 0]
    assert standin.requests == []


async def test_sentences_are_announced_whole(page: Page) -> None:
    spoken = "return $$('[aria-live=polite] p').map((it) => it.textContent)"
    model = Model()
    async with chatting(page, model):
        await page.say("Hello")
        model.say("One sentence. And ano")
        await page.until("return replies()[0] == 'One sentence. And ano'")
        assert await page.run(spoken) == ["One sentence."]
        model.say("ther one!")
        await page.until("return replies()[0].endsWith('!')")
        assert await page.run(spoken) == ["One sentence."]
        model.end()
        await page.said("One sentence. And another one!")
        assert await page.run(spoken) == ["One sentence.", "And another one!"]


async def test_scroll_follows_only_a_reader_at_the_end(page: Page) -> None:
    model, place = Model(), "const log = $('.log'), left = () => log.scrollHeight - log.clientHeight - log.scrollTop;"
    async with chatting(page, model):
        await page.say("Hello")
        model.say("line\n\n" * 40)
        await page.until(place + "return log.scrollTop > 100 && left() < 2")
        await page.run(place + "log.scrollTop = 30")
        await page.until("return !$('.latest').hidden")
        model.say("line\n\n" * 40 + "last")
        await page.until("return replies()[0].endsWith('last')")
        assert await page.run("return $('.log').scrollTop") == 30
        await page.run("press('.latest')")
        await page.until(place + "return left() < 2 && $('.latest').hidden")
        model.end()
        await page.until(place + "return $('.tools') && left() < 2")


async def test_copy_gives_what_the_model_wrote(page: Page) -> None:
    text = "Some **bold**:\n```sh\nls\n\n  cd\n```"
    async with chatting(page, words(text)):
        await page.command("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        await page.say("Hello")
        await page.until("return $('.tools')")
        read = "return navigator.clipboard.readText()"
        await page.run("press('.tools .copy')")
        await page.until("return $('.tools .copy').innerText == 'Copied'")
        assert await page.run(read) == text
        await page.run("press('.code .copy')")
        await page.until("return $('.code .copy').innerText == 'Copied'")
        assert await page.run(read) == "ls\n\n  cd"


async def test_nothing_is_left_of_an_element_that_is_removed(page: Page) -> None:
    async def listeners() -> list[str]:
        found = await page.command("Runtime.evaluate", expression="window.kept.shadowRoot")
        of = {"objectId": found["result"]["objectId"], "depth": -1, "pierce": True}
        return [it["type"] for it in (await page.command("DOMDebugger.getEventListeners", **of))["listeners"]]

    model = Model()
    async with chatting(page, model, words("Back")) as standin:
        await page.run("window.kept = chat")
        before = await listeners()
        assert {"click", "keydown", "submit", "input", "scroll"} <= set(before)
        await page.say("Hello")
        model.say("Half")
        await page.until("return replies()[0] == 'Half'")
        await page.run("kept.remove()")
        await standin.wait_closed_by_peer()
        assert await listeners() == []
        await page.run("document.querySelector('main').append(kept)")
        assert sorted(await listeners()) == sorted(before)
        await page.say("Again")
        await page.said("Half", "Back")


async def test_an_element_that_is_moved_keeps_its_reply(page: Page) -> None:
    model = Model()
    async with chatting(page, model):
        await page.say("Hello")
        model.say("Half")
        await page.until("return replies()[0] == 'Half'")
        await page.run("const there = document.createElement('div'); chat.before(there); there.append(chat)")
        model.say(" and half")
        model.end()
        await page.said("Half and half")
        assert await page.run("return fired.at(-1)") == ["done", {"text": "Half and half", "stopped": False}]


async def test_stop_makes_way_at_once(page: Page) -> None:
    model = Model()
    async with chatting(page, model, words("Two")) as standin:
        await page.say("One")
        model.say("Half")
        await page.until("return replies()[0] == 'Half'")
        await page.run("chat.stop(); chat.send('Another')")
        await page.said("Half", "Two")
    assert asked(standin.requests[1]) == [("user", "One"), ("assistant", "Half"), ("user", "Another")]


async def test_pasted_code_keeps_its_indentation(page: Page) -> None:
    async with chatting(page, words("I see")) as standin:
        pasted = "$('.input').value = arguments[0]; $('.input').dispatchEvent(new Event('input')); press('.send')"
        await page.run(pasted, "\n  \n    if x:\n        y\n\n")
        await page.said("I see")
        assert await page.run("return $('.user-bubble').textContent") == "    if x:\n        y"
    assert asked(standin.requests[0]) == [("user", "    if x:\n        y")]


HOSTILE = """
html { font-size: 62.5% } body { font: italic small-caps 900 9px/3 serif; text-transform: uppercase;
letter-spacing: 3px; word-spacing: 9px; text-indent: 40px; user-select: none; white-space: pre; word-break: break-all;
text-align: right; text-shadow: 1px 1px red; list-style: square inside; cursor: wait; hyphens: auto; tab-size: 1;
line-break: anywhere; overflow-wrap: anywhere; -webkit-text-fill-color: red; -webkit-text-stroke: 2px blue; }
"""
LOOKS = """
return $$(":not(.latest, .latest *)").map((node) => {
  const style = getComputedStyle(node);
  return [...style].filter((name) => !name.startsWith("--")).map((name) => name + ":" + style.getPropertyValue(name));
});
"""


async def test_the_css_of_its_page_stays_out(page: Page) -> None:
    async with chatting(page, words(SAMPLE)):
        await page.say("Hello")
        await page.until("return $('.tools')")
        # What stands in its slots is the page's own, and this page has a style for its parts.
        await page.run("chat.replaceChildren(); document.querySelector('[rel=stylesheet]').remove()")
        await page.run("chat.style.inlineSize = '600px'; chat.style.blockSize = '500px'")
        sheet = "const css = new CSSStyleSheet(); css.replaceSync(arguments[0]); document.adoptedStyleSheets = [css];"
        plain = await page.run(LOOKS)
        await page.run(sheet, HOSTILE)
        hostile = await page.run(LOOKS)
        assert [set(other) - set(one) for one, other in zip(plain, hostile, strict=True)] == [set()] * len(plain)
        own = "cf-chat { --cf-chat-font: 20px serif } cf-chat::part(user-bubble) { letter-spacing: 5px }"
        await page.run(sheet, own)
        shown = "const style = getComputedStyle($('.user-bubble')); return [style.fontSize, style.letterSpacing]"
        assert await page.run(shown) == ["20px", "5px"]


async def test_storage_of_a_session(page: Page) -> None:
    async with chatting(page, words("**Kept**"), words("Too")) as standin:
        await page.say("Hello")
        await page.said("Kept")
        await page.run("location.reload()")
        await page.until("return chat?.shadowRoot && replies().length")
        await page.say("Still there?")
        await page.said("Kept", "Too")
        await page.run("press('.new-chat')")
        assert await page.run("return focused() == $('.input')")
        await page.run("location.reload()")
        await page.until("return chat?.shadowRoot && $('.empty')")
    assert asked(standin.requests[1])[:2] == [("user", "Hello"), ("assistant", "**Kept**")]


async def test_words_of_the_page(page: Page) -> None:
    async with chatting(page):
        await page.run(
            "chat.labels = { send: 'Senden', newChat: 'Neu' }; chat.title = 'Fragen'; chat.placeholder = 1;"
            "chat.setAttribute('greeting', 'Guten Tag'); chat.setAttribute('placeholder', 'Schreiben')"
        )
        assert await page.run(
            "return [$('.send').textContent, $('.stop').textContent, $('.new-chat').innerText, $('.title').innerText,"
            " $('.greeting').innerText, $('.input').placeholder, $('.chat').title]"
        ) == ["Senden", "Stop", "Neu", "Fragen", "Guten Tag", "Schreiben", ""]


# --- pictures -----------------------------------------------------------------------------------

PAINT = """
window.paint = (width, height, type, name) => new Promise((resolve) => {
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), pen = canvas.getContext("2d");
  for (const [colour, at] of [["red", 0], ["lime", width / 2]]) {
    pen.fillStyle = colour;
    pen.fillRect(at, 0, width / 2, height);
  }
  canvas.toBlob((blob) => resolve(new File([blob], name, { type })), type);
});
window.give = (...files) => {
  const clipboardData = new DataTransfer();
  files.forEach((file) => clipboardData.items.add(file));
  const paste = { clipboardData, bubbles: true, cancelable: true };
  return !document.querySelector("cf-chat").shadowRoot.querySelector(".input").dispatchEvent(
    new ClipboardEvent("paste", paste));
};
window.bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
window.look = (url) => new Promise((resolve) => {
  const image = Object.assign(new Image(), { src: url });
  image.onload = () => {
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    const colour = [...pen.getImageData(2, 2, 1, 1).data].map((it) => Math.round(it / 51));
    resolve([image.naturalWidth, image.naturalHeight, url.slice(5, 15), colour.join(" ")]);
  };
});
"""
SHOWN = "return $$('.preview img[src]').length == arguments[0] && !$('.preview img:not([src])')"
RELOADED = object()
SEEN = b'data: {"text":"A hill"}\n\ndata: [DONE]\n\n'


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    """A PNG, one bit a pixel, all of them black."""
    rows = bytes((width // 8 + 1) * height)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def gif(images: int) -> bytes:
    image = b"!\xf9\x04\0\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    return b"GIF89a\1\0\1\0\x80\0\0\xff\0\0\0\0\0" + image * images + b";"


@asynccontextmanager
async def beside(page: Page, attributes: str, *scripts: Any) -> AsyncIterator[StandIn]:
    """A page of another origin with the element, open; the server behind both follows the scripts.

    RELOADED among them is the page once more.
    """
    async with StandIn([]) as nobody, house(nobody) as cfchat:
        html = (
            "<!doctype html><html lang=en><meta name=viewport content=width=device-width><title>Beside</title>"
            "<link rel=icon href=data:,>"
            f'<script type=module src="http://127.0.0.1:{cfchat.port}/cfchat.js"></script>'
            f'<main><h1>Beside</h1><cf-chat endpoint="/api/chatbot" {attributes}></cf-chat></main>'
        )
        first = reply(html.encode(), framing="length", fields=[("content-type", "text/html")])
        known = [first if script is RELOADED else script for script in scripts]
        async with StandIn([first, *known], certificate=None) as server:
            await page.open(f"http://localhost:{server.port}/")
            await page.run(PAINT)
            yield server
            await page.leave()


def sent(exchange: Exchange) -> Any:
    """The content of the newest message that the element has sent."""
    return json.loads(exchange.body)["messages"][-1]["content"]


async def test_pictures_are_dropped_pasted_and_chosen(page: Page, tmp_path: Path) -> None:
    """By the browser's own means; the one that is too large is scaled down, and each goes in the smaller form."""
    for name, size in (("wide.png", 3200), ("small.png", 16)):
        (tmp_path / name).write_bytes(png(size, size // 2))
    told = "return $$('[aria-live] p').map((it) => it.textContent)"
    async with beside(page, "images", reply(SEEN), reply(SEEN)) as server:
        data = {"items": [], "files": [str(tmp_path / "wide.png")], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver"):
            await page.command("Input.dispatchDragEvent", type=kind, x=200, y=200, data=data)
        await page.until("return $('.dropping')")
        await page.command("Input.dispatchDragEvent", type="drop", x=200, y=200, data=data)
        await page.until(SHOWN, 1)
        assert not await page.run("return $('.dropping')")

        await page.command("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        await page.run(
            "return paint(40, 30, 'image/png', 'x').then((it) => navigator.clipboard.write("
            "[new ClipboardItem({ 'image/png': it })]))"
        )
        await page.run("chat.focus()")
        paste = {"modifiers": 2, "key": "v", "code": "KeyV", "windowsVirtualKeyCode": 86, "commands": ["paste"]}
        await page.command("Input.dispatchKeyEvent", type="keyDown", **paste)
        await page.until(SHOWN, 2)

        found = await page.command("Runtime.evaluate", expression=CHOOSER)
        files = {"files": [str(tmp_path / "small.png")], "objectId": found["result"]["objectId"]}
        await page.command("DOM.setFileInputFiles", **files)
        await page.until(SHOWN, 3)
        names = ["wide.png", "image.png", "small.png"]
        assert await page.run(told) == [f"{name} was added." for name in names]
        await page.say("What is it?")
        await page.said("A hill")
        shown = await page.run("return $$('.user-bubble img').map((it) => [it.alt, it.src])")
        text, *pictures = sent(server.requests[1])
        assert text == {"type": "text", "text": "What is it?"}
        urls = [picture["image_url"]["url"] for picture in pictures]
        assert pictures == [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        assert shown == [[name, url] for name, url in zip(names, urls, strict=True)]
        looked = [await page.run("return look(arguments[0])", url) for url in urls]
        assert looked[0] == [1568, 784, "image/jpeg", "0 0 0 5"]
        assert looked[1:] == [[40, 30, "image/png;", "5 0 0 5"], [16, 8, "image/png;", "0 0 0 5"]]
        await page.say("Sure?")
        await page.said("A hill", "A hill")
        first, _, last = json.loads(server.requests[2].body)["messages"]
        assert first["content"] == [text, *pictures] and last["content"] == "Sure?"


CHOOSER = "document.querySelector('cf-chat').shadowRoot.querySelector('[type=file]')"


async def test_a_photograph_goes_as_a_jpeg_and_nothing_of_its_file(page: Page) -> None:
    noise = """
    return paint(900, 700, "image/png", "x").then(async (it) => {
      const canvas = Object.assign(document.createElement("canvas"), { width: 1700, height: 1300 });
      const pen = canvas.getContext("2d"), all = pen.getImageData(0, 0, 1700, 1300);
      for (let at = 0; at < all.data.length; at += 4) all.data.set([(at / 7) % 255, at % 241, at % 251, 99], at);
      pen.putImageData(all, 0, 0);
      const png = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
      give(new File([png, "GPS 52.5 13.4"], "noise.png", { type: "image/png" }));
    });
    """
    async with beside(page, "images", reply(SEEN)) as server:
        await page.run(noise)
        await page.until(SHOWN, 1)
        await page.keys(TAB)
        await page.run("press('.send')")  # without a word
        await page.said("A hill")
        (picture,) = sent(server.requests[1])
        looked = await page.run("return look(arguments[0])", picture["image_url"]["url"])
        assert looked[:3] == [1568, 1199, "image/jpeg"]
        assert b"GPS" not in base64.b64decode(picture["image_url"]["url"].partition(",")[2])


async def test_each_picture_that_is_not_taken_has_words(page: Page) -> None:
    moving = chunk(b"acTL", struct.pack(">II", 2, 0))
    files = [
        (b"hello", "notes.txt", "text/plain", "notes.txt is not a picture."),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg", "image/svg+xml", "a.svg is not a picture."),
        (b"\0\0\0\x18ftypheic", "a.HEIC", "", "cannot read a.HEIC, because it is a HEIC picture"),
        (b"\0\0\0\x18ftypheic", "b", "image/heic", "cannot read b, because it is a HEIC picture"),
        (b"GIF89a nothing", "bad.gif", "image/gif", "bad.gif cannot be read"),
        (png(8, 8)[:30], "cut.png", "image/png", "cut.png cannot be read"),
        (b"", "none.jpg", "image/jpeg", "none.jpg cannot be read"),
        (png(12_000, 12_000), "bomb.png", "image/png", "bomb.png is too large."),
        (gif(1), "one.gif", "image/gif", ""),
        (gif(2), "two.gif", "image/gif", "two.gif moves. Only its first image is sent."),
        (png(8, 8, moving), "moves.png", "image/png", "moves.png moves."),
    ]
    give = "give(new File([bytes(arguments[0])], arguments[1], { type: arguments[2] }))"
    async with beside(page, "images") as server:
        for content, name, kind, words_ in files:
            assert await page.run(f"return {give}", base64.b64encode(content).decode(), name, kind) is True
            await page.until("return $$('[aria-live] p').some((it) => it.textContent.includes(arguments[0]))", name)
            hint = await page.run("return $('.hint').innerText")
            assert words_ in hint and bool(words_) == bool(hint), (name, hint)
            assert not await page.run("return $('.preview img:not([src])')")
        assert await page.run("return $$('.preview img').map((it) => it.alt)") == ["one.gif", "two.gif", "moves.png"]
        big = "give(new File([new Uint8Array(21 << 20)], 'big.jpg', { type: 'image/jpeg' }))"
        await page.run(big)
        await page.until("return $('.hint').innerText == 'big.jpg is too large.'")
        await page.run("return paint(9, 9, 'image/png', 'a.png').then((it) => give(it, it, it))")
        await page.until(
            "return $('.hint').innerText == 'A chat takes 4 pictures at most. Begin a new one to send more.'"
        )
        await page.until(SHOWN, 4)
        assert len(server.requests) == 1


async def test_a_picture_with_many_marks_of_an_image_does_not_hold_up_the_page(page: Page) -> None:
    marked = base64.b64encode(gif(1) + b"!\xf9\x04" * 500_000).decode()
    async with beside(page, "images"):
        await page.run("give(new File([bytes(arguments[0])], 'marks.gif', { type: 'image/gif' }))", marked)
        await page.until(SHOWN, 1)


async def test_pictures_that_are_too_large_together(page: Page) -> None:
    noise = """
    const pen = Object.assign(document.createElement("canvas"), { width: 1568, height: 1568 }).getContext("2d");
    const all = pen.createImageData(1568, 1568);
    for (let at = 0; at < all.data.length; at += 65536) crypto.getRandomValues(all.data.subarray(at, at + 65536));
    for (let at = 3; at < all.data.length; at += 4) all.data[at] = 255;
    pen.putImageData(all, 0, 0);
    const fill = (blob) => give(...Array(16).fill(new File([blob], "noise.png", { type: "image/png" })));
    return new Promise((done) => pen.canvas.toBlob((blob) => (fill(blob), done()), "image/png"));
    """
    async with beside(page, "images=16"):
        await page.run(noise)
        await page.until("return !$('.preview img:not([src])') && $('.hint').innerText.includes('too large together')")
        letters = "return $$('.preview img').reduce((sum, it) => sum + it.src.length, 0)"
        assert 3e6 < await page.run(letters) <= 7e6


@pytest.mark.parametrize("code", ["invalid_image", "invalid_option"])  # the latter of a model that does not see
async def test_a_server_that_takes_no_pictures(page: Page, code: str) -> None:
    page.expected = "status of 400"
    error = {"message": "Images are not taken here.", "code": code}
    refused = reply(
        json.dumps({"error": error}).encode(), 400, framing="length", fields=[("content-type", "application/json")]
    )
    async with beside(page, "images", refused, reply(SEEN)) as server:
        await page.run("return paint(9, 9, 'image/png', 'a.png').then(give)")
        await page.until(SHOWN, 1)
        await page.say("What is it?")
        await page.until("return $('.notice.error')")
        assert await page.run("return $('.notice > span').innerText") == (
            "Images are not taken here. Pictures cannot be sent here. Ask in words alone."
        )
        assert await page.run("return $('.attach').hidden")
        await page.run("return paint(9, 9, 'image/png', 'b.png').then(give)")
        assert "Pictures cannot be sent" in await page.until("return $('.hint').innerText")
        assert not await page.run("return $('.preview')")
        await page.run("press('.retry')")
        await page.until("return replies().at(-1) == 'A hill'")
        assert sent(server.requests[2]) == "What is it?"


async def test_without_the_attribute_files_are_left_to_the_page(page: Page) -> None:
    async with beside(page, ""):
        assert await page.run("return $('.attach').hidden")
        assert await page.run("return paint(9, 9, 'image/png', 'a.png').then(give)") is False
        drag = "return $('.chat').dispatchEvent(new DragEvent('dragover', { dataTransfer: new DataTransfer(),"
        assert await page.run(drag + " bubbles: true, cancelable: true }))") is True
        await page.run("chat.setAttribute('images', '')")
        assert not await page.run("return $('.attach').hidden")


async def test_pictures_by_keyboard_and_for_a_screen_reader(page: Page) -> None:
    async with beside(page, "images", reply(SEEN)):
        await page.run(
            "return Promise.all(['a', 'b', 'c'].map((name) => paint(9, 9, 'image/png', name)))"
            ".then((files) => give(...files))"
        )
        await page.until(SHOWN, 3)
        await page.run("chat.focus()")
        await page.keys(SHIFT + TAB)
        assert await page.run("return focused() == $('.attach') && $('.attach').innerText == 'Add pictures'")
        for name in ("c", "b", "a"):
            await page.keys(SHIFT + TAB)
            assert await page.run("return focused().innerText") == f"Remove {name}"
        for then in ("Remove b", "Remove c"):
            await page.keys(ENTER)
            assert await page.run("return focused().innerText") == then
        await page.keys(SPACE)
        assert await page.run("return focused() == $('.input') && $$('.preview').length") == 0
        told = await page.run("return $$('[aria-live] p').map((it) => it.textContent)")
        assert told[3:] == ["a was removed.", "b was removed.", "c was removed."]
        assert await page.run("return $('.send').disabled")


async def test_a_picture_that_is_not_kept(page: Page) -> None:
    """Storage keeps its name. The model hears of it only where the message held nothing else."""
    async with beside(page, "images storage=session", reply(SEEN), reply(SEEN)) as server:
        await page.run("return paint(9, 9, 'image/png', 'a.png').then(give)")
        await page.until(SHOWN, 1)
        await page.run("press('.send')")
        await page.said("A hill")
        assert "data:" not in await page.run("return JSON.stringify({ ...sessionStorage })")
        await page.run("const again = chat.cloneNode(); chat.replaceWith(again)")
        assert await page.run("return $('.user-bubble').innerText") == "a.png (not kept)"
        await page.say("Really?")
        await page.said("A hill", "A hill")
        assert json.loads(server.requests[2].body)["messages"][0] == {
            "role": "user",
            "content": "[A picture that is no longer here.]",
        }


async def test_text_that_comes_with_its_own_picture_is_pasted_as_text(page: Page) -> None:
    """As spreadsheets copy it."""
    paste = """
    return paint(9, 9, "image/png", "a.png").then((file) => {
      const clipboardData = new DataTransfer();
      clipboardData.items.add(file);
      for (const type of arguments[0]) clipboardData.items.add("x", type);
      return $(".input").dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
    });
    """
    async with beside(page, "images"):
        assert await page.run(paste, ["text/plain", "text/html"]) is True
        assert await page.run(paste, ["text/html"]) is False  # a picture of a page
        assert await page.run(paste, ["text/plain"]) is False  # a file, and its name
        await page.until(SHOWN, 2)


# --- replies that are resumed -------------------------------------------------------------------

REPLY = "0123456789abcdef" * 2
QUICK = "const real = window.setTimeout; window.setTimeout = (work, time, ...more) => real(work, time / 50, ...more);"
DONE = b"data: [DONE]\n\n"
STOPPED = reply(b'{"success":true}', framing="length", fields=[("content-type", "application/json")])


def numbered(*texts: str, at: int = 0, name: str = REPLY) -> bytes:
    """Events as a server sends them that keeps replies."""
    return b"".join(
        f"id: {name}.{number}\ndata: {json.dumps({'response': text, 'text': text})}\n\n".encode()
        for number, text in enumerate(texts, at)
    )


class Line:
    """A connection with these events, until the test cuts it: a browser drops what it has not read by then."""

    def __init__(self, *texts: str) -> None:
        self._events = numbered(*texts)
        self.cut = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        # Not without a byte: then a browser tries again by itself.
        await exchange.send(head_of(200, [("content-type", "text/event-stream"), ("content-length", "9999")]))
        await exchange.send(b": hb\n\n" + self._events)
        await self.cut.wait()
        exchange.close()


def lost() -> Line:
    line = Line()
    line.cut.set()
    return line


def places(server: StandIn) -> list[str | None]:
    """Behind which event each POST wants to go on. All have the key of the first one."""
    posts = [it for it in server.requests if it.method == "POST" and not it.target.endswith("/stop")]
    assert len({(it.fields["idempotency-key"], it.body) for it in posts}) == 1
    return [it.fields.get("last-event-id") for it in posts]


async def test_a_reply_goes_on_after_each_loss(page: Page) -> None:
    """Also where the server sends again what has come, and where it breaks off without a word."""
    page.expected = "net::ERR_"
    one, two = Line("Hel", "lo **wo"), Line("Hel", "lo **wo", "rl")
    scripts = (
        lost(),
        one,
        lost(),
        lost(),
        two,
        reply(numbered("rl", "d**", "!", at=2) + DONE),
    )
    async with beside(page, "resume", *scripts) as server:
        await page.run(QUICK)
        await page.run(
            "window.seen = []; new MutationObserver(() => seen.push(!!$('.reconnecting'))).observe($('.thread'),"
            " { childList: true, subtree: true })"
        )
        await page.say("Hello")
        for line, words_ in ((one, "Hello wo"), (two, "Hello worl")):
            await page.until("return replies()[0] == arguments[0]", words_)
            line.cut.set()
        await page.said("Hello world!")
        assert await page.run("return fired.filter(([name]) => name == 'delta').map(([, it]) => it.text)") == [
            *("Hel", "lo **wo", "rl", "d**", "!"),
        ]
        assert await page.run("return fired.at(-1)") == ["done", {"text": "Hello **world**!", "stopped": False}]
        assert await page.run("return [seen.includes(true), !!$('.notice')]") == [True, False]
        said = await page.run("return $$('[aria-live] p').map((it) => it.textContent)")
        assert any("Reconnecting" in it for it in said)
        assert places(server) == [None, None, f"{REPLY}.1", f"{REPLY}.1", f"{REPLY}.1", f"{REPLY}.2"]


JOURNAL = """
const [texts, size] = arguments, real = window.setTimeout;
window.setTimeout = (work, time, ...more) => real(work, 0, ...more);
const events = texts.map((text, at) => `id: r.${at}\\ndata: ${JSON.stringify({ text })}\\n\\n`);
window.fetch = async (_, { headers }) => {
  const from = Number((headers["Last-Event-ID"] ?? "r.-1").slice(2)) + 1;
  const bytes = new TextEncoder().encode(events.slice(from).join("") + "data: [DONE]\\n\\n");
  return new Response(new ReadableStream({
    start(sink) {
      sink.enqueue(bytes.slice(0, size));
      if (size < bytes.length) real(() => sink.error(new TypeError("cut")));
      else sink.close();
    },
  }));
};
chat.clear();
const deltas = [], hear = ({ detail }) => deltas.push(detail.text);
chat.addEventListener("cfchat-delta", hear);
return chat.send("x").then((text) => {
  chat.removeEventListener("cfchat-delta", hear);
  window.setTimeout = real;
  return [text, deltas, $(".reply-bubble").innerHTML];
});
"""


async def test_no_cut_doubles_or_loses_a_word(page: Page) -> None:
    """Each connection is cut after so many bytes, inside of events, ids and characters."""
    texts = ["# Ünï", "çøde 世界", " \U0001f600 **", "bold** `", "co", "de`\n\n- a", "\n- b"]
    async with beside(page, "resume"):
        whole = await page.run(JOURNAL, texts, 10_000)
        assert whole[:2] == ["".join(texts), texts]
        for size in range(70, 260):  # an event has 60 bytes at most
            assert await page.run(JOURNAL, texts, size) == whole, size


async def test_a_reply_that_does_not_come_back(page: Page) -> None:
    page.expected = "net::ERR_"
    line = Line("Half")
    async with beside(page, "resume", line, *[lost()] * 3, reply(SEEN)) as server:
        await page.run(QUICK)
        await page.say("Hello")
        await page.until("return replies()[0] == 'Half'")
        line.cut.set()
        await page.until("return $('.notice.error')")
        assert await page.run("return [$('.notice > span').innerText, !!$('.reconnecting')]") == [
            "The reply broke off here.",
            False,
        ]
        assert places(server) == [None, *[f"{REPLY}.0"] * 3]
        await page.run("press('.retry')")
        await page.said("Half", "A hill")
        first, last = server.requests[1].fields, server.requests[-1].fields
        assert first["idempotency-key"] != last["idempotency-key"] and "last-event-id" not in last
        assert re.fullmatch(
            "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", first["idempotency-key"]
        )


async def test_a_reply_goes_on_after_a_reload(page: Page) -> None:
    """Once from its place, and once from its question, because no word had come."""
    page.expected = "net::ERR_"
    first = [partial(numbered("One **tw"), "silence"), reply(numbered("o** three", at=1) + DONE)]
    second = [partial(b": hb\n\n", "silence"), reply(numbered("Four", name="b" * 32) + DONE)]
    scripts = [first[0], RELOADED, first[1], second[0], RELOADED, second[1]]
    async with beside(page, "resume storage=session", *scripts) as server:
        await page.say("Hello")
        await page.until("return replies()[0] == 'One tw'")
        await page.run("location.reload()")
        await page.until("return chat?.shadowRoot && $('.tools')")
        await page.said("One two three")
        assert places(server) == [None, f"{REPLY}.0"]
        assert await page.run("return chat.messages") == [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "One **two** three"},
        ]
        await page.say("And?")
        await server.wait_requests(5)
        await page.run("location.reload()")
        await page.until("return chat?.shadowRoot && replies().length == 2")
        await page.said("One two three", "Four")
        assert [it.fields.get("last-event-id") for it in server.requests[4:7:2]] == [None, None]
        assert len({it.fields["idempotency-key"] for it in server.requests[4:7:2]}) == 1
        assert await page.run("return Object.values(sessionStorage).join().includes('place')") is False


async def test_a_reply_that_was_left_without_resume_is_marked(page: Page) -> None:
    half = partial(b'data: {"text":"Half"}\n\n', "silence")
    async with beside(page, "storage=session", half, RELOADED):
        await page.say("Hello")
        await page.until("return replies()[0] == 'Half'")
        await page.run("location.reload()")
        await page.until("return chat?.shadowRoot && $('.retry')")
        assert await page.run("return [replies()[0], $('.notice > span').innerText]") == [
            "Half",
            "The reply broke off here.",
        ]


@pytest.mark.parametrize("begun", [True, False])
async def test_stop_ends_a_kept_reply_by_its_name(page: Page, begun: bool) -> None:
    """Before its first event nobody knows its name: the request stays open until then."""
    go = asyncio.Event()

    async def asked(exchange: Exchange) -> None:
        await exchange.send(head_of(200, [("content-type", "text/event-stream"), ("connection", "close")]))
        await exchange.send(numbered("Half") if begun else b": hb\n\n")
        await go.wait()
        await exchange.send(numbered("Half"))
        await exchange.closed_by_peer.wait()

    async with beside(page, "resume", asked, STOPPED) as server:
        await page.say("Hello")
        await page.until("return replies()[0] == 'Half'" if begun else "return $('.waiting')")
        await server.wait_requests(2)
        await page.run("press('.stop')")
        await page.until("return $('.stop').hidden")
        assert "stopped" in await page.run("return $('.notice').innerText")
        go.set()
        await server.wait_requests(3)
        stop = server.requests[2]
        assert (stop.method, stop.target) == ("POST", f"/api/chatbot/{REPLY}/stop")
        await server.requests[1].closed_by_peer.wait()
        assert await page.run("return replies()") == (["Half"] if begun else [""])


async def test_a_server_that_has_forgotten_the_reply(page: Page) -> None:
    """The server asks the model again. The page stops that reply, and shows no word of it."""
    page.expected = "net::ERR_"
    line = Line("Half")
    scripts = (line, partial(numbered("Other", name="b" * 32), "silence"), STOPPED)
    async with beside(page, "resume", *scripts) as server:
        await page.run(QUICK)
        await page.say("Hello")
        await page.until("return replies()[0] == 'Half'")
        line.cut.set()
        await page.until("return $('.notice.error')")
        assert await page.run("return replies()") == ["Half"]
        await server.wait_requests(4)
        assert server.requests[3].target == f"/api/chatbot/{'b' * 32}/stop"


async def test_a_network_that_goes_and_comes_back(page: Page) -> None:
    """The tries wait for it. A connection that stays silent is lost, too, though nobody says so."""
    page.expected = "net::ERR_"
    off = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    scripts = (
        partial(numbered("One"), "silence"),
        partial(numbered(" two", at=1), "silence"),
        reply(numbered(" three", at=2) + DONE),
    )
    async with beside(page, "resume", *scripts) as server:
        await page.run(QUICK)
        await page.say("Hello")
        await page.until("return replies()[0] == 'One'")
        await page.command("Network.enable")
        await page.command("Network.emulateNetworkConditions", offline=True, **off)
        await page.until("return $('.reconnecting')")
        await page.command("Network.emulateNetworkConditions", offline=False, **off)
        await page.said("One two three")
        assert places(server) == [None, f"{REPLY}.0", f"{REPLY}.1"]


# --- sources ------------------------------------------------------------------------------------

SOURCES = [
    {"title": "Getting <b>started</b>", "url": "https://example.com/start?a=1&b=2", "score": 0.9},
    {"title": "handbook.pdf", "url": None, "score": 0.8},
    {"title": "Bad", "url": "javascript:reports.push('source')", "score": 0.7},
    {"title": "Worse", "url": "data:text/html,<script>1</script>", "score": 0.6},
    {"title": "دليل", "url": "http://example.org/", "score": 0.5},
]


def told(sources: object, text: str) -> bytes:
    """The events of a reply that has sources."""
    first = json.dumps({"sources": sources, "text": ""})
    return f"event: sources\ndata: {first}\n\ndata: {json.dumps({'text': text})}\n\n".encode() + DONE


async def test_sources_are_listed_below_the_reply(page: Page) -> None:
    scripts = (reply(told(SOURCES, "As the handbook says.")), RELOADED, reply(told([], "None.")))
    async with beside(page, "storage=session", *scripts):
        await page.say("Where?")
        await page.said("As the handbook says.")
        for reloaded in (False, True):
            if reloaded:
                await page.run("location.reload()")
                await page.until("return chat?.shadowRoot && replies().length")
            assert await page.run("return [$('summary').innerText, $('.sources').open]") == ["Sources (5)", False]
            shown = "return $$('.sources li').map((it) => [it.textContent, it.querySelector('a')?.href ?? null])"
            assert await page.run(shown) == [
                ["Getting <b>started</b>", "https://example.com/start?a=1&b=2"],
                ["handbook.pdf", None],
                ["Bad", None],
                ["Worse", None],
                ["دليل", "http://example.org/"],
            ]
            rels = await page.run("return $$('.sources a').map((it) => it.rel)")
            assert rels == ["noopener nofollow"] * 2
            assert await page.run("return chat.messages[1].content") == "As the handbook says."
        await page.run("chat.focus()")
        await page.keys(SHIFT + TAB * 2)  # past the button to copy
        assert await page.run("return focused() == $('summary')")
        await page.keys(ENTER)
        assert await page.run("return $('.sources').open")
        await page.keys(TAB)
        assert await page.run("return focused().innerText") == "Getting <b>started</b>"
        await page.say("And?")
        await page.said("As the handbook says.", "None.")
        assert await page.run("return $$('.sources').length") == 1


async def test_odd_sources_do_no_harm(page: Page) -> None:
    """What has no title is left out; of many, ten are shown."""
    odd: list[object] = [
        None,
        7,
        "x",
        [],
        {},
        {"title": ""},
        {"url": 5},
        {"title": {"a": 1}},
        {"title": "t" * 9999, "url": "//x"},
    ]
    many = [{"title": str(number % 20), "url": "https://example.com/"} for number in range(200)]
    scripts = [reply(told(sources, "Well")) for sources in (odd, many, "none", {"title": "x"})]
    async with beside(page, "", *scripts):
        listed = "return [...$('.sources').querySelectorAll('li')].map((it) => it.textContent)"
        for number, titles in enumerate((["t" * 200], [*map(str, range(10))], None, None)):
            await page.run("chat.clear()")
            await page.say("Where?")
            await page.said("Well")
            if titles is None:
                assert await page.run("return $('.sources')") is None, number
            else:
                assert await page.run(listed) == titles


@asynccontextmanager
async def keeping(page: Page, model: Model) -> AsyncIterator[tuple[House, Cable]]:
    """The served page of a house that keeps replies, behind a line that the test may cut."""
    page.expected = "net::ERR_"
    line, app = Cable(), AppSettings(keeping=Keeping(60))
    async with StandIn([model]) as standin, house(standin, app=app) as cfchat, Between(cfchat.port, line) as between:
        await page.open(f"http://127.0.0.1:{between.port}/")
        await page.run(QUICK)
        yield cfchat, line
        await page.leave()
        assert len(standin.requests) == 1


async def test_the_whole_answer_comes_though_no_connection_lasts(page: Page) -> None:
    """Each is cut after 300 ms at most. The page is the one that cfchat serves."""
    words_ = [f"word{number} " for number in range(30)]
    model = Model()

    async def cut() -> None:
        while True:
            await asyncio.sleep(0.3)
            line.cut()

    async with keeping(page, model) as (cfchat, line):
        await page.say("Hello")
        cutting = asyncio.get_running_loop().create_task(cut())
        for word in words_:
            model.say(word)
            await asyncio.sleep(0.05)
        model.end()
        await page.until("return fired.at(-1)?.[0] == 'done'")
        cutting.cancel()
        assert await page.run("return fired.at(-1)") == ["done", {"text": "".join(words_), "stopped": False}]
        assert await page.run("return [replies(), !!$('.notice')]") == [["".join(words_).strip()], False]
        joined = [entry for entry in cfchat.log if " resumed=" in entry]
        assert len(joined) >= 3, joined


async def test_a_kept_reply_goes_on_after_reloads(page: Page) -> None:
    model = Model()
    async with keeping(page, model) as (_, _):
        await page.say("Hello")
        model.say("One **tw")
        await page.until("return replies()[0] == 'One tw'")
        for word, shown in (("o**", "One two"), (" three", "One two three")):
            await asyncio.to_thread(page.driver.call, "POST", "/refresh")
            model.say(word)
            await page.until("return chat?.shadowRoot && replies()[0] == arguments[0]", shown)
        model.end()
        await page.said("One two three")


async def test_stop_before_the_first_word_of_a_kept_reply(page: Page) -> None:
    model = Model()
    async with chatting(page, model, app=AppSettings(keeping=Keeping(60))) as standin:
        await page.say("Hello")
        await standin.wait_requests()
        await page.run("press('.stop')")
        model.say("Half")
        await standin.wait_closed_by_peer()
        assert await page.run("return [replies()[0], $('.stop').hidden]") == ["", True]


async def test_the_page_sends_a_picture_to_the_model(page: Page) -> None:
    """Under the policy of the page, which names no other place of images than `data:`."""
    async with chatting(page, words("A hill"), app=AppSettings(images=2)) as standin:
        await page.run(PAINT)
        await page.run("return paint(40, 30, 'image/png', 'a.png').then((it) => give(it, it, it))")
        await page.until("return $('.hint').innerText.startsWith('A chat takes 2 pictures')")
        await page.until(SHOWN, 2)
        await page.run("press('.send')")
        await page.said("A hill")
        assert await page.run("return $$('.user-bubble img').map((it) => it.naturalWidth)") == [40, 40]
        urls = await page.run("return $$('.user-bubble img').map((it) => it.src)")
    assert [part["image_url"]["url"] for part in sent(standin.requests[0])] == urls


async def test_a_kept_reply_waits_for_the_network(page: Page) -> None:
    """DevTools' offline refuses what is asked from then on. What runs goes on, so the line is cut, too."""
    model = Model()
    off = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    async with keeping(page, model) as (cfchat, line):
        await page.say("Hello")
        model.say("One")
        await page.until("return replies()[0] == 'One'")
        await page.command("Network.enable")
        await page.command("Network.emulateNetworkConditions", offline=True, **off)
        line.cut()
        await page.until("return $('.reconnecting')")
        model.say(" two")
        model.end()
        await cfchat.logged("ended after its client had left: whole")
        await page.command("Network.emulateNetworkConditions", offline=False, **off)
        await page.said("One two")


# --- looks --------------------------------------------------------------------------------------


async def test_dark(page: Page) -> None:
    colours = "return [$('.chat'), document.documentElement].map((it) => getComputedStyle(it).backgroundColor)"
    async with chatting(page):
        light = await page.run(colours)
        await asyncio.to_thread(page.driver.prefer, "dark")
        dark = await page.run(colours)
        await page.run("chat.style.colorScheme = 'light'")
        assert light == ["rgb(255, 255, 255)"] * 2 and dark == ["rgb(22, 24, 28)"] * 2
        assert (await page.run(colours))[0] == light[0]


async def test_narrow(page: Page) -> None:
    """320 pixels: nothing is wider, and each target is at least 24 (WCAG 2.2, 2.5.8)."""
    table = "\n\n| " + "a | " * 40 + "\n|" + "-|" * 40 + "\n\n"
    wide = "w" * 300 + " https://example.com/" + "x" * 200 + table + "```\n" + "y" * 300 + "\n"
    await asyncio.to_thread(page.driver.size, 320, 560)
    async with chatting(page, words(SAMPLE + "\n```\n\n" + wide)):
        await page.say("z" * 200)
        await page.until("return $('.tools')")
        assert await page.run("return [document.scrollingElement, $('.log')].map((it) => it.scrollWidth)") == [320, 320]
        scrolled = "return $$('pre, .table').map((it) => ((it.scrollLeft = 9), it.scrollLeft))"
        assert await page.run(scrolled) == [0, 0, 9, 9, 9]
        shown = "return $$('button').filter((it) => it.offsetParent)"
        sizes = await page.run(shown + ".map((it) => [it.className, it.offsetWidth, it.offsetHeight])")
        assert len(sizes) > 4 and all(width >= 24 and height >= 24 for _, width, height in sizes), sizes


async def test_right_to_left(page: Page) -> None:
    async with chatting(page, words("مرحبا")):
        await page.run("document.documentElement.dir = 'rtl'")
        await page.say("שלום")
        await page.said("مرحبا")
        right = "return ['.send', '.user-bubble'].map((what) => $(what).getBoundingClientRect().right)"
        assert max(await page.run(right)) < 500
        assert await page.run("return getComputedStyle($('.reply-bubble p')).direction") == "rtl"


# --- axe ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return install_axe(tmp_path_factory.mktemp("axe"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_fault(page: Page, axe: str, scheme: str) -> None:
    """Empty, while a reply runs, when it is over, refused, cut, and told to wait."""
    page.expected = "Failed to load resource"
    guard, model, half = Guard(Settings(rate=Rate(4, 3600))), Model(), Model()
    await asyncio.to_thread(page.driver.prefer, scheme)
    scripts = (model, words("Well."), json_error(401, 10000, "x"), half)
    async with chatting(page, *scripts, guard=guard):
        assert await page.run(FAULTS, axe) == []
        await page.say("Hello")
        await page.until("return $('.waiting')")
        assert await page.run(FAULTS, axe) == []
        model.say(SAMPLE)
        await page.until("return replies()[0].includes('not closed')")
        assert await page.run(FAULTS, axe) == []
        model.end()
        await page.until("return $('.tools')")
        assert await page.run(FAULTS, axe) == []
        for number, text in enumerate(("Next", "Refused", "Cut", "Wait")):
            await page.say(text)
            if text == "Cut":
                half.say("Half")
                half.break_off()
            await page.until("return $('.stop').hidden && $$('.user-message').length == arguments[0]", number + 2)
            assert await page.run(FAULTS, axe) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_fault_with_pictures(page: Page, axe: str, scheme: str) -> None:
    """Added, refused, sent, and not kept."""
    await asyncio.to_thread(page.driver.prefer, scheme)
    async with beside(page, "images storage=session", reply(SEEN)):
        await page.run("return paint(9, 9, 'image/png', 'a.png').then((it) => give(it, new File([], 'notes.txt'), it))")
        await page.until(SHOWN, 2)
        await page.until("return $('.hint').innerText")
        assert await page.run(FAULTS, axe) == []
        await page.say("Hello")
        await page.said("A hill")
        assert await page.run(FAULTS, axe) == []
        await page.run("chat.replaceWith(chat.cloneNode())")
        assert await page.run("return $('.user-bubble').innerText.includes('not kept')")
        assert await page.run(FAULTS, axe) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_fault_with_sources_and_while_reconnecting(page: Page, axe: str, scheme: str) -> None:
    page.expected = "net::ERR_"
    await asyncio.to_thread(page.driver.prefer, scheme)
    line = Line("Half")
    async with beside(page, "resume", reply(told(SOURCES, "Well.")), line):
        await page.say("Where?")
        await page.said("Well.")
        assert await page.run(FAULTS, axe) == []
        await page.run("press('summary')")
        assert await page.run(FAULTS, axe) == []
        await page.run("window.real = setTimeout; window.setTimeout = () => 0")  # the next try never comes
        await page.say("And?")
        await page.until("return replies()[1] == 'Half'")
        line.cut.set()
        await page.until("return $('.reconnecting')")
        await page.run("window.setTimeout = window.real")
        assert await page.run(FAULTS, axe) == []
