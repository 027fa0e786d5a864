"""The command line: serve, check, ask, models, deploy."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cfchat import __version__
from cfchat.cli.ask import ask, question_of
from cfchat.cli.check import print_json_of, run_check
from cfchat.cli.deploy import KINDS, PYZ, domain, print_deployment
from cfchat.cli.models import list_models
from cfchat.cli.serve import serve
from cfchat.cli.terminal import INTERRUPTED, NOBODY_READS, WRONG_USE, say
from cfchat.errors import ConfigError
from cfchat.ops.logs import set_up_logging
from cfchat.settings.config import Config
from cfchat.settings.load import load
from cfchat.settings.table import add_flags

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
COMMANDS = {
    "serve": "answer POST /api/chatbot; this is what is done where no command is named",
    "check": "try each step on the way to the models; say which one fails and what to do",
    "ask": "put one question to the model and print its answer as it comes",
    "models": "list the account's text models with their windows and prices",
    "deploy": "print a file that runs this installation, its settings filled in: " + ", ".join((*KINDS, PYZ)),
}
TWO_WAYS_ON = """\
To talk to Workers AI: set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN (dashboard: AI > Workers AI > Use REST API).
To try it without an account: add --demo."""
NO_DEMO = "--demo has no account to look into or to run for; `cfchat --demo` and `cfchat ask --demo` need none"


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
        parser.add_argument("--domain", metavar="NAME", type=domain, default="chat.example.com", help=told)
    elif command != "serve":
        parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    _add_shared_flags(parser)


def _add_shared_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--demo", action="store_true", help="answer from a stand-in model here (ELIZA, 1966)")
    add_flags(parser)


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
        return asyncio.run(ask(config, question_of(flags["question"])))
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
        say(line)
    if not flags["demo"] and "CLOUDFLARE_" in error.message:
        print(TWO_WAYS_ON, file=sys.stderr)
    if flags["command"] == "check" and flags["json"]:
        from cfchat.cli.check import Result, Status

        print_json_of([Result("settings", Status.FAIL, "; ".join(lines), "set them as the text says")])
    return WRONG_USE


