"""What stands between this machine and a model's words: each step tried by itself, and what to do where it fails."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from enum import StrEnum
from typing import NamedTuple

from cfchat import api
from cfchat.cli.advice import GOING, NOT_LISTED, _is_foreign, explain
from cfchat.cli.terminal import FAILED, OK
from cfchat.conversation.model import Conversation, Message, Options
from cfchat.errors import (
    UpstreamAuthError,
    UpstreamConnectError,
    UpstreamEmpty,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from cfchat.settings.config import Config
from cfchat.upstream.client import Settings, Upstream
from cfchat.upstream.cloudflare.account import Api
from cfchat.upstream.cloudflare.catalogue import Model
from cfchat.upstream.connect import connect
from cfchat.upstream.origin import Origin
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
    return f"account {account[:4]}...{account[-4:]}, {settings.origin.url}{by}"


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
        async with upstream.ask(QUESTION, tag="check") as answer:
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


async def run_check(config: Config, as_json: bool) -> int:
    """Try each step on the way to each model, and print how it went."""

    assert config.upstream is not None
    results = []
    async with aclosing(check(config.upstream, api.make_context(config.upstream.origin))) as found:
        async for result in found:
            results.append(result)
            if not as_json:
                _print_result(result)
    if as_json:
        print_json_of(results)
    return FAILED if any(result.status == "fail" for result in results) else OK


def _print_result(result: Result) -> None:
    status = "FAIL" if result.status == "fail" else result.status.value
    about = f"{result.model}: " if result.model else ""
    print(f"{status:<4}  {result.name:<8} {result.ms:>7.0f} ms  {about}{result.detail}")
    if result.next:
        print(f"      next: {result.next}")
    sys.stdout.flush()


def print_json_of(results: Sequence[Result]) -> None:
    well = not any(result.status == "fail" for result in results)
    print(json.dumps({"ok": well, "checks": [{**result._asdict(), "ok": result.ok} for result in results]}, indent=2))
