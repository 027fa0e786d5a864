"""The origin of Cloudflare's API: the parts of CFCHAT_BASE_URL. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Origin(NamedTuple):
    """Scheme (`tls`: https), host, port of the API, and the path that comes before the API's own paths."""

    host: str
    port: int
    tls: bool
    base_path: str

    @property
    def authority(self) -> str:
        """The value of `Host` (RFC 9110 §7.2): without the port if it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL: all requests go to paths below it."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.base_path}"
