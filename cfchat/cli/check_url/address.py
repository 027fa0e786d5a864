"""Read the URL that a check is given, and tell whether its host is in the public Internet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from urllib.parse import quote, urljoin, urlsplit

from cfchat.errors import ConfigError
from cfchat.upstream.origin import Origin

EXAMPLE = "https://chat.example.com/prefix"
# Names that only a machine or a local network knows (RFC 6761, RFC 6762, RFC 8375 and the field's habits).
_LOCAL = ("localhost", "local", "internal", "lan", "home.arpa")


def parse_url(text: str, flag: str = "--url") -> Origin:
    """Return scheme, host, port and prefix of a URL, an international name as browsers send it (IDNA).

    Raises:
        ConfigError: it cannot be such a URL. The message does not repeat it: it may hold a password.
    """
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise _wrong(flag) from None
    if url.scheme not in ("http", "https") or not host or port == 0 or not text.isprintable() or " " in text:
        raise _wrong(flag)
    if "@" in url.netloc:
        raise ConfigError(f"{flag} must hold neither user nor password; put a key for cfchat into CFCHAT_CHECK_KEY")
    if "?" in text or "#" in text:
        raise ConfigError(f"{flag} must end with its host or its path, without `?` and `#`")
    tls = url.scheme == "https"
    prefix = _escape(url.path).rstrip("/")
    return Origin(_host(host, flag), port or (443 if tls else 80), tls, prefix)


def follow(base: str, location: str) -> tuple[Origin, str]:
    """Return the origin, without a prefix, and the target that a redirect leads to.

    Raises:
        ConfigError: the location is no URL of a server.
    """
    try:
        url = urlsplit(urljoin(base, location))
    except ValueError:
        raise _wrong("Location") from None
    target = _escape(url.path or "/") + (f"?{_escape(url.query)}" if url.query else "")
    return parse_url(f"{url.scheme}://{url.netloc}", "Location"), target


def _escape(text: str) -> str:
    """Escape what a target must not hold (RFC 3986 §3.3), but keep what is escaped already."""
    return quote(text, "/?%!$&'()*+,;=:@~")


def _host(host: str, flag: str) -> str:
    if ":" in host:
        try:
            address = IPv6Address(host)
        except ValueError:
            raise _wrong(flag) from None
        if address.scope_id:
            raise ConfigError(f"{flag} must hold an address without a zone")
        return str(address)
    try:
        name = host.encode("idna").decode("ascii").lower()
    except UnicodeError:  # a label is empty or too long
        raise _wrong(flag) from None
    if not re.fullmatch(r"[a-z0-9._-]+", name):
        raise _wrong(flag)
    return name


def _wrong(flag: str) -> ConfigError:
    return ConfigError(f"{flag} must be a URL such as {EXAMPLE}")


def is_public(host: str, addresses: Sequence[str] = ()) -> bool:
    """Return whether strangers can reach a host: by its addresses, or by its name if nobody here has looked it up."""
    if addresses:
        return any(ip_address(address.partition("%")[0]).is_global for address in addresses)
    try:
        return ip_address(host).is_global
    except ValueError:
        return "." in host.strip(".") and not f".{host.rstrip('.')}".endswith(tuple(f".{name}" for name in _LOCAL))
