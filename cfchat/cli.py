"""The command line: serve."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import ssl
import sys
from collections.abc import Sequence
from dataclasses import replace

from cfchat import __version__
from cfchat.app import App
from cfchat.config import Config, add_flags, load
from cfchat.errors import CfchatError, ConfigError
from cfchat.observe import set_up_logging
from cfchat.server import Response, Server
from cfchat.upstream.client import Settings, Upstream
from cfchat.upstream.connection import Origin, make_ssl_context
from cfchat.upstream.secret import Secret

log = logging.getLogger("cfchat")

DESCRIPTION = """\
A chat back end for Cloudflare Workers AI: POST a JSON list of messages to /api/chatbot and
read the model's words as they come. The API token never leaves this server.

  {prog} --demo                        try it: no account, no network
  CLOUDFLARE_ACCOUNT_ID=... CLOUDFLARE_API_TOKEN=... {prog}
"""
EPILOG = """\
Secrets are never flags: CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN (or CLOUDFLARE_API_TOKEN_FILE,
the path of a file that holds it) come from the environment. SSL_CERT_FILE names the authorities to trust.
Every flag can be set by the environment variable in [brackets]; the flag wins.
"""
TWO_WAYS_ON = """\
To talk to Workers AI: set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN (dashboard: AI > Workers AI > Use REST API).
To try it without an account: add --demo."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """One line, no usage text: the reason should not be the last of twenty lines."""
        self.exit(2, f"cfchat: {message} (see --help)\n")


def make_parser() -> argparse.ArgumentParser:
    prog = "cfchat" if not sys.argv[0].endswith(".py") else "python3 cfchat_server.py"
    parser = _Parser(
        prog="cfchat",
        description=DESCRIPTION.format(prog=prog),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cfchat {__version__}")
    parser.add_argument("--demo", action="store_true", help="answer from a stand-in model here (ELIZA, 1966)")
    add_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until Ctrl-C or SIGTERM. Returns the exit code: 0, or 2 for settings that cannot work."""
    flags = vars(make_parser().parse_args(argv))
    demo = flags.pop("demo")
    try:
        config = load(flags, os.environ, demo=demo)
    except ConfigError as error:
        return _fail(error, demo)
    set_up_logging(config.log_level)
    try:
        asyncio.run(serve(config, demo))
    except ConfigError as error:
        return _fail(error, True)
    except KeyboardInterrupt:
        pass
    return 0


def _fail(error: ConfigError, demo: bool) -> int:
    for line in error.message.split("\n"):
        print(f"cfchat: {line}", file=sys.stderr)
    if not demo and "CLOUDFLARE_" in error.message:
        print(TWO_WAYS_ON, file=sys.stderr)
    return 2


async def serve(config: Config, demo: bool) -> None:
    """Serve until a signal comes. Raises ConfigError where the address cannot be listened on."""
    async with contextlib.AsyncExitStack() as stack:
        if demo:
            config = replace(config, upstream=await _start_demo(stack))
        assert config.upstream is not None
        upstream = Upstream(config.upstream, _context(config.upstream.origin))
        stack.callback(upstream.close)
        app = App(upstream, config.app)
        server = Server(app.handle, app.refuse, config.server)
        host, port = await _listen(server, config)
        _say_hello(host, port, config.upstream.model, demo)
        await _until_signalled(server)


def _context(origin: Origin) -> ssl.SSLContext | None:
    return make_ssl_context() if origin.tls else None


async def _listen(server: Server, config: Config) -> tuple[str, int]:
    try:
        return await server.start(config.host, config.port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ConfigError(f"cannot listen on {config.host} port {config.port}: {reason}") from error


async def _start_demo(stack: contextlib.AsyncExitStack) -> Settings:
    """Start the stand-in model on loopback; it is called through the same code as Cloudflare."""
    from cfchat import demo

    def refuse(error: CfchatError, request_id: str) -> Response:
        return Response(error.status, (), str(error).encode())

    server = Server(demo.Demo().handle, refuse)
    host, port = await server.start("127.0.0.1", 0)
    stack.push_async_callback(server.drain, 1.0)
    log.info("demo: the stand-in model listens on http://%s:%d; nothing is sent to Cloudflare", host, port)
    return Settings(Origin(host, port, False, "/client/v4"), demo.ACCOUNT, Secret(demo.TOKEN), model=demo.MODEL)


def _say_hello(host: str, port: int, model: str, demo: bool) -> None:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{shown}:{port}/api/chatbot"
    says = "DEMO: a stand-in model (ELIZA, 1966), not Cloudflare" if demo else model
    print(
        f"cfchat {__version__} listens on {url}\n"
        f"model: {says}\n"
        f"try: curl -N {url} -H 'Content-Type: application/json' "
        """-d '[{"role":"user","content":"I am unhappy"}]'\n"""
        "Ctrl-C stops it.",
        flush=True,
    )


async def _until_signalled(server: Server) -> None:
    """The first SIGINT or SIGTERM lets replies finish, the second ends them."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.put_nowait, number)
    first = await signals.get()
    log.info("%s: stopping; replies under way may finish (again: end them now)", first.name)
    draining = loop.create_task(server.drain())
    second = loop.create_task(signals.get())
    await asyncio.wait([draining, second], return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    if not draining.done():
        await server.abort()
    await draining
    log.info("stopped")
