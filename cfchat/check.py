"""What stands between this machine and a model's words: each step tried by itself, and what to do where it fails."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from enum import StrEnum
from typing import NamedTuple

from cfchat.conversation import Conversation, Message, Options
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
from cfchat.upstream.api import Api
from cfchat.upstream.client import Settings, Upstream
from cfchat.upstream.cloudflare import Model
from cfchat.upstream.connection import HANDSHAKE, UNKNOWN_AUTHORITY, Origin, connect
from cfchat.upstream.proxy import Proxy

WORDS = 16  # tokens that the trial of a model may cost
QUESTION = Conversation((Message("user", "Say OK"),), Options(max_tokens=WORDS))
NO_PERMISSION = (403, 10000)  # may be no more than the permission to list models that is missing


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"  # works, but somebody should look at it
    FAIL = "fail"
    SKIP = "skip"


class Result(NamedTuple):
    """One step of the check: what it found, what to do about it (`next`), and about which model it is."""

    name: str
    status: Status
    detail: str
    next: str = ""
    ms: float = 0.0
    model: str = ""

    @property
    def ok(self) -> bool:
        return self.status in (Status.OK, Status.WARN)


class Explained(NamedTuple):
    """An error in the words of an operator."""

    what: str
    next: str


# --- the steps -----------------------------------------------------------------------------------


async def check(settings: Settings, context: ssl.SSLContext | None) -> AsyncGenerator[Result, None]:
    """Try once, and in order, each step on the way to each model. What lies behind a failed step is skipped."""
    yield Result("settings", Status.OK, _settings(settings))
    broken = ""
    for name, step in _way(settings, context):
        result = _skipped(name, broken) if broken else await _tried(name, step, settings)
        yield result
        if result.status is Status.FAIL:
            broken = name
    if broken:
        yield _skipped("token", broken)
    else:
        token, listed, final = await _token(settings, context)
        if not final:
            async with aclosing(_models(settings, context, token, listed)) as results:
                async for result in results:
                    yield result
            return
        yield token
        broken = "token"
    for model in settings.models:
        yield _skipped("model", broken, model)


def _skipped(name: str, broken: str, model: str = "") -> Result:
    return Result(name, Status.SKIP, f"not tried: the step `{broken}` must work first", model=model)


def _settings(settings: Settings) -> str:
    account, gateway = settings.account, settings.gateway
    by = f", AI Gateway {gateway.id}" if gateway else ""
    return f"account {account[:4]}...{account[-4:]}, {_url(settings.origin)}{by}"


def _url(origin: Origin) -> str:
    return f"{'https' if origin.tls else 'http'}://{origin.authority}{origin.base_path}"


Step = Callable[[], Awaitable[str]]


def _way(settings: Settings, context: ssl.SSLContext | None) -> Iterator[tuple[str, Step]]:
    """The steps up to a connection. A proxy resolves the names itself."""
    origin, proxy, seconds = settings.origin, settings.proxy, settings.deadlines.connect
    if proxy is not None:
        yield "proxy", lambda: _reach_proxy(proxy, seconds)
    else:
        yield "resolve", lambda: _resolve(origin)
    yield "connect", lambda: _connect(origin, context, seconds, proxy)


async def _tried(name: str, step: Step, settings: Settings) -> Result:
    began = time.perf_counter()
    try:
        detail = await step()
    except UpstreamError as error:
        what, following = explain(error, settings)
        return Result(name, Status.FAIL, what, following, _ms(began))
    return Result(name, Status.OK, detail, ms=_ms(began))


def _ms(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)


async def _resolve(origin: Origin) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UpstreamConnectError(f"{origin.host} has no address", detail=error.strerror or str(error)) from error
    return f"{origin.host} is " + ", ".join(dict.fromkeys(str(address[0]) for *_, address in found))


async def _reach_proxy(proxy: Proxy, seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(proxy.host, proxy.port)
    except TimeoutError as error:
        raise UpstreamTimeout(f"the proxy {proxy.host}:{proxy.port} did not answer in {seconds:g} s") from error
    except OSError as error:
        raise UpstreamConnectError(
            f"the proxy {proxy.host}:{proxy.port} cannot be reached", detail=error.strerror or str(error)
        ) from error
    writer.transport.abort()
    return f"{proxy.host}:{proxy.port} takes connections"


async def _connect(origin: Origin, context: ssl.SSLContext | None, seconds: float, proxy: Proxy | None) -> str:
    connection = await connect(origin, context, seconds, proxy)
    try:
        return f"{connection.tls_version or 'no TLS'} to {connection.peer}"
    finally:
        connection.close()


async def _token(
    settings: Settings, context: ssl.SSLContext | None
) -> tuple[Result, Mapping[str, Model] | None, bool]:
    """What the list of models says of token and account, the list, and whether no model needs to be tried."""
    if Api(settings.origin, settings.account, settings.token, settings.gateway).on_gateway:
        told = "AI Gateway's own URL lists no models: whether the token is good, the models tell"
        return Result("token", Status.SKIP, told), None, False
    upstream = Upstream(settings, context)
    began = time.perf_counter()
    try:
        models = await upstream.catalogue()
    except UpstreamError as error:
        what, following = explain(error, settings)
        return Result("token", Status.FAIL, what, following, _ms(began)), None, _is_final(error)
    finally:
        await upstream.aclose()
    told = f"token and account are good; {len(models)} text models"
    return Result("token", Status.OK, told, ms=_ms(began)), {model.name: model for model in models}, False


def _is_final(error: UpstreamError) -> bool:
    """Whether a model, too, would only answer the same."""
    if isinstance(error, UpstreamAuthError):
        return (error.origin_status, error.origin_code) != NO_PERMISSION
    return _is_foreign(error) or isinstance(error, (UpstreamConnectError, UpstreamProtocolError))


async def _models(
    settings: Settings, context: ssl.SSLContext | None, token: Result, listed: Mapping[str, Model] | None
) -> AsyncGenerator[Result, None]:
    """Each model. Where the list could not be read it is the models that tell how good the token is."""
    if token.status is not Status.FAIL:
        yield token
        for name in settings.models:
            yield await _model(name, settings, context, listed)
        return
    results = [await _model(name, settings, context, listed) for name in settings.models]
    if any(result.ok for result in results):
        # A model that answers is the better proof.
        said = f"the models answer, but not the list of models: {token.detail}"
        token = token._replace(status=Status.WARN, detail=said)
    yield token
    for result in results:
        yield result


async def _model(
    name: str, settings: Settings, context: ssl.SSLContext | None, listed: Mapping[str, Model] | None
) -> Result:
    """One short streamed reply, asked for once and of nobody else."""
    alone = settings._replace(models=(name,), policy=settings.policy._replace(attempts=1))
    upstream = Upstream(alone, context)
    began = time.perf_counter()
    try:
        async with upstream.stream(QUESTION, tag="check") as answer:
            ms = _ms(began)
            async with aclosing(answer.batches()) as batches:
                async for _ in batches:
                    pass
        told = "answers; the time is that of its first words"
    except UpstreamEmpty:
        ms, told = _ms(began), f"answers, if not in words: {WORDS} tokens were too few for it"
    except UpstreamError as error:
        what, following = explain(error, settings)
        return Result("model", Status.FAIL, what, following, _ms(began), name)
    finally:
        await upstream.aclose()
    if listed is not None and name not in listed:
        return Result(
            "model", Status.WARN, f"{told}; but it is not in the account's list of models", NOT_LISTED, ms, name
        )
    if listed is not None and listed[name].deprecation:
        planned = f"{told}; but Cloudflare removes it on {listed[name].deprecation}"
        return Result("model", Status.WARN, planned, GOING, ms, name)
    return Result("model", Status.OK, told, ms=ms, model=name)


# --- what to do ----------------------------------------------------------------------------------

CHOOSE = "choose another: `cfchat models` lists them; --model and --fallback-models name those to ask"
NOT_LISTED = f"its name may be an old one that will go: {CHOOSE}"
GOING = f"before that day {CHOOSE}"
STATUS_PAGE = "if it stays so, see https://www.cloudflarestatus.com"

# Why it failed, where what a client is told says too little; and what to do where Cloudflare's code does not tell.
_ADVICE: Mapping[type[UpstreamError], Explained] = {
    UpstreamAuthError: Explained(
        "Cloudflare refused the token or the account",
        "check CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN; the token needs the permissions Workers AI - Read "
        "and Workers AI - Edit for this account (dashboard: My Profile > API Tokens)",
    ),
    UpstreamModelGone: Explained("Cloudflare does not offer this model to this account", CHOOSE),
    UpstreamQuota: Explained(
        "the allowance is used up",
        "wait for 00:00 UTC, when the day's free allowance is renewed, or move the account to the Workers Paid plan",
    ),
    UpstreamRateLimited: Explained("too many requests", "wait a minute; see who else uses this account"),
    UpstreamOverloaded: Explained(
        "Cloudflare has no capacity for this model just now",
        "try again in a minute; with more --fallback-models another model may answer at such times",
    ),
    UpstreamUnavailable: Explained("a fault at Cloudflare", f"try again in a minute; {STATUS_PAGE}"),
    UpstreamRefused: Explained(
        "Cloudflare refused the request",
        "the code and text above are Cloudflare's own; an option that the model does not take is the usual cause "
        "(--model-options, --temperature and the like)",
    ),
    ContextLengthExceeded: Explained("", "make it shorter, lower --max-tokens, or choose a model of a larger window"),
    UpstreamEmpty: Explained(
        "", "raise --max-tokens, switch the model's thinking off (--model-options), or take another model"
    ),
    UpstreamInterrupted: Explained(
        "the connection broke off", f"try again; a proxy or firewall in between may cut long replies; {STATUS_PAGE}"
    ),
    UpstreamProtocolError: Explained("what answers is no Workers AI", ""),
    UpstreamTimeout: Explained("", f"try again in a minute; --first-token-timeout waits longer; {STATUS_PAGE}"),
}

_TOKEN = (
    "make a token with the permissions Workers AI - Read and Workers AI - Edit for this account (dashboard: My "
    "Profile > API Tokens), and put it into CLOUDFLARE_API_TOKEN"
)
_MALFORMED = "CLOUDFLARE_API_TOKEN is no token: copy it once more, without quotes, blanks, or the word Bearer"
_ACCOUNT = "CLOUDFLARE_ACCOUNT_ID must be the account's id, 32 hex digits: see the dashboard, dash.cloudflare.com/ID"
_GATEWAY = "check --gateway: the dashboard (AI > AI Gateway) names the gateways of this account"
_ADVICE_BY_CODE: Mapping[int, str] = {
    **dict.fromkeys((1000, 10000), f"the token was revoked, or is not for this account: check both, or {_TOKEN}"),
    **dict.fromkeys((6003, 9106), _MALFORMED),
    9109: f"the token is good, but not for this: {_TOKEN}",
    7003: _ACCOUNT,
    7000: "check --base-url (CFCHAT_BASE_URL): it should be https://api.cloudflare.com/client/v4",
    **dict.fromkeys((3023, 3041), "Cloudflare has blocked this account: ask its support"),
    2001: _GATEWAY,
    2009: f"this gateway wants a token of its own: put it into CF_AIG_TOKEN; {_GATEWAY}",
    2003: "the gateway's own limit was met: raise it (dashboard: AI > AI Gateway > Settings), or wait",
    2045: "the gateway's budget is used up: raise it (dashboard: AI > AI Gateway), or wait until it is renewed",
    **dict.fromkeys((2016, 2017), "the gateway's guardrails stopped it (dashboard: AI > AI Gateway > Guardrails)"),
    5016: f"agree to the licence of the model (its page in the dashboard, AI > Models), or {CHOOSE}",
    5018: f"this account may not use the model: {CHOOSE}",
    5028: f"Cloudflare has removed the model: {CHOOSE}",
    5035: f"move the account to the Workers Paid plan, or {CHOOSE}",
    971: "1,200 API calls in 5 minutes are used up: wait 5 minutes; see who else uses this token",
    1015: "Cloudflare's edge limits this machine's address: wait a minute; see who else calls from here",
    3021: "the model's requests for this minute are used up (300 a minute on most): wait, or add --fallback-models",
    **dict.fromkeys((3006, 5021), "make the conversation shorter (--trim does), or lower --max-tokens"),
}

# By OpenSSL's numbers, X509_V_ERR_...
_STRANGER = (
    "if {host} is really meant (behind a proxy that looks into TLS, for one), set SSL_CERT_FILE to a PEM file with "
    "that authority in it; if not, somebody else answers in its place"
)
_NO_TLS = (
    "what listens at {there} speaks no TLS 1.2 or newer, or something in between swallows it: check --base-url "
    "(CFCHAT_BASE_URL), and firewalls"
)
_OTHER_HOST = "check --base-url (CFCHAT_BASE_URL), now {url}, and what DNS says of {host}: somebody else answers there"
_CERTIFICATE: Mapping[int, str] = {
    9: "check the clock of this machine (`date`): for it the certificate begins in the future",
    10: "check the clock of this machine (`date`); if it is right, whoever runs {host} must renew the certificate",
    **dict.fromkeys(UNKNOWN_AUTHORITY, _STRANGER),
    **dict.fromkeys((62, 64), _OTHER_HOST),
}


def explain(error: UpstreamError, settings: Settings) -> Explained:
    """What went wrong, and what to do about it."""
    general = next((_ADVICE[kind] for kind in type(error).__mro__ if kind in _ADVICE), Explained("", STATUS_PAGE))
    what = (general.what or error.message).rstrip(".")
    what = f"{what}: {error.detail}" if error.detail else what
    code = error.origin_code
    if isinstance(code, int) and code in _ADVICE_BY_CODE:
        return Explained(what, _ADVICE_BY_CODE[code])
    if _is_foreign(error) or isinstance(error, UpstreamProtocolError):
        return Explained(what, _foreign(settings))
    if error.origin_status is None and isinstance(error, (UpstreamConnectError, UpstreamTimeout)):
        return Explained(what, _unreachable(error, settings) or general.next)
    return Explained(what, general.next)


def _is_foreign(error: UpstreamError) -> bool:
    """Whether the answer cannot be Cloudflare's: all of its refusals have a code, only its edge answers without."""
    status = error.origin_status
    return error.origin_code is None and status is not None and status < 500 and status not in (408, 413, 429)


