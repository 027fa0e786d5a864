"""The three ways to frame a body (RFC 9112 §6): a decoder for each, and the chunk encoder. Sans-I/O.

A decoder takes all the bytes of the body that are in a buffer, and says when the body has `ended`. It returns the bytes
before an error first and raises the error at the next call, so what a caller sees does not depend on how the bytes were
cut.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from cfchat.errors import BodyTooLarge, Incomplete, ProtocolError
from cfchat.wire.buffer import ReceiveBuffer
from cfchat.wire.grammar import CHUNK_LINE

LAST_CHUNK = b"0\r\n\r\n"
# Of a body with a limit so many pieces are read at once, so that its reader can take turns with others.
_MOST_PIECES = 512

_TOO_LARGE = partial(BodyTooLarge, "The body is too large.")
_CUT = partial(Incomplete, "The connection ended inside a body.")
_LINE_TOO_LONG = partial(ProtocolError, "A chunk's line is too long.")


def encode_chunk(data: bytes) -> bytes:
    """Return one chunk; nothing for no data, because an empty chunk would be the last (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class Decoder(Protocol):
    """Reads a body out of a buffer."""

    ended: bool

    def read(self, buffer: ReceiveBuffer, data: bytes = b"") -> bytes:
        """Add `data` to the buffer; take and return all of the body that is there.

        Raises:
            ProtocolError: the framing is broken.
            BodyTooLarge: the body is over its limit.
        """

    def finish(self) -> None:
        """Note that the peer has ended the connection.

        Raises:
            Incomplete: the body had not ended.
        """


class LengthDecoder:
    """Reads a body with a Content-Length (RFC 9112 §6.2)."""

    def __init__(self, length: int, limit: int | None = None) -> None:
        self.ended = not length
        self._left = length
        self._over = limit is not None and length > limit

    def read(self, buffer: ReceiveBuffer, data: bytes = b"") -> bytes:
        """See Decoder. Refuse a length over the limit before the first byte."""
        if data:
            buffer.append(data)
        if self._over:
            raise _TOO_LARGE()
        piece = buffer.take(self._left)
        self._left -= len(piece)
        self.ended = not self._left
        return piece

    def finish(self) -> None:
        """See Decoder."""
        raise _CUT()


class UntilCloseDecoder:
    """RFC 9112 §6.3, last rule: a response that ends with its connection."""

    def __init__(self, limit: int | None = None) -> None:
        self.ended = False
        self._room = limit

    def read(self, buffer: ReceiveBuffer, data: bytes = b"") -> bytes:
        """See Decoder."""
        if data:
            buffer.append(data)
        if self._room is None:
            return buffer.take(buffer.size)
        piece = buffer.take(self._room)
        self._room -= len(piece)
        if not piece and buffer.size:
            raise _TOO_LARGE()
        return piece

    def finish(self) -> None:
        """See Decoder. A whole body and a cut one look alike here (RFC 9112 §8): the format of the body must tell."""
        self.ended = True


class ChunkedDecoder:
    """Reads a chunked body (RFC 9112 §7.1), up to and with the line of the last chunk. Behind it come the trailers.

    Limits in bytes: `line` for one chunk's line, `extensions` for the extensions of all chunks, `limit` for the body.
    `chunks` is the most chunks: a body in pieces of one byte costs a thousand times what a plain one does. `alone` says
    that no other message can follow in the buffer: only then, and without a limit, may all of it be searched.
    """

    def __init__(
        self,
        line: int = 4096,
        extensions: int = 16384,
        limit: int | None = None,
        alone: bool = False,
        chunks: int | None = None,
    ) -> None:
        self.ended = False
        self._alone = alone and limit is None
        self._line = line + 2
        self._extensions = extensions
        self._room = limit
        self._chunks = chunks  # how many more there may be
        self._left = 0  # of the chunk's data
        self._in_chunk = False  # its line is read, the CRLF behind its data is not
        self._error: ProtocolError | None = None

    def read(self, buffer: ReceiveBuffer, data: bytes = b"") -> bytes:
        """See Decoder. Take all the chunks that are there, or the first of them if the body has a limit."""
        # Fast case: one whole chunk where one can begin, as it comes while the model sets the pace. Falls through to
        # the steps below; equal by tests/wire/test_bodies.py::test_whole_chunks_pass_by_the_buffer_and_change_nothing.
        if data:
            if self._alone and not (buffer.size or self._in_chunk or self.ended or self._error):
                piece = _only_chunk(data)
                if piece:
                    return piece
            buffer.append(data)
        if self._error:
            raise self._error
        if not buffer.size:
            return b""
        pieces: list[bytes] = []
        try:
            while self._in_chunk and self._advance(buffer, pieces):
                pass
            if self._alone and not self._in_chunk and not self.ended:
                self._take_plain(buffer, pieces)
            while buffer.size and self._advance(buffer, pieces):
                if self._room is not None and pieces[_MOST_PIECES:]:
                    break
        except ProtocolError as error:
            if not pieces:
                raise
            self._error = error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> None:
        """See Decoder."""
        raise _CUT()

    def _take_plain(self, buffer: ReceiveBuffer, pieces: list[bytes]) -> None:
        """Take all whole chunks at once if they are as most are: a bare size, and no CRLF in the data.

        An event stream has a chunk for each event. A step for each chunk would cost more than everything else that is
        done with the event. Whatever is in doubt is left to the steps.
        """
        data = buffer.fresh()
        if piece := _only_chunk(data):
            buffer.skip(len(data))
            pieces.append(piece)
            return
        parts = data.split(b"\r\n")
        sizes, bodies = parts[0:-2:2], parts[1:-1:2]
        last = False
        if b"" in bodies:  # the last chunk, and perhaps trailers behind it
            del bodies[bodies.index(b"") :]
            last = sizes[len(bodies)] == b"0"
            del sizes[len(bodies) :]
        lengths = list(map(len, bodies))
        if sizes == list(map(b"%x".__mod__, lengths)):
            pieces += bodies
            buffer.skip(sum(lengths) + sum(map(len, sizes)) + 4 * len(bodies) + 3 * last)
            self.ended = last

    def _advance(self, buffer: ReceiveBuffer, pieces: list[bytes]) -> bool:
        """Read one chunk's line, or as much of its data as there is; return False if that needs more bytes."""
        if not self._in_chunk:
            return not self.ended and self._begin(buffer)
        if self._left:
            piece = buffer.take(self._left)
            if not piece:
                return False
            pieces.append(piece)
            self._left -= len(piece)
        return not self._left and self._end(buffer)

    def _begin(self, buffer: ReceiveBuffer) -> bool:
        line = buffer.take_line(self._line, _LINE_TOO_LONG)
        if line is None:
            return False
        match = CHUNK_LINE.fullmatch(line)
        if match is None:
            raise ProtocolError("A chunk's line is malformed.")
        self._spend(int(match[1], 16), len(match[2]))
        return not self.ended

    def _spend(self, size: int, extensions: int) -> None:
        self._extensions -= extensions
        if self._extensions < 0:
            raise ProtocolError("The chunk extensions are too long.")
        if self._room is not None:
            self._room -= size
            if self._room < 0:
                raise _TOO_LARGE()
        if self._chunks is not None and size:
            self._chunks -= 1
            if self._chunks < 0:
                raise BodyTooLarge("The body is in too many chunks.")
        self._left = size
        self._in_chunk = size > 0
        self.ended = not size

    def _end(self, buffer: ReceiveBuffer) -> bool:
        """Check the CRLF behind the data. h11 skipped two bytes here: that was CVE-2025-43859."""
        if buffer.size < 2:
            return False
        if buffer.take(2) != b"\r\n":
            raise ProtocolError("A chunk is longer than it says.")
        self._in_chunk = False
        return True


def _only_chunk(data: bytes) -> bytes:
    """Return the data of the one chunk that these bytes are, if its line is a bare size; else nothing."""
    line, _, rest = data.partition(b"\r\n")
    return rest[:-2] if rest[-2:] == b"\r\n" and line == b"%x" % (len(rest) - 2) else b""
