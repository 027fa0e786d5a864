"""One client's connection: its requests in order, one at a time, until either side has had enough.

A task reads a head, lets the handler answer, and reads the next. While a request is answered nobody pulls: what comes
is pushed here, kept for the next request up to a bound, and the end of it means that the client is gone (as in Go's
net/http, and nginx). One deadline serves all waits of a connection, one after the other.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

from cfchat.errors import CfchatError, ExpectationFailed, Incomplete, Overloaded, RequestTimeout
from cfchat.net.deadline import Deadline
from cfchat.net.stream import Stream
from cfchat.server.record import Record
from cfchat.server.reply import Head, Reply, respond
from cfchat.server.request import ClientGone, Request, new_id
from cfchat.server.rules import Rules
from cfchat.wire.bodies import LAST_CHUNK, encode_chunk
from cfchat.wire.messages import CLOSED, NEED_DATA, Data, EndOfMessage, RequestHead
from cfchat.wire.reader import RequestReader
from cfchat.wire.writer import encode_fields, encode_response_head

log = logging.getLogger("cfchat.server")

READ_AHEAD = 64 * 1024  # bytes of later requests that are kept while one is answered
_NO_SNIFFING = ("X-Content-Type-Options", "nosniff")


class Connection:
    """Serves one client. `refusal` is sent at once, whatever is asked; `peer` is the socket's address."""

    task: asyncio.Task[None]

    def __init__(self, rules: Rules, stream: Stream, peer: str, refusal: Overloaded | None, draining: bool) -> None:
        self.peer = peer
        self.draining = draining
        self._rules = rules
        self._limits = rules.limits
        self._stream = stream
        self._refusal = refusal
        self._wire = RequestReader(rules.limits.read)
        self._idle = False  # no request is under way
        self._fresh = True  # nothing was asked yet
        self._gone = False  # the client is
        self._secure = False
        self._reply: Reply | None = None
        self._head: RequestHead | None = None
        self._keep = False
        self._chunked = False
        self._drained: asyncio.Future[None] | None = None

    def end_if_idle(self, fresh: bool) -> None:
        """Close if no request is under way; a connection that has asked nothing yet only if `fresh`."""
        if self._idle and (fresh or not self._fresh):
            self._stream.close()

    @property
    def refused(self) -> bool:
        """Return whether all that this client gets is a refusal."""
        return self._refusal is not None

    async def run(self, tls: ssl.SSLContext | None) -> None:
        """Serve until the end of the connection, behind a TLS handshake if there is a context for it."""
        self._deadline, self.beats = Deadline(self._expire), Deadline(self._beat)
        self._stream.on_pressure = self._press
        try:
            if tls is not None:
                await self._shake_hands(tls)
            if self._refusal is not None:
                await self._refuse(self._refusal)
            else:
                while await self._serve_next():
                    if self._wire.buffered:
                        # Requests sent ahead would all be answered in one turn of the loop.
                        await asyncio.sleep(0)
        except (ClientGone, OSError):
            self._stream.abort()
        except asyncio.CancelledError:
            self._stream.abort()
            if not self._gone or self.task.uncancel():
                raise
        except Exception:
            log.exception("connection from %s failed", self.peer)
            self._stream.abort()
        finally:
            self._deadline.cancel()
            self.beats.cancel()
            self._stream.pull()
            self._stream.close()
            await self._wait_closed()
            self._stream.on_pressure = self._reply = None  # each holds this object, which would be freed late

    async def _shake_hands(self, tls: ssl.SSLContext) -> None:
        self._deadline.move(self._limits.head)
        try:
            await self._stream.start_tls(tls, None, server_side=True)
        except asyncio.CancelledError:
            if not self._timed_out():
                raise
            raise ClientGone from None  # nothing can be answered before it
        finally:
            self._deadline.pause()
        self._secure = True

    async def _wait_closed(self) -> None:
        """Wait, not for ever, until the last bytes have gone out: this process may end behind it."""
        try:
            async with asyncio.timeout(self._limits.write):
                await self._stream.wait_closed()
        except TimeoutError:
            self._stream.abort()
        except BaseException:
            self._stream.abort()
            raise

    def _expire(self) -> None:
        """End the wait that has lasted too long. A client that does not take its reply counts as gone."""
        if self._stream.full:
            self._leave()
        else:
            self.task.cancel()

    def _timed_out(self) -> bool:
        """Return whether the deadline has cancelled the task, and nobody else has."""
        return self._deadline.expired and not self.task.uncancel()

    def _leave(self) -> None:
        self._gone = True
        if self._reply is not None:
            self._reply.gone = True
        self.task.cancel()

    # --- one request --------------------------------------------------------------------------

    async def _serve_next(self) -> bool:
        """Read one request and answer it; return whether another may follow."""
        try:
            head = await self._read_head()
        except CfchatError as error:
            await self._refuse(error)
            return False
        if head is None:
            return False
        rules = self._rules
        client = rules.peers.client(self.peer, head.fields)
        request = Request(head, client, new_id(), self._read_body, self._secure)
        record = Record(request.id, client, head.method, request.path, request.notes)
        self._head, self._keep = head, False
        self._reply = reply = Reply(self, record, self._limits.heartbeat)
        try:
            handler = _expect_nothing if head.expects_something_else else rules.handler
            await respond(handler, rules.refuse, request, reply)
            if self._stream.full:
                await self._wait_drained()
        except BaseException as error:
            record.fail(self._gone or isinstance(error, (ClientGone, OSError)))
            raise
        finally:
            rules.note(record)
            self._reply = None
        self._stream.pull()
        if self._wire.body_pending or (not self._keep and self._wire.buffered):
            await self._linger()
        return self._keep

    async def _refuse(self, error: CfchatError) -> None:
        """Answer what never became a request. Nothing behind it is ever answered."""
        record = Record(new_id(), self.peer, "-", "-", {})
        self._head = None
        try:
            status, fields, body = self._rules.refuse(error, record.id, None)
            self._reply = reply = Reply(self, record, self._limits.heartbeat)
            reply.send(status, fields, body)
            await self._linger()
        finally:
            self._rules.note(record)

    # --- reading ------------------------------------------------------------------------------

    async def _read_head(self) -> RequestHead | None:
        """Return the next request's head; None if the client left, or never began."""
        wire, deadline = self._wire, self._deadline
        try:
            event = wire.next_event() if wire.buffered else NEED_DATA
            if event is NEED_DATA:
                self._idle = not wire.begun
                if self._idle and self.draining and not self._fresh:
                    return None
                deadline.move(self._limits.head if self.draining or not self._idle else self._limits.keep_alive)
                while event is NEED_DATA:
                    await self._receive()
                    event = wire.next_event()
                    if event is NEED_DATA and self._idle and wire.begun:
                        self._idle = False
                        deadline.move(self._limits.head)
        except asyncio.CancelledError:
            if not self._timed_out():
                raise
            if self._idle:
                return None
            raise RequestTimeout("The request's head did not arrive in time.") from None
        except Incomplete:
            return None
        finally:
            deadline.pause()
            self._idle = False
        if event is CLOSED:
            return None
        assert isinstance(event, RequestHead)
        self._fresh = False
        return event

    async def _read_body(self, take: Callable[[bytes], None]) -> None:
        wire, deadline, begun, waited = self._wire, self._deadline, False, False
        try:
            while type(event := wire.next_event()) is not EndOfMessage:
                if type(event) is Data:
                    begun = True
                    take(event.data)
                else:
                    if not waited:
                        waited = True
                        assert self._head is not None
                        if self._head.expects_continue and not begun and not wire.buffered:
                            self._stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                        deadline.move(self._limits.body)
                    await self._receive()
                if waited or wire.buffered:
                    await asyncio.sleep(0)  # what has come already is read without a wait: take turns here, too
        except asyncio.CancelledError:
            if not self._timed_out():
                raise
            raise RequestTimeout("The request's body did not arrive in time.") from None
        finally:
            if waited:
                deadline.pause()
        self._stream.push(self._take_ahead, self._leave)

    async def _receive(self) -> None:
        data = await self._stream.read()
        if data:
            self._wire.receive_data(data)
        else:
            self._wire.receive_eof()

    def _take_ahead(self, data: bytes) -> None:
        """Keep what belongs to the next request, up to a bound."""
        self._wire.receive_data(data)
        if self._wire.buffered > READ_AHEAD:
            self._stream.pause()

    # --- writing: the Out of a Reply ----------------------------------------------------------

    def put(self, head: Head | None, piece: bytes, last: bool) -> None:
        """See Out."""
        # Fast case: a piece of a stream, which is every token. Falls through to the same with a head or an end; equal
        # by tests/server/test_reply.py::test_pieces_are_chunks_however_they_are_written.
        if head is None and not last and self._chunked:
            self._stream.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            return
        data = self._encode_head(head) if head is not None else b""
        data += encode_chunk(piece) if self._chunked else piece
        if last and self._chunked:
            data += LAST_CHUNK
        self._stream.write(data)

    def cut(self) -> None:
        """See Out. Without a last chunk; where there are no chunks, by RST."""
        self._keep = False
        if not self._chunked:
            self._stream.reset()

    def _beat(self) -> None:
        if self._reply is not None:
            self._reply.beat()

    def _encode_head(self, head: Head) -> bytes:
        asked = self._head
        fields = [*head.fields, _NO_SNIFFING]
        old = asked is not None and asked.minor == 0
        streamed = head.length is None
        bare = asked is not None and asked.method == "HEAD"
        self._chunked = streamed and not old and not bare
        if streamed:
            if not old:
                fields.append(("Transfer-Encoding", "chunked"))
        elif head.status not in (204, 304):  # a 304 could only tell the length of what it leaves out
            fields.append(("Content-Length", str(head.length)))
        if asked is not None:
            pending = self._wire.body_pending
            if pending and not asked.has_body:
                self._wire.next_event()  # the end of a body that is not there, so nobody need have read it
                pending = self._wire.body_pending
            framed = not streamed or self._chunked or bare
            self._keep = framed and asked.keep_alive and not pending and not self.draining
        if not self._keep:
            fields.append(("Connection", "close"))
        elif old:
            fields.append(("Connection", "keep-alive"))
        assert self._reply is not None
        request_id = self._reply.record.id.encode()
        return encode_response_head(head.status, fields, b"%bX-Request-Id: %b\r\n" % (_date(), request_id))

    def _press(self, full: bool) -> None:
        """Set the client an end while it takes less than is written, and keep the reply from writing more."""
        if full:
            self._deadline.move(self._limits.write)
        else:
            self._deadline.pause()
        if self._reply is not None:
            self._reply.press(full)
        if not full and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def _wait_drained(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()
        await self._drained

    async def _linger(self) -> None:
        """Let the client read its refusal before the kernel's RST destroys it (RFC 9112 §9.6)."""
        self._stream.pull()
        left = self._limits.linger_bytes
        self._stream.end_sending()
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(self._limits.linger):
                while left > 0 and (data := await self._stream.read()):
                    left -= len(data)


async def _expect_nothing(request: Request, reply: Reply) -> None:
    raise ExpectationFailed("Nothing but `Expect: 100-continue` can be expected of this server.")


# Never the locale's. (email.utils knows this, too, and takes as long to import as half of this server.)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_dated: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    """Return the Date field as IMF-fixdate (RFC 9110 §5.6.7), made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        year, month, day, hour, minute, second, weekday, *_ = time.gmtime(now)
        date = f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{second:02} GMT"
        _dated = (now, encode_fields([("Date", date)]))
    return _dated[1]
