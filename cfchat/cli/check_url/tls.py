"""Judge a certificate, or why there is none that browsers would take. Pure."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import NamedTuple

from cfchat.cli.check_url.call import reason
from cfchat.cli.results import Result, Status

DAYS_LEFT = 14  # fewer are a warning: what renews certificates does it a month before their end


class _Fault(NamedTuple):
    what: str
    next: str


_RENEW = (
    "renew it, and let the program that serves it read the new file (nginx -s reload; SIGHUP to cfchat); if it is new, "
    "check the clock of this machine: `date`"
)
# Only the missing certificate would tell these apart.
_INCOMPLETE = _Fault(
    "certificate: the chain is incomplete, or its authority is private: what the server sends does not lead to an "
    "authority that is known here",
    "serve the chain, not the certificate alone (fullchain.pem in nginx's `ssl_certificate` or --tls-cert): browsers "
    "may know the missing one, curl and phones do not; if the authority is your own, SSL_CERT_FILE names its file",
)
_BY_VERIFY_CODE: Mapping[int, _Fault] = {  # OpenSSL's X509_V_ERR_...
    9: _Fault("certificate: it is not valid yet", "check the clock of this machine: `date`"),
    10: _Fault("certificate: it has expired", _RENEW),
    18: _Fault(
        "certificate: it is self-signed: no browser trusts it",
        "get one that browsers trust, for example of Let's Encrypt; to go on with this one, SSL_CERT_FILE names it",
    ),
    19: _Fault(
        "certificate: the chain is whole, but ends in an authority that is not trusted here",
        "get one that browsers trust, for example of Let's Encrypt; if the authority is your own, or of a proxy that "
        "inspects TLS, SSL_CERT_FILE names its file",
    ),
    **dict.fromkeys((20, 21), _INCOMPLETE),
    **dict.fromkeys(
        (62, 64),
        _Fault(
            "certificate: it is for another host, not for {host}",
            "get one for {host}; if there is one, another site of the same server answers here: check `server_name` "
            "or what the proxy calls it, and the DNS of {host}",
        ),
    ),
}


def judge_failure(error: OSError, host: str) -> tuple[str, str]:
    """Return why there was no TLS with the host, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        other = _Fault(f"certificate: {error.verify_message}", "get one that browsers trust")
        fault = _BY_VERIFY_CODE.get(error.verify_code, other)
        return fault.what.format(host=host), fault.next.format(host=host)
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {reason(error)}", "check the port, and that TLS 1.2 or newer is on there; or is it plain http?"
    return f"no TLS: {reason(error)}", "check the port, and firewalls in between; or is it plain http?"


def judge_plain(public: bool, has_key: bool) -> Result:
    """Judge plain http: with a host that strangers can reach, or one of this machine or network."""
    if not public:
        return Result("tls", Status.OK, "plain http, within a machine or a network")
    kept = "; CFCHAT_CHECK_KEY is not sent" if has_key else ""
    detail = f"plain http to a public host: everyone on the way can read and change all words{kept}"
    return Result("tls", Status.WARN, detail, "serve it by https, and redirect http there")


def judge_certificate(version: str, end: str, now: float, ms: float) -> Result:
    """Judge the certificate of a connection that was made, by its `end`, as OpenSSL writes it, and the time `now`."""
    days = int((ssl.cert_time_to_seconds(end) - now) // 86_400)
    detail = f"{version}, a certificate for {days} more days"
    if days >= DAYS_LEFT:
        return Result("tls", Status.OK, detail, ms=ms)
    return Result("tls", Status.WARN, detail, f"it should have been renewed by now: {_RENEW}", ms)
