"""Open the sockets that a server listens on, and read the certificate that it shows.

Both are context for a server and not part of it: the sockets may come from systemd or from a parent process, and a
certificate is replaced while connections use it. A socket file is removed at the end, but only if it is still the file
that was made here. Everything that can go wrong is a ConfigError that names the address or the file.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any, NamedTuple

from cfchat.errors import ConfigError
from cfchat.files import read_file

BACKLOG = 1024  # connections that the kernel completes before the server accepts them
UNIX = "unix"  # stands for the address of each peer on a unix socket


class Where(NamedTuple):
    """A TCP address, or the path of a unix socket and its permissions. For HTTPS `cert` and `key` are PEM files."""

    host: str = "127.0.0.1"
    port: int = 8787
    uds: str | None = None
    uds_mode: int = 0o660
    cert: str | None = None
    key: str | None = None  # None if the key is in the same file


def url_of(address: Any, secure: bool) -> str:
    """Return the URL of a server at this address, in the form of `getsockname`, without a slash at the end."""
    scheme = "https" if secure else "http"
    if not isinstance(address, tuple):  # the path of a unix socket
        return f"{scheme}://localhost"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], str(address[0]))
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{address[1]}"


def is_loopback(sock: socket.socket) -> bool:
    """Return whether a socket listens on an address that only programs on this machine can reach."""
    address = sock.getsockname()
    return isinstance(address, tuple) and ip_address(address[0].partition("%")[0]).is_loopback


# --- sockets --------------------------------------------------------------------------------------


@contextmanager
def listening(where: Where) -> Iterator[list[socket.socket]]:
    """Listen within the block. Gives the sockets: one for each address of the host, or one unix socket.

    Raises:
        ConfigError: the address or path cannot be listened on.
    """
    if where.uds is None:
        with _closing(listen_tcp(where.host, where.port)) as sockets:
            yield sockets
        return
    with _closing([_listen_unix(where.uds, where.uds_mode)]) as sockets:
        own = _identity(where.uds)
        try:
            yield sockets
        finally:
            if _identity(where.uds) == own:  # else it is a successor's
                os.unlink(where.uds)


@contextmanager
def adopted(files: Sequence[int]) -> Iterator[list[socket.socket]]:
    """Use sockets that another process opened and handed down, by file number, and close them at the end.

    Raises:
        ConfigError: a file is no socket, or does not listen.
    """
    with _closing([]) as sockets:
        for number in files:
            try:
                sock = socket.socket(fileno=number)
            except OSError as error:
                raise ConfigError(f"file {number} that was handed down is no socket: {reason_of(error)}") from error
            sockets.append(sock)
            sock.set_inheritable(False)
            if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ConfigError(f"socket {number} that was handed down does not listen for streams")
        yield sockets


@contextmanager
def _closing(sockets: list[socket.socket]) -> Iterator[list[socket.socket]]:
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def listen_tcp(host: str, port: int) -> list[socket.socket]:
    """Return a socket that listens for each address of the host that this machine has.

    Raises:
        ConfigError: the host is none, or one of its addresses cannot be listened on.
    """
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in infos):
            try:
                sockets.append(socket.create_server(address, family=family, backlog=BACKLOG))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except (OSError, UnicodeError) as error:
        for sock in sockets:
            sock.close()
        reason = error if isinstance(error, OSError) else "this cannot be a host's name"
        raise cannot_listen(f"{host} port {port}", reason) from error
    return sockets


# `localhost` may have an IPv6 address on a machine without IPv6.
_NOT_HERE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def _listen_unix(path: str, mode: int) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise cannot_listen(path, "this system has no unix sockets for Python")
    sock = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, mode)  # before listen(), because until then no client can connect
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise cannot_listen(path, error) from error
    except ConfigError:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket file on which no process listens: a killed process left it behind."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise cannot_listen(path, "there is a file that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            with suppress(BlockingIOError):  # the backlog of a process that listens is full
                sock.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise cannot_listen(path, "another process does")


def _identity(path: str) -> tuple[int, ...] | None:
    with suppress(OSError):
        status = os.stat(path)
        return status.st_dev, status.st_ino, status.st_mtime_ns
    return None


def reason_of(error: OSError) -> str:
    """Return why a call of the system failed, in the system's words if it has any."""
    # getaddrinfo has error numbers of its own; they are negative.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def cannot_listen(place: str, reason: OSError | str) -> ConfigError:
    """Return the error of an address or path that cannot be listened on."""
    return ConfigError(f"cannot listen on {place}: {reason_of(reason) if isinstance(reason, OSError) else reason}")


# --- certificate ----------------------------------------------------------------------------------


class Certificate:
    """A certificate chain and its key, for HTTPS. `context` is what further connections shake hands with."""

    def __init__(self, cert: str, key: str | None) -> None:
        """Read the files.

        Raises:
            ConfigError: they cannot be read, or are not a certificate and its key.
        """
        self._cert, self._key = cert, key
        self.context = self.read()

    def read(self) -> ssl.SSLContext:
        """Return what the files hold now: a new context, so that nothing changes unless all of it is right.

        Raises:
            ConfigError: they cannot be read, or are not a certificate and its key.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        files = self._cert if self._key is None else f"{self._cert} and {self._key}"
        try:
            for path in filter(None, (self._cert, self._key)):
                read_file(path)  # OpenSSL would wait for the writer of a FIFO
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except (ssl.SSLError, _Encrypted) as error:
            reason = error.reason or "not a certificate and its key in PEM"
            raise ConfigError(f"--tls-cert: cannot use {files}: {_TLS_REASONS.get(reason, reason)}") from error
        except OSError as error:
            raise ConfigError(f"--tls-cert: cannot read {files}: {reason_of(error)}") from error
        except ValueError as error:
            raise ConfigError(f"--tls-cert: {error}") from error
        return context


_TLS_REASONS = {"KEY_VALUES_MISMATCH": "the key is of another certificate"}


class _Encrypted(Exception):
    reason = "the key is encrypted"


def _no_password() -> str:
    """Refuse to give a password: without this, OpenSSL would ask for it on the terminal."""
    raise _Encrypted
