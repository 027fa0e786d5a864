"""Answer GET /api/pulse: an event stream like a chat's, without a model, which shows what proxies do to a reply.

Five events come at a steady pace and cost no token. A client that knows the pace (`cfchat check --url`) sees whether
something on the way holds events back, cuts them off, or changes their fields. The first event also names the client's
address, as limits and logs have it. With `?idle=SECONDS` only heartbeats come between the first event and the second.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from cfchat.app.admission import Admission
from cfchat.app.writer import Writer
from cfchat.errors import BadOption
from cfchat.guard.guard import Guard
from cfchat.replies.events import Events
from cfchat.replies.form import encode_json_event
from cfchat.server.files import share_of
from cfchat.server.reply import Reply
from cfchat.server.request import Request

PULSE = "/api/pulse"
EVENTS, GAP = 5, 0.25  # GAP is in seconds
IDLE = range(60, 91)  # seconds: longer than most proxies wait for a silent server
MOST = 8  # at once: a pulse is only for tests


class Pulse:
    """The handler. `identify` returns the label of a request's key, or raises why the client may not ask."""

    def __init__(self, identify: Callable[[Request], Awaitable[str]], guard: Guard) -> None:
        self._identify = identify
        self._guard = guard
        self._admission = Admission(MOST, 0, 0, share_of(MOST), "pulses")

    async def __call__(self, request: Request, reply: Reply) -> None:
        """Let the client in by the rules of a chat, and send it the events.

        Raises:
            BadOption: `idle` is not a number of seconds in IDLE.
            Overloaded: MOST pulses run already, or this client's share of them.
            CfchatError: the client may not ask, or sends a body.
        """
        asker = self._guard.admit(await self._identify(request), request.client, time.monotonic())
        idle = _read_idle(request.query)
        await request.read_body(0)  # behind it the server watches for a client that leaves
        await self._admission.enter(asker.name)
        try:
            Writer(reply, Events(), asker.fields)  # which begins the stream
            if request.method == "HEAD":
                reply.end()
            else:
                await _send_events(reply, request.client, idle)
        finally:
            self._admission.leave(asker.name)


async def _send_events(reply: Reply, client: str, idle: float) -> None:
    began = time.monotonic()
    reply.write(encode_json_event({"n": 1, "t": 0, "client": client}))
    due = began + (idle or GAP)
    for number in range(2, EVENTS + 1):
        await asyncio.sleep(due - time.monotonic())
        event = encode_json_event({"n": number, "t": round((time.monotonic() - began) * 1000)})
        if number < EVENTS:
            reply.write(event)
        else:
            reply.end(event)
        due += GAP


def _read_idle(query: str) -> int:
    values = parse_qs(query, keep_blank_values=True).get("idle")
    if values is None:
        return 0
    if len(values) > 1 or not re.fullmatch("[0-9]{2}", values[0]) or int(values[0]) not in IDLE:
        raise BadOption(f"`idle` is a number of seconds from {IDLE[0]} to {IDLE[-1]}.", param="idle")
    return int(values[0])
