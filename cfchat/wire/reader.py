"""HTTP/1.1 messages (RFC 9112), read and written, for both roles. Sans-I/O.

A reader takes bytes (`receive_data`, `receive_eof`) and gives events (`next_event`). It is in one of four states,
each a method that gives the next event, or None to go on in another state:

    start line -> field lines -> body -> (chunked only) trailers -> start line, or ended

Every verdict depends on a prefix of all bytes that came, never on how they were cut: lines are looked at up to
their limit and no further, and data before an error is given before the error.
What is ambiguous is refused, not repaired. After an error there is nothing but that error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Generic, TypeVar

from cfchat.errors import HeadTooLarge, Incomplete, ProtocolError, TargetTooLong, UnknownCoding, UnsupportedVersion
from cfchat.wire import grammar
from cfchat.wire.bodies import ChunkedDecoder, Decoder, LengthDecoder, UntilCloseDecoder
from cfchat.wire.buffer import ReceiveBuffer
from cfchat.wire.fields import NO_FIELDS, Fields, members
from cfchat.wire.messages import CLOSED, NEED_DATA, Data, EndOfMessage, Need, ReadLimits, RequestHead, ResponseHead

_LINE_TOO_LONG = partial(TargetTooLong, "The request line is too long.")
_HEAD_TOO_LARGE = partial(HeadTooLarge, "The header fields are too large.")


class _FieldSection:
    """The lines up to and with the empty one: of a head, or the trailers (RFC 9112 §5, §7.1.2)."""

    def __init__(self, size: int, count: int) -> None:
        self._room = size
        self._count = count
        self._items: list[tuple[str, str]] = []
        self._untried = True

    def read(self, buffer: ReceiveBuffer) -> Fields | None:
        """The fields, or None if the section has not ended yet."""
        if self._untried:
            self._untried = False  # no byte is looked at again and again
            if items := self._read_all(buffer):
                return Fields(items)
        while (line := buffer.take_line(self._room, _HEAD_TOO_LARGE)) is not None:
            if not line:
                items, self._items = self._items, []  # not kept twice for as long as the body lasts
                return Fields(items) if items else NO_FIELDS
            self._add(line)
        return None

    def _read_all(self, buffer: ReceiveBuffer) -> list[tuple[str, str]]:
        """All fields at once where all are there and right; else none, and line by line shows what is wrong."""
        block = buffer.peek_until(b"\r\n\r\n", self._room)
        if not block:
            return []
        found = grammar.FIELD_LINES.findall(block.decode("latin-1"))
        # What the pattern did not match was left out, and a match is a whole line; the last line is empty.
        if len(found) + 1 != block.count(b"\n") or len(found) > self._count:
            return []
        buffer.skip(len(block))
        return [(name, value.strip(" \t")) for name, value in found]

    def _add(self, line: bytes) -> None:
        self._room -= len(line) + 2
        if len(self._items) == self._count:
            raise HeadTooLarge("There are too many header fields.")
        match = re.fullmatch(grammar.FIELD_LINE, line)
        if match is None:
            raise ProtocolError("A header field is malformed.")
        name, value = match.groups()
        self._items.append((name.decode("ascii"), value.strip(b" \t").decode("latin-1")))


def _minor(major: bytes, minor: bytes) -> int:
    """RFC 9112 §2.3."""
    if major != b"1":
        raise UnsupportedVersion("Only HTTP/1.0 and HTTP/1.1 are spoken here.")
    return min(int(minor), 1)


def _is_chunked(minor: int, fields: Fields) -> bool:
    """Whether the body is chunked; anything else that `Transfer-Encoding` can say is refused (RFC 9112 §6.1)."""
    value = fields.get("transfer-encoding")
    if value is None:
        return False
    if "content-length" in fields or minor < 1:
        raise ProtocolError("Transfer-Encoding with Content-Length, or in HTTP/1.0, is refused.")
    if value == "chunked":
        return True
    if not re.fullmatch(grammar.TOKEN_LIST, value.encode("latin-1")):
        raise ProtocolError("Transfer-Encoding is malformed.")
    codings = members(fields, "transfer-encoding")
    if "chunked" in codings[:-1]:
        raise ProtocolError("The chunked coding must be the last one, and there once.")
    if codings != ["chunked"]:
        raise UnknownCoding("No other transfer coding than chunked is spoken here.")
    return True


def _content_length(fields: Fields) -> int | None:
    """RFC 9112 §6.3: a list, even of equal lengths, is refused."""
    value = fields.get("content-length")
    if value is None:
        return None
    if not grammar.CONTENT_LENGTH.fullmatch(value.encode("latin-1")):
        raise ProtocolError("Content-Length is malformed.")
    digits = value.lstrip("0") or "0"
    # int() refuses thousands of digits, and no body has a length of twenty.
    return int(digits) if len(digits) < 20 else 10**19


_NO_BODY = LengthDecoder(0)  # reading it changes nothing
HeadT = TypeVar("HeadT", RequestHead, ResponseHead)


class _Reader(Generic[HeadT]):
    """What is common to both roles. A role says how a head is made, how it is framed, and what comes after."""

    _alone = False  # whether nothing can follow a message before it is answered

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._buffer = ReceiveBuffer()
        self._eof = False
        self._error: ProtocolError | None = None
        self._expect_start()

    @property
    def buffered(self) -> int:
        """How many bytes are kept."""
        return self._buffer.size

    def receive_data(self, data: bytes) -> None:
        """Take what was read. After an error it is dropped."""
        if self._error is None:
            self._buffer.append(data)

    def receive_eof(self) -> None:
        """The peer has ended its sending half."""
        self._eof = True

    def next_event(self) -> HeadT | Data | EndOfMessage | Need:
        """The next event: NEED_DATA if it needs more bytes, CLOSED if there will be none.

        Raises:
            ProtocolError: or one of its kinds. Every further call raises it again.
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
        self._begun = False
        self._decoder: Decoder = _NO_BODY
        self._state: Callable[[], HeadT | Data | EndOfMessage | Need | None] = self._start_line

    def _starve(self) -> Need:
        """There are too few bytes for an event."""
        if not self._eof:
            return NEED_DATA
        if self._begun or self._buffer.size:
            raise Incomplete("The connection ended inside a message.")
        return CLOSED

    def _start_line(self) -> Need | None:
        line = self._buffer.take_line(self._limits.line + 2, _LINE_TOO_LONG)
        if line is None:
            return self._starve()
        if self._read_start(line):
            self._begun = True
            self._section = _FieldSection(self._limits.head, self._limits.fields)
            self._state = self._field_lines
        return None

    def _field_lines(self) -> HeadT | Need | None:
        fields = self._section.read(self._buffer)
        return self._starve() if fields is None else self._finish_head(fields)

    def _body(self) -> Data | EndOfMessage | Need | None:
        piece = self._decoder.read(self._buffer)
        if piece:
            return Data(piece)
        if not self._decoder.ended:
            if not self._eof:
                return NEED_DATA
            self._decoder.finish()
        return self._end_body()

    def _end_body(self) -> EndOfMessage | None:
        if not isinstance(self._decoder, ChunkedDecoder) or self._buffer.skip_line_end():
            return self._end(NO_FIELDS)
        self._section = _FieldSection(self._limits.trailers, self._limits.fields)
        self._state = self._trailers
        return None

    def _trailers(self) -> EndOfMessage | Need:
        trailers = self._section.read(self._buffer)
        return self._starve() if trailers is None else self._end(trailers)

    def _decoder_for(self, minor: int, fields: Fields, otherwise: Decoder) -> Decoder:
        limits = self._limits
        if _is_chunked(minor, fields):
            chunks = None if limits.body is None else limits.chunks
            return ChunkedDecoder(limits.chunk_line, limits.chunk_extensions_total, limits.body, self._alone, chunks)
        length = _content_length(fields)
        return otherwise if length is None else LengthDecoder(length, limits.body)

    def _read_start(self, line: bytes) -> bool:
        """Take a start line; False if the line is one to skip."""
        raise NotImplementedError

    def _finish_head(self, fields: Fields) -> HeadT | None:
        """Make the head, and a decoder for what follows; None if the head is one to skip."""
        raise NotImplementedError

    def _end(self, trailers: Fields) -> EndOfMessage:
        """The message is complete."""
        raise NotImplementedError