def _foreign(settings: Settings) -> str:
    return (
        f"check --base-url (CFCHAT_BASE_URL), now {_url(settings.origin)}: it should be "
        "https://api.cloudflare.com/client/v4; if it is, a proxy in between answers for Cloudflare"
    )


def _unreachable(error: UpstreamError, settings: Settings) -> str:
    """What to do where no connection came about; empty where one had."""
    host, port, proxy = settings.origin.host, settings.origin.port, settings.proxy
    there = f"{host}:{port}" if proxy is None else f"the proxy {proxy.host}:{proxy.port} (HTTPS_PROXY)"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = _CERTIFICATE.get(cause.verify_code, _STRANGER)
            return advice.format(host=host, url=_url(settings.origin))
        if isinstance(cause, ssl.SSLError):
            return _NO_TLS.format(there=f"{host}:{port}")
        if isinstance(cause, socket.gaierror):
            if proxy is not None:
                return f"check the name in HTTPS_PROXY, and this machine's DNS: `getent hosts {proxy.host}`"
            return (
                f"check the name in --base-url (CFCHAT_BASE_URL), and this machine's DNS: `getent hosts {host}`; "
                "where only a proxy may go out, set HTTPS_PROXY"
            )
        if isinstance(cause, ConnectionRefusedError):
            return f"nothing listens at {there}: check the address, and firewalls in between"
        if isinstance(cause, ConnectionError):
            return f"something at {there}, or a firewall in between, hangs up: check the address, and who may go out"
        if isinstance(cause, TimeoutError) and HANDSHAKE in error.detail:
            return _NO_TLS.format(there=f"{host}:{port}")
        if isinstance(cause, TimeoutError):
            return (
                f"a firewall swallows what goes to {there}, or the network is down: allow TCP out to it, or set "
                "HTTPS_PROXY where only a proxy may go out; --connect-timeout waits longer"
            )
        if isinstance(cause, OSError):
            return f"no way leads to {there}: check this machine's network, routes and firewalls"
    if proxy is not None and isinstance(error, UpstreamConnectError):
        return (
            f"{there} does not let this through: a 407 wants HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT; otherwise "
            f"whoever runs it must allow CONNECT to {host}:{port}, or NO_PROXY={host} goes past it"
        )
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What led to an error, the nearest first; a group's members (one for each address tried) one by one."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        yield from cause.exceptions
    elif cause is not None:
        yield cause
        yield from _causes(cause)
