"""The stand-in model of `--demo`: ELIZA (J. Weizenbaum, CACM 9:1, 1966), speaking Cloudflare's wire.

The conversation is in `SCRIPT`, in the form of Weizenbaum's own: a rule is a line of keywords and a rank;
under it stand decomposition patterns, tried in order (`*` is any words, `+` at least one, `a|b` either, and
`(a|b)` counts as a part too), and under each the reassembly templates, taken in turn (`{2}` is what the second
part met, its pronouns turned round). No randomness: the same conversation always gets the same answer.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

from cfchat.demo.eliza import answer
from cfchat.server.reply import Reply
from cfchat.server.request import Request
from cfchat.wire.sse import encode_event

ACCOUNT = "0" * 32
TOKEN = "demo"
MODEL = "@cf/demo/eliza-1966"
PACE = 0.02  # seconds from token to token
BODY_LIMIT = 4 << 20


def pieces(text: str) -> list[str]:
    """Cut as a tokenizer might: leading blanks stay on, long words come in parts. Joined they are `text`."""
    return re.findall(r"\s*(?:\w{1,7}|[^\w\s])|\s+", text)


def events(text: str, prompt_tokens: int) -> Iterator[bytes]:
    """The event stream of Cloudflare's classic dialect."""
    said = pieces(text)
    for number, piece in enumerate(said):
        yield _event({"response": piece, "p": _padding(number)})
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(said),
        "total_tokens": prompt_tokens + len(said),
    }
    yield _event({"response": "", "usage": usage})
    yield encode_event("[DONE]")


def _event(content: dict[str, object]) -> bytes:
    return encode_event(json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def _padding(number: int) -> str:
    # Cloudflare hides the lengths of tokens from who sees only the sizes of packets.
    return ("abdefghijklmnoprstuvxyz1234567890" * 2)[: 4 + number * 23 % 37]


_RUN = re.compile(r".*/accounts/[0-9a-f]{32}/ai/run/@.+")
_JSON = ("Content-Type", "application/json")


class Demo:
    """The stand-in as a handler of cfchat.server; `pace` is in seconds from token to token."""

    def __init__(self, pace: float = PACE) -> None:
        self.pace = pace

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request as api.cloudflare.com would. Raises what reading the body raises."""
        if request.method != "POST" or not _RUN.fullmatch(request.path):
            return _refuse(reply, 404, 7003, "Could not route to that path, perhaps your object identifier is invalid?")
        if not (request.fields.get("authorization") or "").startswith("Bearer "):
            return _refuse(reply, 401, 10000, "Authentication error")
        body = await request.read_body(BODY_LIMIT)
        try:
            messages, budget = _asked(body)
        except ValueError:
            return _refuse(reply, 400, 5006, "AiError: Bad input: Error: required properties at '/' are 'messages'")
        text = "".join(pieces(answer(messages))[:budget])
        prompt = sum(len(pieces(message["content"])) for message in messages)
        reply.start(200, [("Content-Type", "text/event-stream")])
        for event in events(text, prompt):
            if reply.begun:
                await asyncio.sleep(self.pace)
            reply.write(event)
        reply.end()


def _asked(body: bytes) -> tuple[list[dict[str, str]], int | None]:
    """The messages and max_tokens. Raises ValueError."""
    try:
        content = json.loads(body)
        messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in content["messages"]]
        budget = content.get("max_tokens", 256)  # the default of Cloudflare's classic models
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not a conversation") from error
    return messages, budget if isinstance(budget, int) and budget > 0 else None


def _refuse(reply: Reply, status: int, code: int, message: str) -> None:
    errors = [{"code": code, "message": message}]
    envelope = {"result": None, "success": False, "errors": errors, "messages": []}
    reply.send(status, [_JSON], json.dumps(envelope).encode())
