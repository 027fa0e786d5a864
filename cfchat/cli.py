"""The command line: serve, check, ask, models, deploy."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import io
import json
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cfchat import __version__, api
from cfchat.config import LOOPBACK, Config, add_flags, given, load, read_keys
from cfchat.conversation import Conversation, Delta, Message, with_system
from cfchat.deploy import KINDS, Installation, archive, render
from cfchat.errors import ConfigError, UpstreamError
from cfchat.guard import Guard
from cfchat.listen import Certificate, adopted, listening, url_of
from cfchat.observe import set_up_logging
from cfchat.pulse import stalls_told
from cfchat.server import Server
from cfchat.systemd import Notifier, take_files, take_notifier
from cfchat.upstream.client import Settings
from cfchat.upstream.cloudflare import Model
from cfchat.workers import Parent, ended_children, orders, take_worker

if TYPE_CHECKING:
    from cfchat.check import Result

log = logging.getLogger("cfchat")

# The last two are 128 and the number of a signal, as of a program that the signal ended.
OK, FAILED, WRONG_USE, INTERRUPTED, NOBODY_READS = 0, 1, 2, 130, 141

DESCRIPTION = """\
A chat back end for Cloudflare Workers AI: POST a JSON list of messages to /api/chatbot and
read the model's words as they come. The API token never leaves this server.

  {prog} --demo                        try it: no account, no network
  CLOUDFLARE_ACCOUNT_ID=... CLOUDFLARE_API_TOKEN=... {prog}
  {prog} check                         if it does not work: why, and what to do

commands (`{prog} ask --help` says more of one):
{commands}"""
EPILOG = """\
Secrets are never flags: CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN (or CLOUDFLARE_API_TOKEN_FILE,
the path of a file that holds it) come from the environment, as does CF_AIG_TOKEN for an authenticated AI Gateway.
SSL_CERT_FILE names the authorities to trust; HTTPS_PROXY and NO_PROXY are as everywhere.
Every flag can be set by the environment variable in [brackets]; the flag wins. All commands take these flags.
Exit codes: 0 all is well, 1 it failed, 2 wrong settings or usage, 130 ended by Ctrl-C.
"""
PYZ = "pyz"
COMMANDS = {
    "serve": "answer POST /api/chatbot; this is what is done where no command is named",
    "check": "try each step on the way to the models; say which one fails and what to do",
    "ask": "put one question to the model and print its answer as it comes",
    "models": "list the account's text models with their windows and prices",
    "deploy": "print a file that runs this installation, its settings filled in: " + ", ".join((*KINDS, PYZ)),
}
OPEN_MAX = 10240  # files that macOS allows where it says that there is no limit
TWO_WAYS_ON = """\
To talk to Workers AI: set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN (dashboard: AI > Workers AI > Use REST API).
To try it without an account: add --demo."""
NO_DEMO = "--demo has no account to look into or to run for; `cfchat --demo` and `cfchat ask --demo` need none"

# What could move the cursor or rename the window: no model gets that through to a terminal.
_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class _Shape(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        # argparse makes one for each flag that is added, and imports shutil and three compressors to ask for a width.
        width = os.environ.get("COLUMNS", "")
        columns = int(width) if width.isdecimal() else 0
        if not columns and sys.stdout.isatty():
            columns = os.get_terminal_size(sys.stdout.fileno()).columns
        super().__init__(prog, width=(columns or 80) - 2)


class _Parser(argparse.ArgumentParser):
    """Given its flags when it is used: a command line has one command, and all flags of all take a while."""

    complete: Callable[[], None] | None = None

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        self._complete()
        return super().parse_known_args(*args, **kwargs)

    def _complete(self) -> None:
        complete, self.complete = self.complete, None
        if complete is not None:
            complete()

    def error(self, message: str) -> None:  # type: ignore[override]
        """One line, no usage text: the reason should not be the last of twenty lines."""
        self.exit(WRONG_USE, f"cfchat: {message} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    commands = "".join(f"  {name:<8} {told}\n" for name, told in COMMANDS.items())
    prog = "cfchat" if not sys.argv[0].endswith(".py") else "python3 cfchat_server.py"
    parser = _Parser(
        prog="cfchat",
        usage="cfchat [COMMAND] [OPTION ...]",
        description=DESCRIPTION.format(prog=prog, commands=commands),
        epilog=EPILOG,
        formatter_class=_Shape,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cfchat {__version__}")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", help=argparse.SUPPRESS, prog="cfchat")
    for name, told in COMMANDS.items():
        words = {"ask": " [QUESTION]", "deploy": " NAME"}.get(name, "")
        command = parsers.add_parser(
            name,
            usage=f"cfchat {name}{words} [OPTION ...]",
            description=told,
            epilog=EPILOG,
            formatter_class=_Shape,
            allow_abbrev=False,
            # So that a flag before the command is not undone by its absence behind it.
            argument_default=argparse.SUPPRESS,
        )
        command.complete = partial(_add_flags, name, command)
    _add_shared_flags(parser)
    return parser


def _add_flags(command: str, parser: argparse.ArgumentParser) -> None:
    if command == "ask":
        told = "what to ask; - or nothing reads it from standard input"
        parser.add_argument("question", metavar="QUESTION", nargs="*", default=[], help=told)
        parser.add_argument("--system", dest="system_prompt", metavar="TEXT", help="a shorter --system-prompt")
    elif command == "deploy":
        parser.add_argument("kind", metavar="NAME", choices=(*KINDS, PYZ), help=", ".join((*KINDS, PYZ)))
        told = "the host's name, for nginx, caddy and haproxy (default: chat.example.com)"
        parser.add_argument("--domain", metavar="NAME", type=_domain, default="chat.example.com", help=told)
    elif command != "serve":
        parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    _add_shared_flags(parser)


def _add_shared_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--demo", action="store_true", help="answer from a stand-in model here (ELIZA, 1966)")
    add_flags(parser)


# --- from flags to a command ----------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, `serve` where none is named, to its end or to Ctrl-C. Returns the exit code."""
    flags = vars(make_parser().parse_args(argv))
    try:
        return _run(flags)
    except ConfigError as error:
        return _fail(error, flags)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever reads our output left, as `head` does. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS


