"""Let a program that embeds cfchat take part: name the client, change the question, settle the cost.

Hooks run on the way of a request, so each has a deadline, and a fault of a hook is never the client's fault: it is
logged with its traceback and answered by a plain 500. Only a CfchatError passes as it is, because the program made it
for the client. What a hook returns or raises is checked here, so that no later part meets what cannot be sent.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import TypeVar

from cfchat.conversation.images import Image
from cfchat.conversation.model import Conversation, Message, Options
from cfchat.conversation.passed import texts_of
from cfchat.errors import CfchatError, RequestTimeout
from cfchat.server.request import Request
from cfchat.upstream.cloudflare.models import is_model_name, is_search
from cfchat.wire.strict_json import encode
from cfchat.wire.writer import encode_response_head

log = logging.getLogger("cfchat.hooks")

DEADLINE = 30.0  # seconds, after which a hook has failed

T = TypeVar("T")

_ROLES = ("system", "user", "assistant", "tool")
_BODILESS = (204, 205, 304)  # RFC 9110 §6.4.1, §15.3.6
# The server sets these fields itself. A second one of them could change where the reply ends.
_OURS = frozenset({"connection", "content-length", "content-type", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that is over: its client, its model, its cost.

    `who` is the label of a key, or the name that `authenticate` returned. `client` is an address. `estimated` says that
    Cloudflare reported no numbers for some of it, for example because the reply is not `whole`.

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
    when it is over, also if it broke off or was empty, or if its client left before the first word.

    A CfchatError from the first two goes to the client as it is. Any other error, a result or an error that cannot be
    sent, or a hook that takes longer than half a minute, is logged and answered by a 500. An error in `after_reply` is
    only logged, because the reply is over.

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


async def run_hook(name: str, tag: str, hook: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Call a hook, check its result and return it. `name` is its place in Hooks; `tag`, a request's id, is for the log.

    Raises:
        CfchatError: the hook's own, or an internal error for anything else that is wrong with it, which is logged.
    """
    try:
        async with asyncio.timeout(DEADLINE):
            result = await _call(hook, *arguments)
        if name in _CHECKS:
            _CHECKS[name](result)
    except CfchatError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, TimeoutError) and any(isinstance(it, Request) and it.awaits_body for it in arguments):
            raise RequestTimeout("The request's body did not arrive in time.") from None
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # the client has left, or the server ends
        log.exception("%s %s failed", tag, name)
        raise CfchatError() from error
    return result


async def _call(hook: Callable[..., Awaitable[T]], *arguments: object) -> T:
    try:
        return await hook(*arguments)
    except CfchatError as error:
        _check_error(error)
        raise


# --- what a hook gives back ---------------------------------------------------------------------
# Each check raises an exception that says what is wrong. It ends up in the log, behind the hook's name.


def _check_error(error: CfchatError) -> None:
    # By getattr, because a class may have an __init__ of its own that does not call ours.
    texts = [getattr(error, name, None) for name in ("message", "type", "code")]
    if not all(isinstance(text, str) for text in (*texts, error.param or "")):
        raise TypeError("its `message`, `type`, `code` and `param` must be strings")
    if not isinstance(error.status, int) or not 200 <= error.status <= 599 or error.status in _BODILESS:
        raise ValueError("its `status` must be that of a reply with a body")
    if error.retry_after is not None and not isfinite(error.retry_after):
        raise ValueError("its `retry_after` must be finite")
    if not _OURS.isdisjoint([name.lower() for name, _ in error.fields]):
        raise ValueError("its `fields` hold one that the server sets itself")
    encode_response_head(error.status, error.fields)


def _check_name(name: object) -> None:
    if name is not None and not isinstance(name, str):
        raise TypeError("the client's name must be a string")


def _check_conversation(conversation: object) -> None:
    if not isinstance(conversation, Conversation) or not isinstance(conversation.options, Options):
        raise TypeError("a Conversation must be returned")
    options, messages = conversation.options, conversation.messages
    if not isinstance(messages, (tuple, list)) or not messages:
        raise TypeError("`messages` must be a tuple that is not empty")
    for message in messages:
        if not isinstance(message, Message) or message.role not in _ROLES:
            raise TypeError("each of `messages` must be a Message of the system, a user, an assistant or a tool")
        message.content.encode()
        if not isinstance(message.images, (tuple, list)) or not all(isinstance(it, Image) for it in message.images):
            raise TypeError("the `images` of a message must be Images")
        if message.images and message.role != "user":
            raise ValueError("only a message of a user can have `images`")
    if options.model is not None and not (is_model_name(options.model) or is_search(options.model)):
        raise ValueError("`options.model` must be the name of a model")
    numbers = [getattr(options, option.name) for option in fields(Options) if option.name != "model"]
    if not all(isinstance(number, (int, float)) for number in numbers if number is not None):
        raise TypeError("`options` must be numbers")
    encode([numbers, *[message.tool_calls for message in messages]])
    texts_of(conversation.passed)


_CHECKS: Mapping[str, Callable[[object], None]] = {"authenticate": _check_name, "before_call": _check_conversation}


def label_of(name: str) -> str:
    """Return a name as a label for the log: printable ASCII without blanks, at most 64 characters."""
    return re.sub(r"[^!-~]", "?", name)[:64]
