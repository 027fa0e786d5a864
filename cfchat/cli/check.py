"""Try each step on the way to the models, and say which one fails and what to do (`cfchat check`).

The steps are tried in order: settings, name or proxy, connection, token, and each model, or instance of AI Search, with
one short reply. If a step fails, all later steps are skipped, because they could only fail for the same reason. A
refused list of models is the exception: the token may still run them. Each step uses the code that serves clients.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing

from cfchat import api
from cfchat.cli.advice import CHOOSE, NOT_LISTED, explain, is_foreign
from cfchat.cli.results import Result, Status, ms_since, print_results, skipped
from cfchat.conversation.model import Conversation, Message, Options
from cfchat.errors import (
    UpstreamAuthError,
    UpstreamConnectError,
    UpstreamEmpty,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from cfchat.net.dial import Resolver, dial
from cfchat.ops.logs import quote
from cfchat.secret import redact
from cfchat.settings.config import Config
from cfchat.upstream.client import Settings, Upstream
from cfchat.upstream.cloudflare.account import Api
from cfchat.upstream.cloudflare.catalogue import Model
from cfchat.upstream.cloudflare.models import is_search, may_be_listed
from cfchat.upstream.connect import connect
from cfchat.upstream.origin import Origin
from cfchat.upstream.proxy import Proxy

MAX_TOKENS = 16  # that the trial of a model may cost
QUESTION = Conversation((Message("user", "Say OK"),), Options(max_tokens=MAX_TOKENS))
NO_PERMISSION = (401, 403)  # statuses: perhaps only the permission to list models is missing


async def check(settings: Settings, context: ssl.SSLContext | None) -> AsyncGenerator[Result, None]:
    """Try each step once, in order, and give its result. Steps behind a failed one are skipped."""
    yield Result("settings", Status.OK, _describe(settings))
    broken = ""
    for name, step in _steps(settings, context):
        result = skipped(name, broken) if broken else await _try_step(name, step, settings)
        yield result
        if result.status is Status.FAIL:
            broken = name
    if broken:
        yield skipped("token", broken)
    else:
        token, listed, final = await _try_token(settings, context)
        if not final:
            async with aclosing(_try_models(settings, context, token, listed)) as results:
                async for result in results:
                    yield result
            return
        yield token
        broken = "token"
    for model in settings.models:
        yield skipped(_step_of(model), broken, model)


def _step_of(model: str) -> str:
    return "search" if is_search(model) else "model"


def _describe(settings: Settings) -> str:
    account, gateway = settings.account, settings.gateway
    through = f", AI Gateway {gateway.id}" if gateway else ""
    return f"account {account[:4]}...{account[-4:]}, {settings.origin.url}{through}"


Step = Callable[[], Awaitable[str]]


def _steps(settings: Settings, context: ssl.SSLContext | None) -> Iterator[tuple[str, Step]]:
    """Give the steps up to a connection. A proxy resolves names itself."""
    origin, proxy, seconds = settings.origin, settings.proxy, settings.deadlines.connect
    if proxy is not None:
        yield "proxy", lambda: _reach_proxy(proxy, seconds)
    else:
        yield "resolve", lambda: _resolve(origin, seconds)
    yield "connect", lambda: _connect(origin, context, seconds, proxy)


async def _try_step(name: str, step: Step, settings: Settings) -> Result:
    began = time.perf_counter()
    try:
        detail = await step()
    except UpstreamError as error:
        return _failed(name, error, settings, began)
    return Result(name, Status.OK, detail, ms=ms_since(began))


def _failed(name: str, error: UpstreamError, settings: Settings, began: float, model: str = "") -> Result:
    """Return the result of a step that failed, with an excerpt of the reply. Nobody's conversation is in that."""
    what, next_step = explain(error, settings)
    if error.origin_text:
        what = f"{what}; the reply says {quote(redact(error.origin_text, settings.secrets))}"
    return Result(name, Status.FAIL, what, next_step, ms_since(began), model)


