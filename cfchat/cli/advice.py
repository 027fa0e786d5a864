"""Say what to do about an error of the upstream.

The most exact knowledge wins: Cloudflare's own code, then signs that Cloudflare did not answer at all, then the reason
that no connection came about, then the class of the error. The tables name settings and dashboard pages, because the
reader is the operator of this server and not a client.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cfchat.errors import (
    ContextLengthExceeded,
    UpstreamAuthError,
    UpstreamConnectError,
    UpstreamEmpty,
    UpstreamError,
    UpstreamInterrupted,
    UpstreamModelGone,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from cfchat.upstream.client import Settings
from cfchat.upstream.cloudflare.models import is_search
from cfchat.upstream.connect import HANDSHAKE, NOT_STRICT, UNKNOWN_AUTHORITY


class Explained(NamedTuple):
    """An error in an operator's words, and the `next` step to take."""

    what: str
    next: str


CHOOSE = "choose another: `cfchat models` lists them; --model and --fallback-models name those to ask"
NOT_LISTED = f"its name may be an old one that will go: {CHOOSE}"
STATUS_PAGE = "if it stays so, see https://www.cloudflarestatus.com"
_GATEWAY = "check --gateway: the dashboard (AI > AI Gateway) names the gateways of this account"
_KEYS = "the gateway's key for the model's provider is wrong (dashboard: AI > AI Gateway > Provider Keys)"
_BUDGET = "the gateway's budget is used up: raise it (dashboard: AI > AI Gateway), or wait until it is renewed"
_DAY = "wait for 00:00 UTC, when the day's free allowance is renewed, or move the account to the Workers Paid plan"
# By class of error. A `what` replaces the message that clients get; `next` counts if there is no known code.
_BY_CLASS: Mapping[type[UpstreamError], Explained] = {
    UpstreamAuthError: Explained(
        "Cloudflare refused the token or the account",
        "check CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN; the token needs the permissions Workers AI - Read "
        "and Workers AI - Edit for this account (dashboard: My Profile > API Tokens)",
    ),
    UpstreamModelGone: Explained("Cloudflare does not offer this model to this account", CHOOSE),
    UpstreamQuota: Explained("the allowance is used up", _BUDGET),
    UpstreamRateLimited: Explained("too many requests", "wait a minute; see who else uses this account"),
    UpstreamOverloaded: Explained(
        "Cloudflare has no capacity for this model at the moment",
        "try again in a minute; with more --fallback-models another model may answer",
    ),
    UpstreamUnavailable: Explained("a fault at Cloudflare", f"try again in a minute; {STATUS_PAGE}"),
    UpstreamRefused: Explained(
        "Cloudflare refused the request",
        "the usual cause is an option that the model does not take (--model-options, --temperature and the like); "
        "`cfchat check` shows Cloudflare's own text",
    ),
    ContextLengthExceeded: Explained("", "make it shorter, lower --max-tokens, or choose a model of a larger window"),
    UpstreamEmpty: Explained(
        "", "raise --max-tokens, switch the model's thinking off (--model-options), or take another model"
    ),
    UpstreamInterrupted: Explained(
        "the connection broke off", f"try again; a proxy or firewall in between may cut long replies; {STATUS_PAGE}"
    ),
    UpstreamProtocolError: Explained("the reply does not come from Workers AI", ""),
    UpstreamTimeout: Explained("", f"try again in a minute; --first-token-timeout waits longer; {STATUS_PAGE}"),
}
_TOKEN = (
    "make a token with the permissions Workers AI - Read and Workers AI - Edit for this account (dashboard: My "
    "Profile > API Tokens), and put it into CLOUDFLARE_API_TOKEN"
)
_MALFORMED = "CLOUDFLARE_API_TOKEN is no token: copy it again, without quotes, blanks, or the word Bearer"
_ACCOUNT = "CLOUDFLARE_ACCOUNT_ID must be the account's id, 32 hex digits: see the dashboard, dash.cloudflare.com/ID"
# By code; where a code has two meanings, by code and class of error.
_BY_CODE: Mapping[object, str] = {
    **dict.fromkeys((1000, 10000), f"the token was revoked, or is not for this account: check both, or {_TOKEN}"),
    **dict.fromkeys((6003, 9106), _MALFORMED),
    9109: f"the token is good, but not for this: {_TOKEN}",
    7003: _ACCOUNT,
    7000: "check --base-url (CFCHAT_BASE_URL): it should be https://api.cloudflare.com/client/v4",
    **dict.fromkeys((3023, 3041), "Cloudflare has blocked this account: ask its support"),
    2001: _GATEWAY,
    2005: "the model's provider failed behind the gateway: try again in a minute; the gateway's log says more",
    2008: "the gateway does not know the provider: check --base-url (CFCHAT_BASE_URL) and the name in --model",
    2009: f"this gateway needs a token of its own: put it into CF_AIG_TOKEN; or {_KEYS}; {_GATEWAY}",
    2003: "the gateway's own limit is reached: raise it (dashboard: AI > AI Gateway > Settings), or wait",
    2018: "the gateway's shared access to this model is busy: try again in a minute, or add --fallback-models",
    2021: "the account's prepaid credits are used up: add some (dashboard: AI > AI Gateway > Credits)",
    (2021, UpstreamAuthError): _KEYS,
    2045: _BUDGET,
    **dict.fromkeys((2016, 2017), "the gateway's guardrails stopped it (dashboard: AI > AI Gateway > Guardrails)"),
    7013: "the gateway's guardrails are out of order: try again in a minute, or switch them off (AI > AI Gateway)",
    **dict.fromkeys((3036, 4006), _DAY),
    5016: f"agree to the licence of the model (its page in the dashboard, AI > Models), or {CHOOSE}",
    5018: f"this account may not use the model: {CHOOSE}",
    5028: f"Cloudflare has removed the model: {CHOOSE}",
    5035: f"move the account to the Workers Paid plan, or {CHOOSE}",
    971: "1,200 API calls in 5 minutes are used up: wait 5 minutes; see who else uses this token",
    1015: "Cloudflare's edge limits this machine's address: wait a minute; see who else calls from here",
    3021: "the model's requests for this minute are used up (300 a minute on most): wait, or add --fallback-models",
    **dict.fromkeys((3006, 5021), "make the conversation shorter (--trim does), or lower --max-tokens"),
}
# By status, if an instance of AI Search was asked: Cloudflare documents no codes of it.
_OF_SEARCH: Mapping[int | None, str] = {
    **dict.fromkeys(
        (401, 403),
        "the token needs the permissions AI Search - Run and AI Search - Edit for this account (dashboard: My Profile "
        "> API Tokens); Workers AI alone is not enough",
    ),
    404: "check --ai-search (CFCHAT_AI_SEARCH): the dashboard (AI > AI Search) names the instances of this account; "
    "one in a namespace is NAMESPACE/NAME",
}
_STRANGER = (
    "if {host} is right, for example behind a proxy that inspects TLS, set SSL_CERT_FILE to a PEM file with that "
    "authority; if not, another server answers in its place"
)
_NOT_IN_FILE = (
    "the authority is not in SSL_CERT_FILE, now {file}: add it there if {host} is right, for example behind a proxy "
    "that inspects TLS; if not, another server answers in its place"
)
_NOT_STRICT = (
    "a certificate breaks a rule that is looked at strictly: if it is your company's, for example of a proxy that "
    "inspects TLS, have it made again by the rules of RFC 5280, or set --tls-verify usual, as Python 3.12 had it"
)
_NO_TLS = (
    "the server at {there} does not speak TLS 1.2 or newer, or a firewall in between drops it: check --base-url "
    "(CFCHAT_BASE_URL), and firewalls"
)
_OTHER_HOST = "check --base-url (CFCHAT_BASE_URL), now {url}, and the DNS of {host}: another server answers there"
_BY_VERIFY_CODE: Mapping[int, str] = {  # OpenSSL's X509_V_ERR_...
    9: "check the clock of this machine (`date`): by this clock the certificate begins in the future",
    10: "check the clock of this machine (`date`); if it is right, the owner of {host} must renew the certificate",
    **dict.fromkeys(UNKNOWN_AUTHORITY, _STRANGER),
    **dict.fromkeys(NOT_STRICT, _NOT_STRICT),
    **dict.fromkeys((62, 64), _OTHER_HOST),
}