def _run(flags: Mapping[str, Any]) -> int:
    command, demo = flags["command"] or "serve", flags["demo"]
    if demo and command in ("check", "models", "deploy"):
        raise ConfigError(NO_DEMO)
    if command == "deploy":
        return print_deployment(flags)
    config = load(flags, os.environ, demo=demo)
    set_up_logging(_log_level(command, config, flags), config.log_format)
    if command == "ask":
        return asyncio.run(ask(config, _question(flags["question"])))
    if command == "check":
        return asyncio.run(run_check(config, flags["json"]))
    if command == "models":
        return asyncio.run(list_models(config, flags["json"]))
    return asyncio.run(serve(config, demo))


def _log_level(command: str, config: Config, flags: Mapping[str, Any]) -> str:
    """What a command prints says it all; only `ask` is silent for long while it tries again."""
    if command == "serve" or flags["log_level"] or os.environ.get("CFCHAT_LOG_LEVEL"):
        return config.log_level
    return "warning" if command == "ask" else "error"


def _fail(error: ConfigError, flags: Mapping[str, Any]) -> int:
    lines = error.message.split("\n")
    for line in lines:
        _say(line)
    if not flags["demo"] and "CLOUDFLARE_" in error.message:
        print(TWO_WAYS_ON, file=sys.stderr)
    if flags["command"] == "check" and flags["json"]:
        from cfchat.check import Result, Status  # here and below: not what a server needs

        _print_json_of([Result("settings", Status.FAIL, "; ".join(lines), "set them as the text says")])
    return WRONG_USE


def _say(line: str) -> None:
    print(f"cfchat: {line}", file=sys.stderr)


def _say_error(error: UpstreamError, settings: Settings) -> None:
    from cfchat.check import explain

    what, following = explain(error, settings)
    tried = f" (tries: {error.tries})" if error.tries > 1 else ""
    _say(f"{what}{tried}; next: {following}")


# --- serve ----------------------------------------------------------------------------------------


async def serve(config: Config, demo: bool) -> int:
    """Serve until a signal comes, here or in workers; returns the exit code.

    Raises ConfigError where the address cannot be listened on, or the certificate is none.
    """
    worker = take_worker(os.environ)
    notifier, tally, files = worker or (take_notifier(os.environ), None, take_files(os.environ))
    with contextlib.ExitStack() as stack:
        stack.callback(notifier.close)
        where = config.where
        certificate = Certificate(where.cert, where.key) if where.cert else None
        sockets = stack.enter_context(adopted(files) if files else listening(where))
        welcome = partial(_welcome, sockets[0].getsockname(), demo, config)
        if worker is not None:
            house = _serve_here(_share(config), sockets, certificate, notifier, orders, tally=tally)
        elif config.workers:
            return await _keep_workers(config, sockets, notifier, welcome)
        else:
            house = _serve_here(config, sockets, certificate, notifier, _signals, welcome)
        await house
        if worker is not None:
            # All is said: a signal that found the loop half closed would be told of on stderr, or kill.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT))
        else:
            # A thread that asks for a name cannot be ended, and is waited for: a further signal need not.
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL)
    return OK


