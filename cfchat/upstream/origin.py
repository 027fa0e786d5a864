"""One connection to the upstream: connect, perhaps through a proxy; one exchange at a time; deadlines."""

from __future__ import annotations

from typing import NamedTuple


class Origin(NamedTuple):
    """Where the API lives: scheme, host, port of `CFCHAT_BASE_URL` and the path before its own."""

    host: str
    port: int
    tls: bool
    base_path: str

    @property
    def authority(self) -> str:
        """The value of `Host` (RFC 9110 §7.2): no port where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL that requests go below, as the operator wrote it."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.base_path}"