async def _resolve(origin: Origin, seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            addresses = await Resolver().resolve(origin.host, origin.port)
    except TimeoutError as error:
        raise UpstreamTimeout(f"the resolver said nothing of {origin.host} in {seconds:g} s") from error
    except OSError as error:
        raise UpstreamConnectError(f"{origin.host} has no address", detail=error.strerror or str(error)) from error
    return f"{origin.host} is " + ", ".join(dict.fromkeys(str(address.sockaddr[0]) for address in addresses))


async def _reach_proxy(proxy: Proxy, seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            stream = await dial(await Resolver().resolve(proxy.host, proxy.port), seconds)
    except TimeoutError as error:
        raise UpstreamTimeout(f"the proxy {proxy.host}:{proxy.port} did not answer in {seconds:g} s") from error
    except OSError as error:
        raise UpstreamConnectError(
            f"the proxy {proxy.host}:{proxy.port} cannot be reached", detail=error.strerror or str(error)
        ) from error
    stream.abort()
    return f"{proxy.host}:{proxy.port} takes connections"


async def _connect(origin: Origin, context: ssl.SSLContext | None, seconds: float, proxy: Proxy | None) -> str:
    connection = await connect(origin, context, seconds, proxy)
    try:
        return f"{connection.tls_version or 'no TLS'} to {connection.peer}"
    finally:
        connection.close()


async def _try_token(
    settings: Settings, context: ssl.SSLContext | None
) -> tuple[Result, Mapping[str, Model] | None, bool]:
    """Ask for the list of models. Return the result, the list by name, and whether to try no model after this."""
    if all(map(is_search, settings.models)):
        # The list needs a permission that AI Search does not need.
        detail = "no model is asked but by AI Search: only the search shows whether the token is good"
        return Result("token", Status.SKIP, detail), None, False
    if Api(settings.origin, settings.account, settings.token, settings.gateway).on_gateway:
        detail = "AI Gateway's own URL lists no models: only the models show whether the token is good"
        return Result("token", Status.SKIP, detail), None, False
    upstream = Upstream(settings, context)
    began = time.perf_counter()
    try:
        models = await upstream.catalogue()
    except UpstreamError as error:
        return _failed("token", error, settings, began), None, _is_final(error)
    finally:
        await upstream.aclose()
    detail = f"token and account are good; {len(models)} text models"
    return Result("token", Status.OK, detail, ms=ms_since(began)), {model.name: model for model in models}, False


def _is_final(error: UpstreamError) -> bool:
    """Return whether a model could only give the same answer."""
    if error.origin_status in NO_PERMISSION:
        return False
    return is_foreign(error) or isinstance(error, (UpstreamAuthError, UpstreamConnectError, UpstreamProtocolError))


async def _try_models(
    settings: Settings, context: ssl.SSLContext | None, token: Result, listed: Mapping[str, Model] | None
) -> AsyncGenerator[Result, None]:
    """Try each model. Without a list only the models show whether the token is good: then its result waits for them."""
    if token.status is not Status.FAIL:
        yield token
        for name in settings.models:
            yield await _try_model(name, settings, context, listed)
        return
    results = [await _try_model(name, settings, context, listed) for name in settings.models]
    if any(result.ok for result in results):
        # A model that answers is the better proof.
        detail = f"models answer, but the list of models does not: {token.detail}"
        token = token._replace(status=Status.WARN, detail=detail)
    yield token
    for result in results:
        yield result


async def _try_model(
    name: str, settings: Settings, context: ssl.SSLContext | None, listed: Mapping[str, Model] | None
) -> Result:
    """Ask one model for one short streamed reply, without retry or fallback."""
    alone = settings._replace(models=(name,), policy=settings.policy._replace(attempts=1))
    upstream = Upstream(alone, context)
    step, began = _step_of(name), time.perf_counter()
    try:
        async with upstream.ask(QUESTION, tag="check") as answer:
            ms = ms_since(began)
            async with aclosing(answer.batches()) as batches:
                async for _ in batches:
                    pass
        found = f" from {len(answer.sources)} pages" if step == "search" else ""
        detail = f"answers{found}; the time is that of its first words"
        if answer.model != name:
            detail = f"{answer.model} {detail}"
    except UpstreamError as error:
        if not (isinstance(error, UpstreamEmpty) and error.cut):
            return _failed(step, error, settings, began, name)
        ms, detail = ms_since(began), f"answers, but without words: {MAX_TOKENS} tokens are too few for it"
    finally:
        await upstream.aclose()
    if listed is not None and name not in listed and may_be_listed(name):
        detail = f"{detail}; but it is not in the account's list of models"
        return Result("model", Status.WARN, detail, NOT_LISTED, ms, name)
    if listed is not None and name in listed and (removal := listed[name].removal(time.time())):
        return Result("model", Status.WARN, f"{detail}; but it {removal}", CHOOSE, ms, name)
    return Result(step, Status.OK, detail, ms=ms, model=name)


async def run_check(config: Config, as_json: bool) -> int:
    """Try each step and print its result. Return the exit code."""
    assert config.upstream is not None
    return await print_results(check(config.upstream, api.make_context(config.upstream)), as_json)
