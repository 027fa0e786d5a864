"""Where the server is reached: the sockets that it listens on, and the certificate that it shows."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from cfchat.errors import ConfigError

BACKLOG = 1024
# The address of every peer on a unix socket: whatever its permissions let in.
UNIX = "unix"


class Where(NamedTuple):
    """A TCP address, or the path of a unix socket and its permissions; `cert` and `key` are PEM files, for HTTPS."""

    host: str = "127.0.0.1"
    port: int = 8787
    uds: str | None = None
    uds_mode: int = 0o660
    cert: str | None = None
    key: str | None = None  # None where it is in the same file


def url_of(address: Any, secure: bool) -> str:
    """How to call who listens at this address, as a socket tells it; nothing at the end."""
    scheme = "https" if secure else "http"
    if not isinstance(address, tuple):  # the path of a unix socket
        return f"{scheme}://localhost"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], str(address[0]))
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{address[1]}"


# --- sockets --------------------------------------------------------------------------------------


@contextmanager
def listening(where: Where) -> Iterator[list[socket.socket]]:
    """Sockets that listen there, until the end. Raises ConfigError where that cannot be."""
    if where.uds is None:
        with _closing(_listen_tcp(where.host, where.port)) as sockets:
            yield sockets
        return
    with _closing([_listen_unix(where.uds, where.uds_mode)]) as sockets:
        own = _identity(where.uds)
        try:
            yield sockets
        finally:
            if _identity(where.uds) == own:  # and not that of a successor
                os.unlink(where.uds)


@contextmanager
def adopted(files: Sequence[int]) -> Iterator[list[socket.socket]]:
    """Sockets that another process opened and handed down, by file number. Raises ConfigError where one is none."""
    with _closing([]) as sockets:
        for number in files:
            try:
                plug = socket.socket(fileno=number)
            except OSError as error:
                raise ConfigError(f"file {number} that was handed down is no socket: {reason_of(error)}") from error
            sockets.append(plug)
            plug.set_inheritable(False)
            if plug.type != socket.SOCK_STREAM or not plug.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ConfigError(f"socket {number} that was handed down does not listen for streams")
        yield sockets


@contextmanager
def _closing(sockets: list[socket.socket]) -> Iterator[list[socket.socket]]:
    try:
        yield sockets
    finally:
        for plug in sockets:
            plug.close()


def _listen_tcp(host: str, port: int) -> list[socket.socket]:
    """One socket for each address of the host that this machine has."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            try:
                sockets.append(socket.create_server(address, family=family, backlog=BACKLOG))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except (OSError, UnicodeError) as error:
        for plug in sockets:
            plug.close()
        reason = reason_of(error) if isinstance(error, OSError) else "this cannot be a host's name"
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}") from error
    return sockets


# `localhost` may have an IPv6 address where the machine has no IPv6.
_NOT_HERE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def _listen_unix(path: str, mode: int) -> socket.socket:
    plug = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        plug.bind(path)
        os.chmod(path, mode)  # nobody can connect before listen()
        plug.listen(BACKLOG)
    except OSError as error:
        plug.close()
        raise ConfigError(f"cannot listen on {path}: {reason_of(error)}") from error
    except ConfigError:
        plug.close()
        raise
    return plug


def _remove_stale(path: str) -> None:
    """A socket on which nobody listens is what a killed process left behind."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ConfigError(f"cannot listen on {path}: there is a file that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as plug:
        plug.setblocking(False)
        try:
            with suppress(BlockingIOError):  # somebody whose backlog is full
                plug.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise ConfigError(f"cannot listen on {path}: another process does")


def _identity(path: str) -> tuple[int, ...] | None:
    with suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino, found.st_mtime_ns
    return None


def reason_of(error: OSError) -> str:
    """Why it failed, in the system's words where it has some."""
    # The numbers of getaddrinfo are below nought, and none of errno's.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


# --- certificate ----------------------------------------------------------------------------------


class Certificate:
    """What HTTPS is served with; `context` is for every connection, and stays the same when the files are read anew."""

    def __init__(self, cert: str, key: str | None) -> None:
        """Raises ConfigError where the files are no certificate and its key."""
        self._cert, self._key = cert, key
        self.context = self._read()

    def reload(self) -> None:
        """Connections from now on show what the files hold. Raises ConfigError, and nothing has changed."""
        self._read()
        self._load(self.context)

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        files = self._cert if self._key is None else f"{self._cert} and {self._key}"
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except (ssl.SSLError, _Encrypted) as error:
            reason = error.reason or "not a certificate and its key in PEM"
            raise ConfigError(f"--tls-cert: cannot use {files}: {_TLS_REASONS.get(reason, reason)}") from error
        except OSError as error:
            raise ConfigError(f"--tls-cert: cannot read {files}: {reason_of(error)}") from error


_TLS_REASONS = {"KEY_VALUES_MISMATCH": "the key is of another certificate"}


class _Encrypted(Exception):
    reason = "the key is encrypted"


def _no_password() -> str:
    """OpenSSL would ask for one on the terminal."""
    raise _Encrypted