def explain(error: UpstreamError, settings: Settings) -> Explained:
    """Return what went wrong and what to do about it."""
    general = next((_BY_CLASS[kind] for kind in type(error).__mro__ if kind in _BY_CLASS), Explained("", STATUS_PAGE))
    what = (general.what or error.message).rstrip(".")
    what = f"{what}: {error.detail}" if error.detail else what
    code = error.origin_code
    if is_search(error.model) and error.origin_status in _OF_SEARCH:
        return Explained(what, _OF_SEARCH[error.origin_status])
    advice = _BY_CODE.get((code, type(error))) or _BY_CODE.get(code)
    if advice is not None:
        return Explained(what, advice)
    if is_foreign(error) or isinstance(error, UpstreamProtocolError):
        return Explained(what, _advise_on_url(settings))
    if error.origin_status is None and isinstance(error, (UpstreamConnectError, UpstreamTimeout)):
        return Explained(what, _advise_on_connection(error, settings) or general.next)
    return Explained(what, general.next)


def is_foreign(error: UpstreamError) -> bool:
    """Return whether another server than Cloudflare answered.

    Each of Cloudflare's refusals has a code, except those of its edge.
    """
    status = error.origin_status
    return error.origin_code is None and status is not None and status < 500 and status not in (402, 408, 413, 429)