# Start lines repeat. (Few are kept: they may be long.)
@lru_cache(maxsize=16)
def _request_line(line: bytes) -> tuple[str, str, int]:
    """Method, target and minor version."""
    match = grammar.REQUEST_LINE.fullmatch(line)
    if match is None:
        raise ProtocolError("The request line is malformed.")
    minor, method = _minor(match[3], match[4]), match[1].decode("ascii")
    _check_target(method, match[2])
    return method, match[2].decode("ascii"), minor


def _check_target(method: str, target: bytes) -> None:
    """RFC 9112 §3.2: each form where it belongs."""
    if method == "CONNECT":
        valid = bool(grammar.AUTHORITY.fullmatch(target))
    elif target == b"*":
        valid = method == "OPTIONS"
    elif target.startswith(b"/"):
        valid = True
    else:
        absolute = re.fullmatch(grammar.ABSOLUTE_FORM, target)
        # RFC 9110 §4.2.1: without a host it is no http URI.
        valid = bool(absolute and absolute[1][:1] != b":" and grammar.HOST.fullmatch(absolute[1]))
    if not valid:
        raise ProtocolError("The request target is malformed.")


def _check_host(minor: int, fields: Fields) -> None:
    """RFC 9112 §3.2: exactly one, and only in HTTP/1.0 none."""
    hosts = fields.get_all("host")
    if len(hosts) > 1 or (not hosts and minor >= 1):
        raise ProtocolError("There must be one Host field.")
    if hosts and not grammar.HOST.fullmatch(hosts[0].encode("latin-1")):
        raise ProtocolError("The Host field is malformed.")


