"""Readers of HTTP/1.1 messages (RFC 9112) for both roles: bytes in, events out. Sans-I/O.

A reader takes bytes (`receive_data`, `receive_eof`) and gives events (`next_event`). It is in one of four states;
each is a method that returns the next event, or None to go on in another state:

    start line -> field lines -> body -> (chunked only) trailers -> start line, or ended

The events and the error depend on the bytes alone, never on how they were cut: a line is searched up to its limit
and no further, and data before an error is given before the error. An ambiguous message is refused, not repaired.
After an error the reader only raises that error again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from cfchat.errors import Incomplete, ProtocolError, TargetTooLong
from cfchat.wire import grammar
from cfchat.wire.bodies import ChunkedDecoder, Decoder, LengthDecoder, UntilCloseDecoder
from cfchat.wire.buffer import ReceiveBuffer
from cfchat.wire.field_section import FieldSection
from cfchat.wire.fields import NO_FIELDS, Fields
from cfchat.wire.framing import Framing, framing_of
from cfchat.wire.messages import CLOSED, NEED_DATA, Data, EndOfMessage, Need, ReadLimits, RequestHead, ResponseHead
from cfchat.wire.start_lines import parse_request_line, parse_status_line

_LINE_TOO_LONG = partial(TargetTooLong, "The request line is too long.")
# The head of the last message is kept, up to so many bytes: clients and proxies repeat theirs to the letter.
_MOST_REMEMBERED = 4096


_NO_BODY = LengthDecoder(0)  # shared, because reading changes nothing in it
HeadT = TypeVar("HeadT", RequestHead, ResponseHead)


class _Reader(Generic[HeadT]):
    """The states that both roles share. A role reads its start line, makes its head, and decides how to go on."""

    _alone = False  # whether no other message can follow in the buffer

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._buffer = ReceiveBuffer()
        self._eof = False
        self._error: ProtocolError | None = None
        self._start = b""  # the start line, without its CRLF
        self._known = b""  # the last head, and what it was parsed into
        self._known_head: HeadT | None = None
        self._known_framing: Framing = (False, None)
        self._expect_start()

    @property
    def buffered(self) -> int:
        """Return how many received bytes wait in the buffer."""
        return self._buffer.size

    def receive_data(self, data: bytes) -> None:
        """Take bytes of the peer. After an error they are dropped."""
        if self._error is None:
            self._buffer.append(data)

    def receive_eof(self) -> None:
        """Note that the peer sends no more bytes."""
        self._eof = True

    def next_event(self) -> HeadT | Data | EndOfMessage | Need:
        """Return the next event: NEED_DATA if it needs more bytes, CLOSED if no more events will come.

        Raises:
            ProtocolError: the message is malformed, incomplete or over a limit. Every further call raises it again.
        """
        if self._error:
            raise self._error.with_traceback(None)
        try:
            while (event := self._state()) is None:
                pass
        except ProtocolError as error:
            self._error = error
            self._buffer.clear()
            raise
        return event

    def _expect_start(self) -> None:
        """Go to the state before a message."""
        self._begun = False
        self._decoder: Decoder = _NO_BODY
        self._state: Callable[[], HeadT | Data | EndOfMessage | Need | None] = self._start_line

    def _starve(self) -> Need:
        """Return the reason for too few bytes; raise Incomplete if the peer ended inside a message."""
        if not self._eof:
            return NEED_DATA
        if self._begun or self._buffer.size:
            raise Incomplete("The connection ended inside a message.")
        return CLOSED

    def _start_line(self) -> HeadT | Need | None:
        # Fast case: the same head as the last one. Falls through to parsing it; equal by
        # tests/wire/test_request_reader.py::test_a_head_that_repeats_is_read_as_the_first_was.
        if self._buffer.take_known(self._known) and self._known_head is not None:
            self._begun = True
            return self._begin_body(self._known_head, self._known_framing)
        line = self._buffer.take_line(self._limits.line + 2, _LINE_TOO_LONG)
        if line is None:
            return self._starve()
        if self._read_start(line):
            self._begun, self._start = True, line
            self._section = FieldSection(self._limits.head, self._limits.fields)
            self._state = self._field_lines
        return None

    def _field_lines(self) -> HeadT | Need | None:
        fields = self._section.read(self._buffer)
        if fields is None:
            return self._starve()
        head = self._make_head(fields)
        if head is None:
            return None
        framing = framing_of(head.minor, fields)
        whole = self._section.whole
        if whole and len(self._start) + len(whole) <= _MOST_REMEMBERED:
            self._known, self._known_head, self._known_framing = self._start + b"\r\n" + whole, head, framing
        return self._begin_body(head, framing)

    def _body(self) -> Data | EndOfMessage | Need | None:
        piece = self._decoder.read(self._buffer)
        if piece:
            if self._decoder.ended:
                self._state = self._end_body
            return Data(piece)
        if not self._decoder.ended:
            if not self._eof:
                return NEED_DATA
            self._decoder.finish()
        return self._end_body()

    def _end_body(self) -> EndOfMessage | None:
        if not isinstance(self._decoder, ChunkedDecoder) or self._buffer.skip_line_end():
            return self._end(NO_FIELDS)
        self._section = FieldSection(self._limits.trailers, self._limits.fields)
        self._state = self._trailers
        return None

    def _trailers(self) -> EndOfMessage | Need:
        trailers = self._section.read(self._buffer)
        return self._starve() if trailers is None else self._end(trailers)

    def _choose_decoder(self, framing: Framing, otherwise: Decoder) -> Decoder:
        """Return the decoder of the body; `otherwise` if the fields declare no length (RFC 9112 §6.3)."""
        limits = self._limits
        chunked, length = framing
        if chunked:
            chunks = None if limits.body is None else limits.chunks
            return ChunkedDecoder(limits.chunk_line, limits.chunk_extensions_total, limits.body, self._alone, chunks)
        return otherwise if length is None else LengthDecoder(length, limits.body)

    def _read_start(self, line: bytes) -> bool:
        """Parse a start line; return False to skip it."""
        raise NotImplementedError

    def _make_head(self, fields: Fields) -> HeadT | None:
        """Return the head with these fields; return None to skip it."""
        raise NotImplementedError

    def _begin_body(self, head: HeadT, framing: Framing) -> HeadT:
        """Choose the decoder of the body, go on to it, and return the head."""
        raise NotImplementedError

    def _end(self, trailers: Fields) -> EndOfMessage:
        """Return the end of the message, and choose the next state."""
        raise NotImplementedError


def _check_host(minor: int, fields: Fields) -> None:
    """Refuse a request without exactly one Host field; HTTP/1.0 may have none (RFC 9112 §3.2)."""
    hosts = fields.get_all("host")
    if len(hosts) > 1 or (not hosts and minor >= 1):
        raise ProtocolError("There must be one Host field.")
    if hosts and not grammar.HOST.fullmatch(hosts[0].encode("latin-1")):
        raise ProtocolError("The Host field is malformed.")


class RequestReader(_Reader[RequestHead]):
    """Reads the requests of one connection, one after the other.

    If a declared length is over the limit, the call after the head raises BodyTooLarge. The reader also reads requests
    behind one that asks to close the connection: the server must stop there.
    """

    def __init__(self, limits: ReadLimits = ReadLimits()) -> None:
        super().__init__(limits)

    @property
    def begun(self) -> bool:
        """Return whether a part of a request has come, and not its end. Empty lines before it do not count."""
        return self._begun or self._buffer.size > 0

    @property
    def body_pending(self) -> bool:
        """Return whether a head was given and its EndOfMessage was not."""
        return self._head_given

    def _expect_start(self) -> None:
        super()._expect_start()
        self._skipped = 0
        self._head_given = False

    def _read_start(self, line: bytes) -> bool:
        if not line:
            self._skipped += 1
            # RFC 9112 §2.2: empty lines before a request are ignored. A few are enough.
            if self._skipped > self._limits.skipped_lines:
                raise ProtocolError("There are too many empty lines before the request.")
            return False
        self._line = parse_request_line(line)
        return True

    def _make_head(self, fields: Fields) -> RequestHead:
        _check_host(self._line[2], fields)
        return RequestHead(*self._line, fields)

    def _begin_body(self, head: RequestHead, framing: Framing) -> RequestHead:
        self._decoder = self._choose_decoder(framing, _NO_BODY)
        self._state = self._body
        self._head_given = True
        return head

    def _end(self, trailers: Fields) -> EndOfMessage:
        self._expect_start()
        return EndOfMessage(trailers)


class ResponseReader(_Reader[ResponseHead]):
    """Reads the response to one request; `start_next` prepares it for the response to another."""

    _alone = True

    def __init__(self, limits: ReadLimits = ReadLimits(), request_method: str = "POST") -> None:
        super().__init__(limits)
        self._method = request_method

    @property
    def reusable(self) -> bool:
        """Return whether the response is complete and another request may go out on the connection.

        False if it ends with its connection, or if bytes came behind it: they must never be read as the next reply.
        """
        return self._done and self._persistent and not self._eof and not self._buffer.size

    def read_body(self, data: bytes) -> bytes:
        """Take bytes of the body and return the data in them; then `complete` says whether the response has ended.

        Raises:
            ProtocolError: as `next_event` raises it.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)
        try:
            piece = self._decoder.read(self._buffer, data)
        except ProtocolError as error:
            self._error = error
            self._buffer.clear()
            raise
        if self._decoder.ended:
            try:
                while type(event := self.next_event()) is Data:
                    piece += event.data
            except ProtocolError:
                if not piece:
                    raise  # else the next call raises it: what came before an error is handed on first
        return piece

    def read_end(self) -> bytes:
        """Return the rest of the body, after `receive_eof`.

        Raises:
            Incomplete: the peer ended the connection inside the response.
        """
        pieces = []
        while type(event := self.next_event()) is Data:
            pieces.append(event.data)
        return b"".join(pieces)

    @property
    def complete(self) -> bool:
        """Return whether the response has ended, with all its trailers."""
        return self._done

    def start_next(self, method: str) -> None:
        """Expect the response to a request with this method. Only if the connection is `reusable`."""
        assert self.reusable
        self._method = method
        self._expect_start()

    def _expect_start(self) -> None:
        super()._expect_start()
        self._skipped = 0
        self._done = False
        self._persistent = False

    def _read_start(self, line: bytes) -> bool:
        self._line = parse_status_line(line)
        return True

    def _make_head(self, fields: Fields) -> ResponseHead | None:
        if self._line[0] < 200:
            self._skip_informational()
            return None
        return ResponseHead(*self._line, fields)

    def _begin_body(self, head: ResponseHead, framing: Framing) -> ResponseHead:
        self._decoder = self._choose_decoder(framing, UntilCloseDecoder(self._limits.body))
        # RFC 9112 §6.3, first two rules: these responses end with their head, whatever their fields say.
        tunnel = self._method == "CONNECT" and head.status < 300
        if self._method == "HEAD" or tunnel or head.status in (204, 304):
            self._decoder = _NO_BODY
        self._persistent = head.keep_alive
        self._state = self._body
        return head

    def _skip_informational(self) -> None:
        """Expect another head behind a 1xx one. 101 is refused, because no request asks for an upgrade."""
        self._skipped += 1
        if self._line[0] == 101 or self._skipped > self._limits.informational:
            raise ProtocolError("An unexpected informational response came.")
        self._state = self._start_line

    def _end(self, trailers: Fields) -> EndOfMessage:
        self._done = True
        self._state = self._ended
        return EndOfMessage(trailers)

    def _ended(self) -> Need:
        return CLOSED if self._eof else NEED_DATA
