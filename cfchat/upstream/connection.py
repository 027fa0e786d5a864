"""One connection to Cloudflare, or to what stands for it: one exchange at a time, and the deadlines of each wait.

`send`, then `head`, then either `next_event` until the end (pull), or `push`: from there on each read of the socket is
decoded and handed on in one call. Errors of the network and of framing become UpstreamErrors here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cfchat.errors import Incomplete, ProtocolError, UpstreamInterrupted, UpstreamProtocolError, UpstreamTimeout
from cfchat.net.deadline import Deadline
from cfchat.net.stream import Stream
from cfchat.wire.messages import NEED_DATA, Data, EndOfMessage, ReadLimits, ResponseHead
from cfchat.wire.reader import ResponseReader

RESPONSE_LIMITS = ReadLimits(head=64 * 1024, body=None)


class Wait(NamedTuple):
    """A wait that has a deadline: what was missing when it passed, and the flag that sets how long it may take."""

    missing: str
    flag: str


FIRST_TOKEN = Wait("no first words", "--first-token-timeout")
NEXT_TOKEN = Wait("no further words", "--idle-timeout")
WHOLE_REPLY = Wait("no end of the reply", "--reply-timeout")
LIST_OF_MODELS = Wait("no list of models", "--idle-timeout")
AFTER_DONE = Wait("no end of the message", "")  # never shown: the reply was whole


class UpstreamStale(UpstreamInterrupted):
    """The connection died before any byte of the reply: a pooled one is replaced, free."""


class Connection:
    """An HTTP/1.1 connection in the client's role."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._wire = ResponseReader(RESPONSE_LIMITS)
        self._exchanges = 0
        self._answered = False
        self._take: Callable[[bytes, bool], None] | None = None
        self._fail: Callable[[Exception], None] | None = None
        self.deadline = Deadline(self.close)
        self.rest()

    @property
    def usable(self) -> bool:
        """Whether it is still open, and the last message, if there was one, read to its end with nothing behind it."""
        still_open = not self._stream.disturbed and not self._stream.closing
        return still_open and (self._wire.reusable or not self._exchanges)

    @property
    def peer(self) -> str:
        """Address and port of the other end, which is the proxy's if there is one; empty once it is lost."""
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

    # --- pull ---------------------------------------------------------------------------------

    async def head(self) -> ResponseHead:
        """Return the final head of the reply.

        Raises:
            UpstreamStale: the connection ended before it. And whatever `next_event` raises.
        """
        event = await self.next_event()
        if isinstance(event, ResponseHead):
            return event
        raise UpstreamStale("The model's server closed the connection before it answered.")

    async def next_event(self) -> ResponseHead | Data | EndOfMessage | object:
        """Return the next event of the reply.

        Raises:
            UpstreamTimeout: a deadline has passed.
            UpstreamInterrupted: the connection ended inside the message.
            UpstreamProtocolError: the bytes are not HTTP.
        """
        try:
            event = self._wire.next_event() if self._answered else NEED_DATA
            while event is NEED_DATA:
                data = await self._stream.read()
                if data:
                    self._answered = True
                    self._wire.receive_data(data)
                elif self.deadline.expired:
                    raise self._timeout()
                else:
                    self._wire.receive_eof()
                event = self._wire.next_event()
        except (OSError, ProtocolError) as error:
            raise self._meaning(error) from error
        return event

    # --- push ---------------------------------------------------------------------------------

    def push(self, take: Callable[[bytes, bool], None], fail: Callable[[Exception], None]) -> None:
        """Until `pull`, call `take(body, ended)` for each read: the body in it, and whether the message has ended.

        `fail` gets the error that ends the message, an UpstreamError if the origin or the way to it is at fault.
        """
        self._take, self._fail = take, fail
        self._receive(b"")  # what is there already, and perhaps the end of the message
        if not self._wire.complete:
            self._stream.push(self._receive, self._receive_end)

    def pull(self) -> None:
        """Hand nothing on any more."""
        self._take = self._fail = None
        self._stream.pull()

    def pause(self) -> None:
        """Read nothing for a while: what was read cannot be handed on."""
        self._stream.pause()

    def resume(self) -> None:
        """Go on reading."""
        self._stream.resume()

    def _receive(self, data: bytes) -> None:
        try:
            body = self._wire.read_body(data)
            if self._take is not None:
                self._take(body, self._wire.complete)
        except Exception as error:
            self._break(error)

    def _receive_end(self) -> None:
        """The connection has ended, by the peer, by a fault or by a deadline."""
        try:
            if self.deadline.expired:
                raise self._timeout()
            if self._stream.error is not None:
                raise self._stream.error
            self._wire.receive_eof()
            body = self._wire.read_end()
            if self._take is not None:
                self._take(body, self._wire.complete)
        except Exception as error:
            self._break(error)

    def _break(self, error: Exception) -> None:
        if self._fail is not None:
            self._fail(self._meaning(error) if isinstance(error, (OSError, ProtocolError)) else error)

    # --- ends ---------------------------------------------------------------------------------

    def _meaning(self, error: OSError | ProtocolError) -> Exception:
        """Return what a fault of the network or of the framing means for the reply."""
        if isinstance(error, OSError):
            if self.deadline.expired:
                return self._timeout()
            kind = UpstreamInterrupted if self._answered else UpstreamStale
            return kind(detail=str(error))
        if isinstance(error, Incomplete):
            return UpstreamInterrupted(detail=error.message)
        return UpstreamProtocolError(detail=error.message)

    def _timeout(self) -> UpstreamTimeout:
        seconds, wait = self.deadline.missed
        assert isinstance(wait, Wait)
        return UpstreamTimeout(
            f"The model took too long: {wait.missing} within {seconds:g} s.", detail=f"{wait.flag} sets how long"
        )

    def rest(self) -> None:
        """End an exchange: what comes now, or has come behind the last one, makes the connection unusable."""
        self._take = self._fail = None
        self.deadline.stop()
        self._stream.rest()

    def close(self) -> None:
        """Close at once: a reply that nobody waits for must stop costing tokens now."""
        self.deadline.cancel()
        # A TLS close_notify would wait for the peer.
        self._stream.abort()
