"""One connection to the upstream: connect, perhaps through a proxy; one exchange at a time; deadlines."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from cfchat.errors import (
    Incomplete,
    ProtocolError,
    UpstreamInterrupted,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from cfchat.net.deadline import Alarm
from cfchat.net.stream import Stream
from cfchat.wire.messages import NEED_DATA, Data, EndOfMessage, ReadLimits, ResponseHead
from cfchat.wire.reader import ResponseReader

RESPONSE_LIMITS = ReadLimits(head=64 * 1024, body=None)


class Wait(NamedTuple):
    """What did not come in time, and the flag that sets how long it may take."""

    missing: str
    flag: str


FIRST_TOKEN = Wait("no first words", "--first-token-timeout")
NEXT_TOKEN = Wait("no further words", "--idle-timeout")
WHOLE_REPLY = Wait("no end of the reply", "--reply-timeout")
LIST_OF_MODELS = Wait("no list of models", "--idle-timeout")
AFTER_DONE = Wait("no end of the message", "")  # never told: the reply was whole


class UpstreamStale(UpstreamInterrupted):
    """The connection died before any byte of the reply: a pooled one is replaced, free."""


class Deadline(Alarm):
    """The alarm of a whole exchange.

    Whatever comes first ends the exchange: the deadline that moves, or the bound, which does not.
    """

    def __init__(self, on_expiry: Callable[[], None]) -> None:
        super().__init__(on_expiry)
        self._bound = inf
        self._waits = self._bound_waits = self._late = (0.0, NEXT_TOKEN)

    def move(self, seconds: float, wait: Wait) -> None:
        """Expire `seconds` from now, unless moved again before."""
        self._waits = seconds, wait
        self._when = when = self._loop.time() + seconds
        if when < self._rings:
            self._watch(when)

    def bound(self, seconds: float, wait: Wait) -> None:
        """Expire `seconds` from now, wherever the deadline is moved to; 0 for no such bound."""
        if seconds:
            self._bound_waits = seconds, wait
            self._bound = self._loop.time() + seconds
            if self._bound < self._rings:
                self._watch(self._bound)

    def pause(self) -> None:
        """Whoever waits now, it is not for the upstream."""
        self._when = inf

    def stop(self) -> None:
        """Nothing is waited for, nor bound."""
        self._when = self._bound = inf

    def error(self) -> UpstreamTimeout:
        """What an expired deadline means."""
        seconds, wait = self._late
        return UpstreamTimeout(
            f"The model took too long: {wait.missing} within {seconds:g} s.", detail=f"{wait.flag} sets how long"
        )

    def _due(self) -> float:
        return min(self._when, self._bound)

    def _expire(self, now: float) -> None:
        # Remembered here: what was read before may still move the deadline.
        self._late = self._bound_waits if now >= self._bound else self._waits
        super()._expire(now)


class Connection:
    """An HTTP/1.1 connection of the client's role. One exchange at a time: `send`, `head`, `next_event`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._wire = ResponseReader(RESPONSE_LIMITS)
        self._exchanges = 0
        self._answered = False
        self.deadline = Deadline(self.close)
        self.rest()

    @property
    def usable(self) -> bool:
        """Still open, and the last message, if there was one, read to its end with nothing behind it."""
        still_open = not self._stream.disturbed and not self._stream.closing
        return still_open and (self._wire.reusable or not self._exchanges)

    @property
    def peer(self) -> str:
        """Address and port of the other end, which is the proxy's where there is one; empty once it is lost."""
        if self._stream.peername is None:
            return ""
        host, port, *_ = self._stream.peername
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def tls_version(self) -> str | None:
        """`TLSv1.3` for one; None for plain TCP."""
        return self._stream.tls_version

    def send(self, request: bytes) -> None:
        """Send a whole request. It is not waited for: a reply may come before the last byte is out."""
        if self._exchanges:
            self._wire.start_next("POST")
        self._exchanges += 1
        self._answered = False
        self._stream.idle = False
        self._stream.write(request)

    async def head(self) -> ResponseHead:
        """The final head of the reply. Raises UpstreamStale, and whatever `next_event` raises."""
        event = await self.next_event()
        if isinstance(event, ResponseHead):
            return event
        raise UpstreamStale("The model's server closed the connection before it answered.")

    async def next_event(self) -> ResponseHead | Data | EndOfMessage | object:
        """The next event of the reply.

        Raises UpstreamTimeout, UpstreamInterrupted (EOF or reset inside the message) and
        UpstreamProtocolError.
        """
        try:
            while (event := self._wire.next_event()) is NEED_DATA:
                data = await self._stream.read()
                if data:
                    self._answered = True
                    self._wire.receive_data(data)
                elif self.deadline.expired:
                    raise self.deadline.error()
                else:
                    self._wire.receive_eof()
        except OSError as error:
            if self.deadline.expired:
                raise self.deadline.error() from error
            kind = UpstreamInterrupted if self._answered else UpstreamStale
            raise kind("The connection to the model was lost.", detail=str(error)) from error
        except Incomplete as error:
            raise UpstreamInterrupted("The connection to the model was lost.", detail=error.message) from error
        except ProtocolError as error:
            raise UpstreamProtocolError("The model's server sent nonsense.", detail=error.message) from error
        return event

    def offer(self, ready: Callable[[], bool], take: Callable[[bytes], bool]) -> None:
        """Offer `take` what comes of the body while `next_event` is awaited, when `ready`. Until `rest`.

        It is called as the bytes come, and nobody's task is run for them. What it takes is no event any more.
        """

        def offered(data: bytes) -> bool:
            body = self._wire.peel(data) if ready() else b""
            return bool(body) and take(body)

        self._stream.taker = offered

    def rest(self) -> None:
        """Between two exchanges: what comes now, or has come behind the last one, makes the connection unusable."""
        self.deadline.stop()
        self._stream.rest()

    def close(self) -> None:
        self.deadline.cancel()
        # abort, not close: a reply nobody waits for must stop costing tokens now, and a TLS
        # close_notify handshake would wait for the peer.
        self._stream.abort()
