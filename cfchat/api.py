"""cfchat inside another program: no global state, no signal handler, no logging of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, replace

from cfchat.app.hooks import Hooks
from cfchat.app.routes import limits_of
from cfchat.app.service import Service, refuse_in_text
from cfchat.conversation.images import check_model
from cfchat.conversation.model import Conversation, Options
from cfchat.conversation.parse import parse_messages, parse_options
from cfchat.conversation.prepare import with_system
from cfchat.errors import ConfigError, UpstreamError
from cfchat.guard.addresses import Proxies
from cfchat.guard.guard import Guard
from cfchat.net.listen import Certificate, Where, listening, url_of
from cfchat.ops.metrics import Metrics
from cfchat.ops.worker_metrics import share_metrics
from cfchat.secret import Secret
from cfchat.server.files import fit, open_files, share_of
from cfchat.server.request import Limits
from cfchat.server.server import Server
from cfchat.settings.config import Config
from cfchat.settings.load import load_config
from cfchat.upstream.client import Settings, Upstream
from cfchat.upstream.cloudflare.models import is_search
from cfchat.upstream.connect import make_ssl_context
from cfchat.upstream.origin import Origin
from cfchat.wire.messages import ReadLimits

log = logging.getLogger("cfchat")


# --- to be asked by others ------------------------------------------------------------------------


@asynccontextmanager
async def open_service(config: Config, hooks: Hooks = Hooks()) -> AsyncIterator[Service]:
    """Join the rooms as the Config says; they are closed with the block.

    Raises:
        OSError: the demo's model cannot listen on loopback.
    """
    metrics = Metrics()
    async with open_upstream(config, lambda error: metrics.upstream_errors.add(1, error.code)) as upstream:
        demo, model = config.upstream is None, upstream.settings.models[0]
        chat = config.app
        if demo:
            chat = chat._replace(model=model, models=(*upstream.settings.models, *chat.aliases.values()))
        service = Service(
            upstream, chat, Guard(config.guard), hooks=hooks, metrics=metrics, limits=config.server,
            peers=Proxies(config.trusted_proxies, config.forwarded_fields),
            page=config.page, demo=demo, admin=config.admin,
        )  # fmt: skip
        try:
            yield service
        finally:
            await service.aclose()


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that runs: where it listens, and the rooms behind it.

    >>> import asyncio, cfchat
    >>> async def main() -> None:
    ...     async with cfchat.serve(cfchat.load_config(demo=True, port=0)) as serving:
    ...         print(serving.host, serving.url.replace(str(serving.port), "..."))
    >>> asyncio.run(main())
    127.0.0.1 http://127.0.0.1:.../
    """

    server: Server
    service: Service
    where: Where

    @property
    def host(self) -> str:
        """The address, or the path of a unix socket, whose port is 0."""
        return self.server.address[0]

    @property
    def port(self) -> int:
        return self.server.address[1]

    @property
    def url(self) -> str:
        """Of the page; the chat is at `api/chatbot` below it."""
        return url_of(self.host if self.where.uds else self.server.address, self.where.cert is not None) + "/"


@asynccontextmanager
async def serve(config: Config | None = None, hooks: Hooks = Hooks()) -> AsyncIterator[Serving]:
    """Serve in the loop that runs, for as long as the block; without a Config by the environment's settings.

    At the end of the block replies under way may finish, for `drain_timeout` seconds; where it ends by an exception
    or is cancelled, they are cut at once. Several may run side by side. Raises ConfigError where the address cannot
    be listened on.

    >>> import asyncio, cfchat
    >>> from urllib.request import Request, urlopen
    >>> def post(url: str) -> str:
    ...     body, fields = b'[{"role": "user", "content": "I am unhappy"}]', {"Content-Type": "application/json"}
    ...     with urlopen(Request(url + "api/chatbot", body, fields)) as reply:
    ...         return reply.read().decode()
    >>> async def main() -> None:
    ...     async with cfchat.serve(cfchat.load_config(demo=True, port=0)) as serving:
    ...         print(await asyncio.to_thread(post, serving.url))
    >>> asyncio.run(main())
    I am sorry to hear that you are unhappy.
    """
    config = config or load_config()
    where = config.where
    tls = Certificate(where.cert, where.key) if where.cert else None
    with listening(where) as sockets:
        async with serve_on(sockets, config, hooks, tls) as serving:
            yield serving


@asynccontextmanager
async def serve_on(
    sockets: Sequence[socket.socket],
    config: Config,
    hooks: Hooks = Hooks(),
    tls: Certificate | None = None,
    line: socket.socket | None = None,
) -> AsyncIterator[Serving]:
    """Serve on sockets that listen already; `line` leads from a worker to its parent, which adds up the metrics."""
    config = _within_files(config)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(open_service(config, hooks))
        if line is not None:
            service.of_all = await stack.enter_async_context(share_metrics(line, service.count))
        async with service.serve_on(sockets, tls) as server:
            yield Serving(server, service, config.where)


