"""Read the command line and run one command.

Every start pays for what is imported here, so the module of a command is imported when that command runs. All commands
take the flags of the settings: these are made once, in a parser that is a parent of all others. They have no defaults,
so that a flag before the command is not overwritten by its absence behind it; load.py knows the defaults.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cfchat import __version__
from cfchat.cli.terminal import BROKEN_PIPE, FAILED, INTERRUPTED, WRONG_USE, open_standard_files, say
from cfchat.errors import ConfigError
from cfchat.ops.hangup import Hangup
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
Every flag can be set by the environment variable in [brackets], or in the TOML file of --config; the flag wins over
the variable, and the variable over the file.
Exit codes: 0 success, 1 failure, 2 wrong settings or usage, 130 ended by Ctrl-C.
"""
# What `deploy` prints. A test holds the names to those in deploy.py, whose import would delay each start.
DEPLOYMENTS = ("systemd", "container", "kubernetes", "nginx", "caddy", "haproxy", "alerts", "grafana", "pyz")
COMMANDS = {
    "serve": "answer POST /api/chatbot; this is the command if none is named",
    "check": "try each step on the way to the models, or to a server (--url); say which one fails and what to do",
    "ask": "put one question to the model and print its answer as it comes",
    "models": "list the account's text models with their windows and prices",
    "settings": "print each setting and where it comes from: a flag, the environment, a file, or the default",
    "deploy": "print a file that runs this installation, its settings filled in: " + ", ".join(DEPLOYMENTS),
}
TWO_WAYS_ON = """\
To talk to Workers AI: set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN (dashboard: AI > Workers AI > Use REST API).
To try it without an account: add --demo."""
_NOT_TAKEN = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # why a file takes no output
NO_DEMO = "--demo has no account, and this command is about one; try `cfchat --demo` or `cfchat ask --demo`"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        # By default argparse imports shutil, and with it three compressors, to learn the width of the terminal.
        width = os.environ.get("COLUMNS", "")
        columns = int(width) if width.isdecimal() else 0
        if not columns and sys.stdout and sys.stdout.isatty():  # None if it is closed
            columns = os.get_terminal_size(sys.stdout.fileno()).columns
        super().__init__(prog, width=(columns or 80) - 2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """Print one line and no usage text: the reason should not be the last of twenty lines."""
        self.exit(WRONG_USE, f"cfchat: {_in_our_words(message)} (see {self.prog} --help)\n")


def _in_our_words(message: str) -> str:
    """Return what is wrong, as a reader of the README would say it."""
    about, _, words = message.partition(": ")
    if about == "argument COMMAND":  # or the value of a flag that argparse does not know
        word = words.removeprefix("invalid choice: ").partition(" (choose from ")[0]
        return f"{word} is no command; or is the flag before it misspelt?"
    if about == "unrecognized arguments":
        from cfchat.settings.file import closest

        match = closest(words.split()[0].partition("=")[0])
        return f"{message}: did you mean --{match}?" if match else message
    return message


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    shared = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    settings = shared.add_argument_group("settings, for all commands")
    settings.add_argument("--demo", action="store_true", help="answer from a stand-in model here (ELIZA, 1966)")
    add_flags(settings)
    commands = "".join(f"  {name:<8} {text}\n" for name, text in COMMANDS.items())
    prog = "cfchat" if not sys.argv[0].endswith(".py") else "python3 cfchat_server.py"
    parser = _Parser(
        prog="cfchat",
        usage="cfchat [COMMAND] [OPTION ...]",
        description=DESCRIPTION.format(prog=prog, commands=commands),
        epilog=EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
        parents=[shared],
    )
    parser.add_argument("--version", action="version", version=f"cfchat {__version__}")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", help=argparse.SUPPRESS, prog="cfchat")
    for name, text in COMMANDS.items():
        words = {"ask": " [QUESTION]", "deploy": " NAME"}.get(name, "")
        command = parsers.add_parser(
            name,
            usage=f"cfchat {name}{words} [OPTION ...]",
            description=text,
            epilog=EPILOG,
            formatter_class=_Formatter,
            allow_abbrev=False,
            parents=[shared],
        )
        _add_own_flags(name, command)
    return parser


def _add_own_flags(command: str, parser: argparse.ArgumentParser) -> None:
    if command == "ask":
        text = "what to ask; - or nothing reads it from standard input"
        parser.add_argument("question", metavar="QUESTION", nargs="*", default=[], help=text)
        text = "a shorter --system-prompt"
        parser.add_argument("--system", dest="system_prompt", metavar="TEXT", default=argparse.SUPPRESS, help=text)
    elif command == "deploy":
        parser.add_argument("kind", metavar="NAME", choices=DEPLOYMENTS, help=", ".join(DEPLOYMENTS))
        text = "the host's name, for nginx, caddy and haproxy (default: chat.example.com)"
        parser.add_argument("--domain", metavar="NAME", default="chat.example.com", help=text)
    elif command != "serve":
        parser.add_argument("--json", action="store_true", help="print JSON")
    if command == "check":
        text = "check what stands between a browser and this cfchat instead; CFCHAT_CHECK_KEY is sent as its key"
        parser.add_argument("--url", metavar="URL", help=text)
        text = "with --url: the origin of the page that would use it (default: the URL's own)"
        parser.add_argument("--origin", metavar="ORIGIN", help=text)
        parser.add_argument("--slow", action="store_true", help="with --url: also a stream that is silent for 65 s")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, `serve` if none is named, to its end or to Ctrl-C. Return the exit code."""
    return run(argv, Hangup())


def run(argv: Sequence[str] | None, hangup: Hangup) -> int:
    """Do what `main` does, with a SIGHUP that is held back already."""
    open_standard_files()
    try:
        try:
            return _run_to_the_end(argv, hangup)
        finally:
            sys.stdout.flush()  # not at exit, where Python reports what fails, and with a code of its own
    except OSError as error:
        if error.errno not in _NOT_TAKEN:
            raise
        # What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # the reader of our output has left, as `head` does
            return BROKEN_PIPE
        say(f"stdout takes no more: {error.strerror}")
        return FAILED


def _run_to_the_end(argv: Sequence[str] | None, hangup: Hangup) -> int:
    flags = {"demo": False, **vars(make_parser().parse_args(argv))}
    try:
        return _run(flags, hangup)
    except ConfigError as error:
        return _fail(error, flags)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(flags: Mapping[str, Any], hangup: Hangup) -> int:
    command, demo = flags["command"] or "serve", flags["demo"]
    if command != "serve":
        hangup.release()
    if command == "check" and flags["url"] is not None:
        from cfchat.cli.check_url.steps import read_asked, run_check_url

        return asyncio.run(run_check_url(read_asked(flags, os.environ), flags["json"], os.environ))
    if command == "check" and (flags["origin"] or flags["slow"]):
        raise ConfigError("--origin and --slow say how to check a URL: add --url")
    if demo and command in ("check", "models", "deploy"):
        raise ConfigError(NO_DEMO)
    if command == "deploy":
        from cfchat.cli.deploy import print_deployment

        return print_deployment(flags)
    if command == "settings":
        from cfchat.cli.settings import print_settings

        return print_settings(flags, flags["json"])
    config = load(flags, os.environ, demo=demo)
    secrets = config.upstream.secrets if config.upstream else ()
    set_up_logging(_log_level(command, config), config.log_format, secrets)
    if command == "ask":
        from cfchat.cli.ask import ask, read_question

        return asyncio.run(ask(config, read_question(flags["question"])))
    if command == "check":
        from cfchat.cli.check import run_check

        return asyncio.run(run_check(config, flags["json"]))
    if command == "models":
        from cfchat.cli.models import list_models

        return asyncio.run(list_models(config, flags["json"]))
    gc.disable()  # nothing that an import makes is garbage, and looking for it takes a tenth of the start
    from cfchat.cli.serve import serve

    gc.enable()
    return asyncio.run(serve(config, demo, hangup))


def _log_level(command: str, config: Config) -> str:
    """Return the level to log from. The other commands print all that matters, but `ask` shows each retry, too."""
    if command == "serve" or "log_level" in config.given:
        return config.log_level
    return "warning" if command == "ask" else "error"


def _fail(error: ConfigError, flags: Mapping[str, Any]) -> int:
    lines = error.message.split("\n")
    for line in lines:
        say(line)
    if not flags["demo"] and any(line.startswith("CLOUDFLARE_") for line in lines):
        print(TWO_WAYS_ON, file=sys.stderr)
    if flags["command"] == "check" and flags["json"]:
        from cfchat.cli.results import Result, Status, print_json

        print_json([Result("settings", Status.FAIL, "; ".join(lines), "set them as the text says")])
    return WRONG_USE