class RequestReader(_Reader[RequestHead]):
    """Reads the requests of one connection, one after the other.

    A declared length over the limit raises BodyTooLarge on the call after the one that gave the head.
    What comes behind a request that asks to close is read too: whoever serves it must stop there.
    """

    def __init__(self, limits: ReadLimits = ReadLimits()) -> None:
        super().__init__(limits)

    @property
    def begun(self) -> bool:
        """Some of a request has come that is not complete; empty lines before it are none of it."""
        return self._begun or self._buffer.size > 0

    @property
    def body_pending(self) -> bool:
        """A head has been given, and its EndOfMessage has not."""
        return self._head_given

    def _expect_start(self) -> None:
        super()._expect_start()
        self._skipped = 0
        self._head_given = False

    def _read_start(self, line: bytes) -> bool:
        if not line:
            self._skipped += 1
            # RFC 9112 §2.2: an empty line before a request is ignored. A few are enough.
            if self._skipped > self._limits.skipped_lines:
                raise ProtocolError("There are too many empty lines before the request.")
            return False
        self._method, self._target, self._minor = _request_line(line)
        return True

    def _finish_head(self, fields: Fields) -> RequestHead:
        _check_host(self._minor, fields)
        self._decoder = self._decoder_for(self._minor, fields, _NO_BODY)
        self._state = self._body
        self._head_given = True
        return RequestHead(self._method, self._target, self._minor, fields)

    def _end(self, trailers: Fields) -> EndOfMessage:
        self._expect_start()
        return EndOfMessage(trailers)


@lru_cache(maxsize=16)
def _status_line(line: bytes) -> tuple[int, str, int]:
    """Status, reason and minor version."""
    match = grammar.STATUS_LINE.fullmatch(line)
    if match is None:
        raise ProtocolError("The status line is malformed.")
    return int(match[3]), (match[4] or b"").decode("latin-1"), _minor(match[1], match[2])


class ResponseReader(_Reader[ResponseHead]):
    """Reads the response to one request; `start_next` makes it read that to the next one."""

    _alone = True

    def __init__(self, limits: ReadLimits = ReadLimits(), request_method: str = "POST") -> None:
        super().__init__(limits)
        self._method = request_method

    @property
    def reusable(self) -> bool:
        """The response is complete, and another request may go out on the connection.

        Bytes behind a response belong to no request: they must never be read as the next reply. One that ends
        with its connection is complete only after the end, so it is never followed by another.
        """
        return self._done and self._persistent and not self._eof and not self._buffer.size

    @property
    def unread(self) -> int:
        """How many bytes were received and are not told as events yet."""
        return self._buffer.size

    def read_body(self, data: bytes) -> bytes:
        """Take bytes that came inside the body, and return all of it that is there. See `complete`.

        Raises:
            ProtocolError: as `next_event` does; every further call raises it again.
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
            while type(event := self.next_event()) is Data:
                piece += event.data
        return piece

    def read_end(self) -> bytes:
        """Behind `receive_eof`: return what is left of the body.

        Raises:
            Incomplete: the response had not come to its end.
        """
        pieces = []
        while type(event := self.next_event()) is Data:
            pieces.append(event.data)
        return b"".join(pieces)

    @property
    def complete(self) -> bool:
        """Whether the response has come to its end."""
        return self._done

    def start_next(self, method: str) -> None:
        """The next request was sent. Only where the connection is reusable."""
        assert self.reusable
        self._method = method
        self._expect_start()

    def _expect_start(self) -> None:
        super()._expect_start()
        self._skipped = 0
        self._done = False
        self._persistent = False

    def _read_start(self, line: bytes) -> bool:
        self._status, self._reason, self._minor = _status_line(line)
        return True

    def _finish_head(self, fields: Fields) -> ResponseHead | None:
        if self._status < 200:
            self._skip_informational()
            return None
        head = ResponseHead(self._status, self._reason, self._minor, fields)
        self._decoder = self._decoder_for(self._minor, fields, UntilCloseDecoder(self._limits.body))
        # RFC 9112 §6.3, first two rules: these end with their head, whatever the fields say.
        tunnel = self._method == "CONNECT" and self._status < 300
        if self._method == "HEAD" or tunnel or self._status in (204, 304):
            self._decoder = _NO_BODY
        self._persistent = head.keep_alive
        self._state = self._body
        return head

    def _skip_informational(self) -> None:
        self._skipped += 1
        if self._status == 101 or self._skipped > self._limits.informational:
            raise ProtocolError("An informational response that was not asked for.")
        self._state = self._start_line

    def _end(self, trailers: Fields) -> EndOfMessage:
        self._done = True
        self._state = self._ended
        return EndOfMessage(trailers)

    def _ended(self) -> Need:
        return CLOSED if self._eof else NEED_DATA