def _within_files(config: Config) -> Config:
    """Return the settings with limits that the open files of this process carry."""
    app, files = config.app, open_files()
    # The demo's model is in this process, too, and has a connection of its own for each reply.
    limits, streams = fit(config.server, app.max_streams, files, each=2 if config.upstream is None else 1)
    if limits.connections < config.server.connections:
        text = "only %d files may be open: at most %d connections and %d replies at once; raise `ulimit -n`"
        log.warning(text, files, limits.connections, streams)
    if streams < app.max_streams:
        each = min(app.max_streams_each or streams, share_of(streams))
        app = app._replace(max_streams=streams, max_streams_each=each)
    return replace(config, server=limits, app=app)


# --- to ask ---------------------------------------------------------------------------------------


async def stream_chat(
    messages: str | Iterable[Mapping[str, object]], config: Config | None = None, **options: str | float
) -> AsyncGenerator[str, None]:
    """Ask the model, and give its words as they come, without reasoning and sources; a string is a message of the user.

    Messages and options (`model`, `temperature`, `max_tokens`, ...) are those of POST /api/chatbot. Each call has a
    connection of its own. Images need the setting `images`. Close the generator where you leave it before its end:
    `contextlib.aclosing`.
    Raises ConfigError, BadChatRequest, and an UpstreamError, in the middle, too: then the reply is not whole.

    >>> import asyncio, cfchat
    >>> async def main() -> None:
    ...     async for text in cfchat.stream_chat("I am unhappy", cfchat.load_config(demo=True), max_tokens=4):
    ...         print(text, end="|")
    >>> asyncio.run(main())
    I| am| sorry| to|
    """
    config = config or load_config()
    conversation = _conversation(messages, config, Options(**options))  # type: ignore[arg-type]
    async with open_upstream(config) as upstream:
        if conversation.images:
            model = conversation.options.model or upstream.settings.models[0]
            check_model(model, upstream.sees, config.app.models)
        async with upstream.ask(conversation) as answer, aclosing(answer.batches()) as batches:
            async for batch in batches:
                if text := "".join(delta.text for delta in batch):
                    yield text


def chat(
    messages: str | Iterable[Mapping[str, object]], config: Config | None = None, **options: str | float
) -> str:
    """Ask the model and wait for all of its answer: `stream_chat` for scripts.

    Raises what that does, and RuntimeError inside a running loop, which it would block.

    >>> import cfchat
    >>> demo = cfchat.load_config(demo=True)
    >>> cfchat.chat("I am unhappy", demo)
    'I am sorry to hear that you are unhappy.'
    >>> cfchat.chat([{"role": "user", "content": "I need help"}], demo)
    'What would help look like?'
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_whole(stream_chat(messages, config, **options)))
    raise RuntimeError("a loop is running: `async for text in cfchat.stream_chat(...)`")


async def _whole(words: AsyncGenerator[str, None]) -> str:
    return "".join([text async for text in words])


def _conversation(messages: str | Iterable[Mapping[str, object]], config: Config, options: Options) -> Conversation:
    limits = limits_of(config.app)
    items = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    asked = Conversation(parse_messages(items, limits), parse_options(asdict(options), limits))
    return with_system(asked, config.app.system_prompt, config.app.client_system)


# --- the way to the model -------------------------------------------------------------------------


@asynccontextmanager
async def open_upstream(
    config: Config, failed: Callable[[UpstreamError], None] = lambda error: None
) -> AsyncIterator[Upstream]:
    """The way to Cloudflare, or to the stand-in model, which lives as long as the block. Raises OSError.

    `failed` gets the error of every try.
    """
    async with AsyncExitStack() as stack:
        settings = config.upstream or await _start_demo(stack, config)
        upstream = Upstream(settings, make_context(settings), failed=failed)
        stack.push_async_callback(upstream.aclose)
        yield upstream


def make_context(settings: Settings) -> ssl.SSLContext | None:
    """What TLS to the origin is made with; None for plain HTTP. Raises ConfigError where nobody is there to trust."""
    if not settings.origin.tls:
        return None
    paths = ssl.get_default_verify_paths()
    if not paths.cafile and not (paths.capath and os.listdir(paths.capath)):
        raise ConfigError(
            "this machine has no list of certificate authorities: install ca-certificates, "
            "or let SSL_CERT_FILE name a PEM file of them"
        )
    return make_ssl_context(verify=settings.tls_verify)


async def _start_demo(stack: AsyncExitStack, config: Config) -> Settings:
    """Start the stand-in model on loopback; it is called through the same code as Cloudflare."""
    from cfchat.demo.server import ACCOUNT, BODY_LIMIT, MODEL, TOKEN, Demo  # here, because only a demo pays for it

    server = Server(Demo().handle, refuse_in_text, Limits(read=ReadLimits(body=BODY_LIMIT)))
    host, port = await server.start("127.0.0.1", 0)
    stack.push_async_callback(server.drain, 1.0)
    log.info("demo: the stand-in model listens on http://%s:%d; nothing is sent to Cloudflare", host, port)
    models = (config.app.model, MODEL) if is_search(config.app.model) else (MODEL,)
    origin = Origin(host, port, False, "/client/v4")
    return Settings(origin, ACCOUNT, Secret(TOKEN), models, source_base_url=config.source_base_url)
