"""What each kind of proxy must be told, so that it leaves a stream alone. Pure.

A proxy shows itself in the fields of a reply: `Server`, `Via`, or a field of its own. The outermost one is known best,
because it writes over what those behind it have said. HAProxy adds no field.
"""

from __future__ import annotations

from typing import NamedTuple

from cfchat.wire.fields import Fields


class Proxy(NamedTuple):
    """What to do so that a kind of proxy passes on `streams`, waits in `silence`, and takes a large `body`.

    The `name` is empty for a kind that is not known, or if there is no proxy.
    """

    name: str
    streams: str
    silence: str
    body: str


_EXAMPLES = "`cfchat deploy nginx`, `haproxy` and `caddy` print files that do all of it"
_UNKNOWN = Proxy(
    "",
    f"switch off buffering, compression and scanning of replies in each proxy for this path; {_EXAMPLES}",
    f"let each proxy wait longer for a silent server, at least 90 s (HAProxy: `timeout server`); {_EXAMPLES}",
    f"let each proxy take bodies as large as --max-body (1 MiB if it is not set); {_EXAMPLES}",
)
NGINX = Proxy(
    "nginx",
    "set `proxy_buffering off;` in the location of every nginx on the way: an inner nginx eats `X-Accel-Buffering`, so "
    "that an outer one never sees it, and with `proxy_ignore_headers X-Accel-Buffering` it does not count",
    "raise `proxy_read_timeout` (60s if it is not set) in the location of every nginx on the way",
    "raise `client_max_body_size` (1m if it is not set) in the server or location of every nginx on the way",
)
_CLOUDFLARE = Proxy(
    "Cloudflare",
    "see the zone's rules in the dashboard (Rules > Compression Rules, Cache Rules, Snippets; Workers): let this path "
    "pass without compression, cache and changes",
    "Cloudflare itself waits 100 s or more for a silent server: look at each proxy behind it",
    "see the zone's WAF rules and its limit of uploads (100 MB on most plans): look at each proxy behind it, too",
)
_CLOUDFRONT = Proxy(
    "CloudFront",
    "use the cache policy CachingDisabled for this path, without automatic compression",
    "raise the origin's response timeout (30 s if it is not set)",
    "see the rules of AWS WAF",
)
_GOOGLE = Proxy(
    "Google's load balancer",
    "switch Cloud CDN and dynamic compression off for this backend",
    "raise the timeout of the backend service (30 s if it is not set)",
    "see the rules of Cloud Armor",
)
_VARNISH = Proxy(
    "Varnish",
    "`return (pipe)` for this path in vcl_recv",
    "raise `between_bytes_timeout` and `first_byte_timeout`",
    "see what vcl_recv refuses",
)
_SQUID = Proxy(
    "Squid",
    "let it pass this host without ICAP or eCAP scanning, or go past it (NO_PROXY)",
    "raise `read_timeout`",
    "raise `request_body_max_size`",
)
_CADDY = Proxy(
    "Caddy",
    "set `flush_interval -1` in reverse_proxy, and leave text/event-stream out of `encode`",
    "raise or remove `read_timeout` in the transport of reverse_proxy",
    "raise `max_size` of request_body",
)
_APACHE = Proxy(
    "Apache",
    "set `flushpackets=on` in ProxyPass, and `SetEnv no-gzip 1` for this path",
    "raise `timeout=` of ProxyPass, or ProxyTimeout (60 s if it is not set)",
    "raise LimitRequestBody, and SecRequestBodyLimit of ModSecurity",
)
_IIS = Proxy(
    "IIS",
    "set responseBufferLimit of Application Request Routing to 0, and switch dynamic compression off",
    "raise the proxy timeout of Application Request Routing",
    "raise maxAllowedContentLength",
)
_ENVOY = Proxy(
    "Envoy",
    "remove the buffer and compressor filters from this route",
    "raise `timeout` and `idle_timeout` of the route (15 s and 5 min if they are not set)",
    "raise `max_request_bytes` of the buffer filter",
)
# By a field and a word in it, in lower case. The first that fits counts: a field of its own says more than `Server`.
_KNOWN = (
    ("cf-ray", "", _CLOUDFLARE),
    ("server", "cloudflare", _CLOUDFLARE),
    ("x-amz-cf-id", "", _CLOUDFRONT),
    ("via", "google", _GOOGLE),
    ("via", "varnish", _VARNISH),
    ("x-varnish", "", _VARNISH),
    ("via", "squid", _SQUID),
    ("via", "caddy", _CADDY),
    ("server", "caddy", _CADDY),
    ("server", "nginx", NGINX),
    ("server", "openresty", NGINX._replace(name="OpenResty, which is an nginx")),
    ("server", "apache", _APACHE),
    ("server", "microsoft-iis", _IIS),
    ("server", "envoy", _ENVOY),
)


def identify(fields: Fields) -> Proxy:
    """Return the proxy that a reply has come through, the outermost if there are several."""
    fits = (proxy for name, word, proxy in _KNOWN if any(word in value.lower() for value in fields.get_all(name)))
    return next(fits, _UNKNOWN)
