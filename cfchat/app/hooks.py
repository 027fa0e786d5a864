"""Let a program that embeds cfchat take part: name the client, change the question, settle the cost.

Hooks run on the way of a request, so each has a deadline, and a fault of a hook is never the client's fault: it is
logged with its traceback and answered by a plain 500. Only a CfchatError passes as it is, because the program made it
for the client.
"""

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

DEADLINE = 30.0  # seconds, after which a hook has failed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that is over: its client, its model, its cost.

    `who` is the label of a key, or the name that `authenticate` returned. `client` is an address. `estimated` says that
    Cloudflare reported no numbers, for example because the reply is not `whole`.

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
    """Three places for your own code, each a coroutine function or None.

    `authenticate` gets a Request, with `fields` and `client`, before its body is read. It returns the client's name for
    rates, budgets and logs; if the name is empty, the address counts. API keys, if set, are checked too.
    `before_call` gets the Conversation as it will be sent, and returns it or another one. `after_reply` gets each Reply
    when it is over, also if it broke off, or if its client left before the first word.

    A CfchatError from the first two goes to the client as it is. Any other error, or a hook that takes longer than half
    a minute, is logged and answered by a 500. An error in `after_reply` is only logged, because the reply is over.

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
    """Await a hook and return its result. `name` and `tag`, a request's id, go into the log.

    Raises:
        CfchatError: the hook's own, or an internal error for anything else that it raises, which is logged.
    """
    try:
        async with asyncio.timeout(DEADLINE):
            return await answer
    except CfchatError:
        raise
    except Exception as error:
        log.exception("%s %s failed", tag, name)
        raise CfchatError() from error


def label_of(name: str) -> str:
    """Return a name as a label for the log: printable ASCII without blanks, at most 64 characters."""
    return re.sub(r"[^!-~]", "?", name)[:64]
