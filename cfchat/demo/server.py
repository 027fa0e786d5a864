"""Stand in for api.cloudflare.com in the demo.

The upstream code calls this over a socket on loopback as it calls Cloudflare: with a token, a model in the path, and
the event stream of Cloudflare's classic dialect as the reply. So the demo shows the real way of a request, and only
the words come from ELIZA, or from `shows` if they are asked for. One instance of AI Search answers from cfchat's own
README files (`pages`). Refusals have Cloudflare's status, code and envelope.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence

from cfchat.demo import pages
from cfchat.demo.eliza import answer
from cfchat.demo.shows import Show, find_show
from cfchat.errors import CfchatError
from cfchat.server.reply import Reply
from cfchat.server.request import Request
from cfchat.wire.sse import encode_event

ACCOUNT = "0" * 32
TOKEN = "demo"
MODEL = "@cf/demo/eliza-1966"
INSTANCE = "demo"
PACE = 0.02  # seconds between two tokens
BODY_LIMIT = 16 << 20


def pieces(text: str) -> list[str]:
    """Cut a text as a tokenizer might: leading blanks stay on, long words are cut. Joined the pieces are the text."""
    return re.findall(r"\s*(?:\w{1,7}|[^\w\s])|\s+", text)


def events(text: str, prompt_tokens: int, reason: str = "") -> Iterator[bytes]:
    """Give the event stream of a reply in Cloudflare's classic dialect, an event at a time.

    `reason` is the finish reason, if the reply has one. Cloudflare's classic replies have none.
    """
    tokens = pieces(text)
    for number, piece in enumerate(tokens):
        yield _event({"response": piece, "p": _padding(number)})
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(tokens),
        "total_tokens": prompt_tokens + len(tokens),
    }
    yield _event({"response": "", **({"finish_reason": reason} if reason else {}), "usage": usage})
    yield encode_event("[DONE]")


def search_events(question: str) -> Iterator[bytes]:
    """Give the event stream of AI Search: first the pages that it has found, then the words in OpenAI's dialect."""
    found = pages.find(question)
    chunks = [
        {
            "id": f"chunk-{number:03d}",
            "type": "text",
            "score": round(score, 4),
            "text": part.text,
            "item": {"key": part.file, "metadata": {"title": part.title}},
        }
        for number, (part, score) in enumerate(found, 1)
    ]
    yield _event(chunks, "chunks")
    for piece in pieces(pages.answer(question, found)):
        choice = {"index": 0, "delta": {"content": piece}}
        yield _event({"id": "id-1", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]})
    yield encode_event("[DONE]")


def _event(content: object, name: str | None = None) -> bytes:
    return encode_event(json.dumps(content, ensure_ascii=False, separators=(",", ":")), name)


def _padding(number: int) -> str:
    # Cloudflare pads events, so that the sizes of packets do not show the lengths of tokens.
    return ("abdefghijklmnoprstuvxyz1234567890" * 2)[: 4 + number * 23 % 37]


_RUN = re.compile(r".*/accounts/[0-9a-f]{32}/ai/run/@.+")
_SEARCH = re.compile(r".*/accounts/[0-9a-f]{32}/ai-search/(?:namespaces/[^/]+/)?instances/([^/]+)/chat/completions")
_JSON = ("Content-Type", "application/json")


class Demo:
    """The stand-in, a handler of cfchat.server. `pace` is in seconds between two tokens."""

    def __init__(self, pace: float = PACE) -> None:
        self.pace = pace

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer a request as api.cloudflare.com would.

        Raises:
            CfchatError: the body cannot be read, or the reply is to break.
        """
        search = _SEARCH.fullmatch(request.path)
        if request.method != "POST" or not (search or _RUN.fullmatch(request.path)):
            _refuse(reply, 404, 7003, "Could not route to that path, perhaps your object identifier is invalid?")
            return
        if not (request.fields.get("authorization") or "").startswith("Bearer "):
            _refuse(reply, 401, 10000, "Authentication error")
            return
        if search and search[1] != INSTANCE:
            _refuse(reply, 404, 7002, "ai_search_not_found")
            return
        body = await request.read_body(BODY_LIMIT)
        try:
            messages, images, max_tokens = _parse(body)
        except ValueError:
            _refuse(reply, 400, 5006, "AiError: Bad input: Error: required properties at '/' are 'messages'")
            return
        if search:
            asked = [message["content"] for message in messages if message["role"] == "user"]
            await self._say(reply, [*search_events(asked[-1] if asked else "")])
            reply.end()
            return
        show = find_show(messages) or Show(_count(images) + answer(messages))
        tokens = pieces(show.text)
        most = min(max_tokens or len(tokens), show.cut_after or len(tokens))
        text, cut = "".join(tokens[:most]), most < len(tokens)
        prompt = sum(len(pieces(message["content"])) for message in messages)
        stream = [*events(text, prompt, "length" if cut and show.cut_after else "")]
        await self._say(reply, stream[:-2] if show.breaks else stream)  # the last two are the usage and [DONE]
        if show.breaks:
            raise CfchatError("a break was asked for")
        reply.end()

    async def _say(self, reply: Reply, events: Sequence[bytes]) -> None:
        reply.start(200, [("Content-Type", "text/event-stream")])
        for event in events:
            if reply.begun:
                await asyncio.sleep(self.pace)
            reply.write(event)


def _parse(body: bytes) -> tuple[list[dict[str, str]], int, int | None]:
    """Return the messages without their images, how many the last one has, and max_tokens.

    Raises:
        ValueError: the body is no conversation.
    """
    try:
        content = json.loads(body)
        messages = [{"role": str(m["role"]), "content": _text(m["content"])} for m in content["messages"]]
        last = content["messages"][-1]["content"] if messages else ""
        images = sum(part["type"] == "image_url" for part in last) if isinstance(last, list) else 0
        max_tokens = content.get("max_tokens", 256)  # the default of Cloudflare's classic models
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not a conversation") from error
    return messages, images, max_tokens if isinstance(max_tokens, int) and max_tokens > 0 else None


def _text(content: object) -> str:
    """Return the text of a message, also of one that is a list of parts."""
    if not isinstance(content, list):
        return str(content)
    return "".join([str(part["text"]) for part in content if part["type"] == "text"])


def _count(images: int) -> str:
    """Begin the reply to a message with images: ELIZA has no eyes, but says that they have come."""
    return f"I see {images} image{'s' if images > 1 else ''}. " if images else ""


def _refuse(reply: Reply, status: int, code: int, message: str) -> None:
    errors = [{"code": code, "message": message}]
    envelope = {"result": None, "success": False, "errors": errors, "messages": []}
    reply.send(status, [_JSON], json.dumps(envelope).encode())
