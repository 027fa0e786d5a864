"""Where a program that embeds cfchat may have its say: who asks, what is asked, what it cost."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from cfchat.conversation.model import Conversation
from cfchat.errors import CfchatError
from cfchat.server.request import Request

log = logging.getLogger("cfchat.hooks")

# A hook that waits longer, in seconds, has failed.
DEADLINE = 30.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that is over: whose it was, who answered, what it cost.

    `who` is the label of a key, or what `authenticate` said; `client` an address. `estimated`: Cloudflare told no
    numbers, because the reply is not `whole`, for one.

    >>> import asyncio, cfchat
    >>> async def bill(reply: cfchat.Reply) -> None:
    ...     print(reply.model, reply.completion_tokens, reply.whole)
    >>> asyncio.run(bill(cfchat.Reply("9d0c2b7d8a3c4e10", "ann", "::1", "@cf/a/b", 12, 34, False, True)))
    @cf/a/b 34 True
    """

    request_id: str
    who: str
    client: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    whole: bool


@dataclass(frozen=True, slots=True)
class Hooks:
    """Three places for code of yours. Each is a coroutine function, and None where there is none.

    `authenticate` gets a Request, its `fields` and `client` among it, before its body is read, and returns the name
    of who asks, for rates, budgets and logs (empty: the address counts). It comes on top of API keys, where they are
    set. `before_call` gets the Conversation as it is going to be sent and returns it, or another. `after_reply` gets
    the Reply when it is over, a broken one, too, and one whose client left before the first word.

    A CfchatError that the first two raise is told to the client as it is. Any other error, or half a minute without
    an end, is logged and answered by a 500; in `after_reply`, where all is said, only logged.

    >>> import cfchat
    >>> class Forbidden(cfchat.CfchatError):
    ...     status, type, code = 403, "authentication_error", "forbidden"
    >>> async def authenticate(request: cfchat.Request) -> str:
    ...     if request.fields.get("x-user") is None:
    ...         raise Forbidden("Log in first.")
    ...     return request.fields.get("x-user")
    >>> hooks = cfchat.Hooks(authenticate=authenticate)
    """

    authenticate: Callable[[Request], Awaitable[str]] | None = None
    before_call: Callable[[Conversation, Request], Awaitable[Conversation]] | None = None
    after_reply: Callable[[Reply], Awaitable[None]] | None = None


async def run(answer: Awaitable[T], name: str, tag: str) -> T:
    """What a hook answers. Raises its CfchatErrors, and one for all else it raises, which is logged."""
    try:
        async with asyncio.timeout(DEADLINE):
            return await answer
    except CfchatError:
        raise
    except Exception as error:
        log.exception("%s %s failed", tag, name)
        raise CfchatError("Something went wrong in this server.") from error


def label_of(name: str) -> str:
    """A name as a label for the log: no blanks, no line breaks, not too long."""
    return re.sub(r"[^!-~]", "?", name)[:64]
