"""The reply to one request. The handler owns it and writes into it, as in Go: `start`, `write`, `end`, or `send`.

Nothing goes out before the first piece, so a handler that fails before it still gets an honest status. Behind the
first piece only its own last words (`start(..., fail=...)`) or a visible cut can say that it failed. A stream that has
heartbeats is never silent for long: the first of them is its first piece if no other comes before. A Reply does no
I/O: it puts pieces into an `Out`, an HTTP/1.1 connection or an ASGI server, in one call for each write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from cfchat.errors import CfchatError, Incomplete, Overloaded
from cfchat.net.deadline import Deadline
from cfchat.server.record import Record
from cfchat.server.request import ClientGone, Request
from cfchat.wire.fields import Fields

log = logging.getLogger("cfchat.server")

# Chromium's `fetch` drops the words that a page has not read yet when the cut comes with them.
BEFORE_CUT = 0.1  # seconds

FieldLines = Sequence[tuple[str, str]]


class Head(NamedTuple):
    """A status and fields; `length` is the body's in bytes, None for a stream."""

    status: int
    fields: FieldLines
    length: int | None


class Refusal(NamedTuple):
    """A whole reply that tells an error."""

    status: int
    fields: FieldLines
    body: bytes


class Out(Protocol):
    """Where a reply goes. `beats` is a timer that calls the reply's `beat`; a connection's replies share it."""

    beats: Deadline

    def put(self, head: Head | None, piece: bytes, last: bool) -> None:
        """Send a piece of the body, behind the head if it is the first; `last` ends the reply. Never waits."""

    def cut(self) -> None:
        """End the reply so that every client sees that it is not whole."""


class Pausable(Protocol):
    """What makes a reply's pieces, and can be asked to wait."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Reply:
    """`common` are fields of every reply that the handler starts or sends. `gone`: the client has left.

    `late` are fields of a stream that are known only after its `start`. They are left out if a heartbeat has taken the
    head with it before that.

    A heartbeat is due `silence` seconds after `start`, and then after as many without a write.
    """

    def __init__(self, out: Out, record: Record, silence: float) -> None:
        self.common: FieldLines = ()
        self.late: FieldLines = ()
        self.record = record
        self.gone = False
        self.ended = False
        self.begun = False  # something has gone out
        self._source: Pausable | None = None
        self._full = False  # the client takes less than is written
        self._out = out
        self._head: Head | None = None
        self._fail: Callable[[CfchatError], bytes] | None = None
        self._heartbeat = b""
        self._silence = silence
        self._written = 0.0

    # --- for the handler ----------------------------------------------------------------------

    def start(
        self,
        status: int,
        fields: FieldLines,
        *,
        heartbeat: bytes = b"",
        fail: Callable[[CfchatError], bytes] | None = None,
    ) -> None:
        """Begin a stream. Its head goes out with the first piece, or with the first heartbeat.

        `heartbeat` is sent if nothing was written for a while. `fail` returns the last words of a reply that breaks
        off; without words it is cut.
        """
        self._head = Head(status, [*fields, *self.common], None)
        self._heartbeat, self._fail = heartbeat, fail
        if heartbeat:
            self._written = time.monotonic()
            self._out.beats.move(self._silence)

    def write(self, piece: bytes) -> None:
        """Send a piece of a stream at once. What the client does not take waits in memory: see `follow`."""
        if piece:
            self._put(piece, False)

    def end(self, piece: bytes = b"") -> None:
        """End a stream, with a last piece in the same write."""
        self._put(piece, True)

    def send(self, status: int, fields: FieldLines = (), body: bytes = b"") -> None:
        """Send a whole reply."""
        self._head = Head(status, [*fields, *self.common], len(body))
        self._put(body, True)

    def follow(self, source: Pausable) -> None:
        """Let the client set the pace: `source` is paused while it takes less than is written."""
        self._source = source
        if self._full:
            source.pause()

    # --- for the server -----------------------------------------------------------------------

    async def fail(self, error: CfchatError, refuse: Refuse, request: Request) -> None:
        """Tell an error: by its own status if nothing has gone out yet, else by last words or, a moment later, a cut.

        Raises:
            CancelledError: the client left in that moment, or the server stops at once.
        """
        if not self.begun:
            status, fields, body = refuse(error, request.id, request.fields)
            self.late = ()
            self._head = Head(status, fields, len(body))
            self._put(body, True)
            return
        self.record.fault = f"interrupted: {error}"
        words = b"" if self._fail is None else self._fail(error)
        if words:
            self._put(words, True)
        else:
            self.stop()
            await asyncio.sleep(BEFORE_CUT)
            self._out.cut()

    def stop(self) -> None:
        """Stop the heartbeats, and let go of the source."""
        self.ended = True
        self._source = None
        if self._heartbeat:
            self._out.beats.pause()

    def beat(self) -> None:
        """Send a heartbeat if it is time: writing does not move the timer, so look how long nothing was written."""
        if self.ended:
            return
        silent = time.monotonic() - self._written
        if silent >= self._silence:
            self._put(self._heartbeat, False)
            silent = 0.0
        self._out.beats.move(self._silence - silent)

    def press(self, full: bool) -> None:
        """Note whether the client takes less than is written, and ask the source to pause or to go on."""
        self._full = full
        if self._source is not None:
            if full:
                self._source.pause()
            else:
                self._source.resume()

    # --- within -------------------------------------------------------------------------------

    def _put(self, piece: bytes, last: bool) -> None:
        head, self._head = self._head, None
        record = self.record
        if record.method == "HEAD":
            piece = b""
        if head is not None:
            if self.late:
                head = Head(head.status, [*head.fields, *self.late], head.length)
            self.begun = True
            record.status = head.status
            record.first = time.monotonic()
        record.sent += len(piece)
        if last:
            self.ended = True
            self._source = None  # it has given all, and may serve another reply by now
            if self._heartbeat:
                self._out.beats.pause()
        elif self._heartbeat:
            self._written = time.monotonic()
        self._out.put(head, piece, last)


Handler = Callable[[Request, Reply], Awaitable[None]]
# Words an error of a request, by its id and fields, or of bytes that never became one (fields None).
Refuse = Callable[[CfchatError, str, Fields | None], Refusal]


async def respond(handler: Handler, refuse: Refuse, request: Request, reply: Reply) -> None:
    """Let the handler answer. What it raises becomes a refusal, or the visible end of a reply that had begun.

    Raises:
        ClientGone: the client left, in its request or in the reply.
        OSError: the connection broke.
    """
    try:
        await handler(request, reply)
        if not reply.ended:
            raise RuntimeError("the handler left its reply without an end")
    except Incomplete as error:
        raise ClientGone from error
    except CfchatError as error:
        await reply.fail(error, refuse, request)
    except asyncio.CancelledError:
        if reply.begun and not (reply.gone or reply.ended):
            await reply.fail(Overloaded("This server is stopping."), refuse, request)
        raise
    except (OSError, ClientGone):
        raise
    except Exception:
        log.exception("%s %s failed", request.id, "reply" if reply.begun else "handler")
        if not reply.ended:
            await reply.fail(CfchatError(), refuse, request)
    finally:
        if not reply.ended:
            reply.stop()