async def _serve_here(
    config: Config,
    sockets: Sequence[socket.socket],
    certificate: Certificate | None,
    notifier: Notifier,
    orders: Callable[[Notifier], asyncio.Queue[str]],
    welcome: Callable[[], None] = lambda: None,
    tally: socket.socket | None = None,
) -> None:
    """Serve in this process until an order to stop comes."""
    given = orders(notifier)
    tls = certificate.context if certificate else None
    async with api.serve_on(sockets, config, tls=tls, tally=tally) as serving:
        with stalls_told(serving.rooms.pulse):
            _allow_files(config.server.connections)
            _reload_on_hangup(serving.rooms.guard, config.keys_file, certificate, notifier)
            welcome()
            gc.freeze()  # what is here by now stays, so no collection need look at it
            notifier.ready()
            await _until_told(serving.server, given, notifier)


async def _keep_workers(
    config: Config, sockets: Sequence[socket.socket], notifier: Notifier, welcome: Callable[[], None]
) -> int:
    """Be the parent until an order to stop comes; returns the exit code."""
    parent = Parent(sockets, config.workers, config.server.drain, notifier)
    admin = await api.start_admin(config.admin, parent.fault, parent.tally.total) if config.admin else None
    code = await parent.run(welcome)
    if admin is not None:
        await admin.drain(1.0)
    return code


def _share(config: Config) -> Config:
    """One worker's part of what all together may spend."""
    tokens = config.guard.daily_tokens
    shared = tokens and max(1, tokens // config.workers)
    return replace(config, guard=config.guard._replace(daily_tokens=shared))


def _welcome(address: Any, demo: bool, config: Config) -> None:
    _say_hello(address, demo, config)
    _warn_if_open(address, config)


def _say_hello(address: Any, demo: bool, config: Config) -> None:
    base, way, behind = url_of(address, config.where.cert is not None), "", ""
    if not isinstance(address, tuple):
        import shlex  # rarely needed

        path = os.fsdecode(address)
        way, behind = f"--unix-socket {shlex.quote(path)} ", f" behind {path}"
    key = "-H 'Authorization: Bearer YOUR-KEY' " if config.guard.keys else ""
    page = f"page: {base}/\n" if config.page else ""
    says = "DEMO: a stand-in model (ELIZA, 1966), not Cloudflare" if demo else config.app.model
    print(
        f"cfchat {__version__} listens on {base}/api/chatbot{behind}\n"
        f"model: {says}\n{page}"
        f"try: curl -N {way}{base}/api/chatbot -H 'Content-Type: application/json' {key}"
        """-d '[{"role":"user","content":"I am unhappy"}]'\n"""
        "Ctrl-C stops it.",
        flush=True,
    )


def _warn_if_open(address: Any, config: Config) -> None:
    """Whoever finds an open chat endpoint spends its owner's money."""
    guarded = config.guard.keys or config.guard.rate or config.guard.daily_tokens
    if isinstance(address, tuple) and address[0] not in LOOPBACK and not guarded:
        log.warning(
            "everybody who can reach %s may ask, and you pay: set --rate-limit and --daily-tokens, or --api-keys-file",
            address[0],
        )


def _allow_files(connections: int) -> None:
    """Take all the file descriptors that this process may have; each reply needs two."""
    import resource  # which Windows lacks, where `ask` and `check` work

    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != most:
        for wanted in (most, max(allowed, OPEN_MAX)):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
                allowed = wanted
                break
    if allowed != resource.RLIM_INFINITY and allowed < 2 * connections:
        told = "only %d files may be open, enough for about %d replies at once: raise `ulimit -n`, or lower %s"
        log.warning(told, allowed, max(0, allowed - 20) // 2, "--max-streams and --max-connections")


def _reload_on_hangup(guard: Guard, keys_file: str | None, certificate: Certificate | None, told: Notifier) -> None:
    """SIGHUP reads the keys and the certificate anew; a file that is wrong changes nothing."""

    def reload() -> None:
        told.reloading()
        if keys_file is None and certificate is None:
            log.info("SIGHUP: there is no --api-keys-file or --tls-cert to read")
        if keys_file is not None:
            _reload_keys(guard, keys_file)
        if certificate is not None:
            try:
                certificate.reload()
            except ConfigError as error:
                log.error("SIGHUP: %s; the certificate stays as it was", error)
            else:
                log.info("SIGHUP: certificate read")
        told.ready()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)


def _reload_keys(guard: Guard, path: str) -> None:
    try:
        guard.keys = read_keys(path)
    except ValueError as error:
        log.error("SIGHUP: --api-keys-file %s; the keys stay as they were", error)
    else:
        log.info("SIGHUP: %d keys read", len(guard.keys))


def _signals(notifier: Notifier) -> asyncio.Queue[str]:
    """Why to stop: the first SIGINT or SIGTERM lets replies finish, the second ends them."""
    loop = asyncio.get_running_loop()
    given: asyncio.Queue[str] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, given.put_nowait, number.name)
    if os.getpid() == 1:
        # In a container every orphan is a child of the first process.
        loop.add_signal_handler(signal.SIGCHLD, lambda: [*ended_children()])
        list(ended_children())
    return given