def _advise_on_url(settings: Settings) -> str:
    return (
        f"check --base-url (CFCHAT_BASE_URL), now {settings.origin.url}: it should be "
        "https://api.cloudflare.com/client/v4; if it is, a proxy in between answers instead of Cloudflare"
    )


def _advise_on_connection(error: UpstreamError, settings: Settings) -> str:
    """Return what to do if there was no connection, or an empty text if there was one."""
    host, port, proxy = settings.origin.host, settings.origin.port, settings.proxy
    there = f"{host}:{port}" if proxy is None else f"the proxy {proxy.host}:{proxy.port} (HTTPS_PROXY)"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice, file = _BY_VERIFY_CODE.get(cause.verify_code, _STRANGER), os.environ.get("SSL_CERT_FILE")
            advice = _NOT_IN_FILE if file and advice is _STRANGER else advice
            return advice.format(host=host, url=settings.origin.url, file=file)
        if isinstance(cause, ssl.SSLError):
            return _NO_TLS.format(there=f"{host}:{port}")
        if isinstance(cause, socket.gaierror):
            if proxy is not None:
                return f"check the name in HTTPS_PROXY, and this machine's DNS: `getent hosts {proxy.host}`"
            return (
                f"check the name in --base-url (CFCHAT_BASE_URL), and this machine's DNS: `getent hosts {host}`; "
                "if only a proxy may connect out, set HTTPS_PROXY"
            )
        if isinstance(cause, ConnectionRefusedError):
            return f"nothing listens at {there}: check the address, and firewalls in between"
        if isinstance(cause, ConnectionError):
            return f"the server at {there}, or a firewall in between, hangs up: check the address and the firewall"
        if isinstance(cause, TimeoutError) and HANDSHAKE in error.detail:
            return _NO_TLS.format(there=f"{host}:{port}")
        if isinstance(cause, TimeoutError):
            return (
                f"a firewall drops what goes to {there}, or the network is down: allow TCP out to it, or set "
                "HTTPS_PROXY if only a proxy may connect out; --connect-timeout waits longer"
            )
        if isinstance(cause, OSError):
            return f"there is no route to {there}: check this machine's network, routes and firewalls"
    if proxy is not None and isinstance(error, UpstreamConnectError):
        return (
            f"{there} refuses this: a 407 needs HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT; otherwise its owner must "
            f"allow CONNECT to {host}:{port}, or set NO_PROXY={host} to go past it"
        )
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give the causes of an error, the nearest first. A group has a member for each address that was tried."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        yield from cause.exceptions
    elif cause is not None:
        yield cause
        yield from _causes(cause)
