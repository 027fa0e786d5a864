"""TLS in memory: OpenSSL works on bytes, and a Stream moves them.

asyncio's own TLS holds a buffer of 256 KiB for each connection. A Layer keeps nothing that has been taken, and after
its end, or a fault, it takes nothing more.
"""

from __future__ import annotations

import ssl
from contextlib import suppress

READ_SIZE = 64 * 1024
# Of one TLS record (RFC 8446 §5.1): a read with more room takes a record whole, and leaves nothing inside OpenSSL.
RECORD = 1 << 14
assert READ_SIZE > RECORD


class Layer:
    """TLS without a socket (`ssl.MemoryBIO`): records in, their meaning out, and the other way round.

    `ended` is set by the peer's close_notify, `fault` by a record that is wrong. Behind either nothing more is taken.
    """

    __slots__ = ("_incoming", "ended", "fault", "outgoing", "tls")

    def __init__(self, context: ssl.SSLContext, name: str | None, server_side: bool = False) -> None:
        self._incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()  # also what TLS says for itself: alerts, the answer to a key update
        self.tls = context.wrap_bio(self._incoming, self.outgoing, server_side, server_hostname=name)
        self.ended = False
        self.fault: ssl.SSLError | None = None

    def shake(self, data: bytes) -> bool:
        """Do a step of the handshake with these bytes; return whether it was the last.

        Raises:
            ssl.SSLError: the handshake has failed.
        """
        self._incoming.write(data)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def receive(self, data: bytes | memoryview) -> bytes:
        """Return the bytes in the records that are complete with this data. See `ended` and `fault`."""
        if self.ended or self.fault:
            return b""  # OpenSSL would keep all of it in memory, for nobody
        self._incoming.write(data)
        pieces = []
        try:
            while self._incoming.pending:
                piece = self.tls.read(READ_SIZE)
                if not piece:
                    self.ended = True
                    self._incoming.read()  # whatever came behind it
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.fault = error
            self._incoming.read()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def protect(self, data: bytes) -> bytes:
        """Return the records for these bytes. It never waits: the peer may not ask for a new negotiation."""
        if data[RECORD : RECORD + 1]:
            # One by one, because OpenSSL never gives back the most memory that it has held at once.
            return b"".join([self.protect(data[at : at + RECORD]) for at in range(0, len(data), RECORD)])
        self.tls.write(data)
        return self.outgoing.read()

    def end(self) -> bytes:
        """Return our close_notify (RFC 8446 §6.1); nothing if the layer has failed."""
        with suppress(ssl.SSLError, ValueError):  # it wants the peer's own close_notify, or was never up
            self.tls.unwrap()
        return self.outgoing.read()