async def _until_told(server: Server, orders: asyncio.Queue[str], notifier: Notifier) -> None:
    loop = asyncio.get_running_loop()
    why = await orders.get()
    notifier.stopping()
    log.info("%s: stopping; replies under way may finish (again: end them now)", why)
    draining = loop.create_task(server.drain())
    second = loop.create_task(orders.get())
    await asyncio.wait([draining, second], return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    if not draining.done():
        await server.abort()
    await draining
    log.info("stopped")


# --- check ----------------------------------------------------------------------------------------


async def run_check(config: Config, as_json: bool) -> int:
    """Try each step on the way to each model, and print how it went."""
    from cfchat.check import check

    assert config.upstream is not None
    results = []
    async with aclosing(check(config.upstream, api.make_context(config.upstream.origin))) as found:
        async for result in found:
            results.append(result)
            if not as_json:
                _print_result(result)
    if as_json:
        _print_json_of(results)
    return FAILED if any(result.status == "fail" for result in results) else OK


def _print_result(result: Result) -> None:
    status = "FAIL" if result.status == "fail" else result.status.value
    about = f"{result.model}: " if result.model else ""
    print(f"{status:<4}  {result.name:<8} {result.ms:>7.0f} ms  {about}{result.detail}")
    if result.next:
        print(f"      next: {result.next}")
    sys.stdout.flush()


def _print_json_of(results: Sequence[Result]) -> None:
    well = not any(result.status == "fail" for result in results)
    print(json.dumps({"ok": well, "checks": [{**result._asdict(), "ok": result.ok} for result in results]}, indent=2))


# --- ask ------------------------------------------------------------------------------------------


def _question(words: Sequence[str]) -> str:
    """The words of the command line, or what standard input holds. Raises ConfigError where that is nothing."""
    if words and list(words) != ["-"]:
        question = " ".join(words)
    else:
        if sys.stdin.isatty():
            print("What is your question? Ctrl-D at the start of a line ends it.", file=sys.stderr)
        try:
            question = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError:
            raise ConfigError("standard input is not UTF-8") from None
    if not question.strip():
        raise ConfigError('there is no question; try: cfchat ask "Why is the sky blue?"')
    return question


async def ask(config: Config, question: str) -> int:
    """Print the model's answer as it comes."""
    asked = Conversation((Message("user", question),))
    conversation = with_system(asked, config.app.system_prompt)
    async with api.open_upstream(config) as upstream:
        paper = _Paper()
        try:
            async with upstream.stream(conversation, tag="ask") as answer, aclosing(answer.batches()) as batches:
                async for batch in batches:
                    paper.write(batch)
        except UpstreamError as error:
            paper.end_line()
            _say_error(error, upstream.settings)
            return FAILED
        except asyncio.CancelledError:
            paper.end_line()
            raise
        paper.end_line()
        if paper.finish_reason == "length":
            _say(f"the answer was cut at its limit of {upstream.settings.max_tokens} tokens; --max-tokens sets another")
        return OK


class _Paper:
    """Standard output, and whether it stands at the start of a line."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._inside = False
        self._terminal = sys.stdout.isatty()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal that does not speak UTF-8 shows `?` for what it lacks.
            sys.stdout.reconfigure(errors="replace")

    def write(self, batch: Sequence[Delta]) -> None:
        text = "".join(delta.text for delta in batch)
        self.finish_reason = batch[-1].finish_reason or self.finish_reason
        if text:
            self._inside = not text.endswith("\n")
            print(text.translate(_CONTROLS) if self._terminal else text, end="", flush=True)

    def end_line(self) -> None:
        if self._inside:
            self._inside = False
            print(flush=True)


# --- models ---------------------------------------------------------------------------------------


async def list_models(config: Config, as_json: bool) -> int:
    """Print the account's text models."""
    settings = config.upstream
    assert settings is not None
    async with api.open_upstream(config) as upstream:
        try:
            models = sorted(await upstream.catalogue(), key=lambda model: model.name)
        except UpstreamError as error:
            _say_error(error, settings)
            return FAILED
    if as_json:
        print(json.dumps([model._asdict() for model in models], indent=2))
    else:
        _print_table(models, settings.models)
    return OK


def _print_table(models: Sequence[Model], asked: Sequence[str]) -> None:
    """One line a model; prices are US$ for a million tokens in and out, `-` is what the list does not say."""
    rows = [("MODEL", "WINDOW", "$/M IN", "$/M OUT", "NOTES")]
    for model in models:
        window = "-" if model.window is None else f"{model.window:,}"
        rows.append((model.name, window, _price(model.price_in), _price(model.price_out), _notes(model, asked)))
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, *numbers, notes in rows:
        columns = [f"{number:>{width}}" for number, width in zip(numbers, wide[1:], strict=True)]
        print("  ".join([f"{name:<{wide[0]}}", *columns, notes]).rstrip())


def _price(price: float | None) -> str:
    return "-" if price is None else f"{price:.3f}"


def _notes(model: Model, asked: Sequence[str]) -> str:
    notes = []
    if model.name in asked:
        notes.append("your default" if model.name == asked[0] else "your fallback")
    if model.deprecation:
        notes.append(f"removed on {model.deprecation}")
    if model.paid:
        notes.append("paid plan only")
    if model.reasoning:
        notes.append("reasoning")
    return ", ".join(notes)


# --- deploy ---------------------------------------------------------------------------------------


def print_deployment(flags: Mapping[str, Any]) -> int:
    """Print the file that was asked for. No secret is in it, and none is needed to make it."""
    if flags["kind"] == PYZ:
        if sys.stdout.isatty():
            raise ConfigError("this is a program, not a text: cfchat deploy pyz > cfchat.pyz")
        sys.stdout.buffer.write(archive())
        return OK
    # Neither is written down: whoever makes the file need not have them.
    unneeded = {"CLOUDFLARE_ACCOUNT_ID": "0" * 32, "CLOUDFLARE_API_TOKEN": "unneeded", "CF_AIG_TOKEN": "unneeded"}
    config = load(flags, {**os.environ, **unneeded})
    assert config.upstream is not None
    waits = config.upstream.deadlines
    settings, paths = given(flags, os.environ)
    here = Installation(
        command=_own_command(),
        version=__version__,
        where=config.where,
        workers=config.workers,
        settings=settings,
        files={name: os.path.abspath(path) for name, path in paths.items()},
        wait=max(waits.first_delta, waits.between_deltas),
        drain=config.server.drain,
        body=config.app.max_body,
        streams=config.app.max_streams,
        connections=config.server.connections,
        domain=flags["domain"],
    )
    print(render(flags["kind"], here), end="")
    home = [word for word in here.command if word.startswith(("/home/", "/root/", "/run/user/"))]
    if flags["kind"] == "systemd" and home:
        _say(f"the unit will not see {home[0]}, in somebody's home: install cfchat elsewhere, in /opt for one")
    return OK


def _own_command() -> list[str]:
    """How this program was started, by absolute paths."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) != "__main__.py":
        return [sys.executable, script]
    # By `python3 -m cfchat`, which finds it where it is installed, or else in the current folder.
    start = os.path.join(os.path.dirname(os.path.dirname(script)), "cfchat_server.py")
    return [sys.executable, start] if os.path.exists(start) else [sys.executable, "-m", "cfchat"]


def _domain(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", text):
        raise argparse.ArgumentTypeError("must be a host's name such as chat.example.com")
    return text
