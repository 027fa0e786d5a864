"""What every command says on the terminal, and the exit codes that it returns."""

from __future__ import annotations

import sys

from cfchat.errors import UpstreamError
from cfchat.upstream.client import Settings

# The last two are 128 and the number of a signal, as of a program that the signal ended.
OK, FAILED, WRONG_USE, INTERRUPTED, NOBODY_READS = 0, 1, 2, 130, 141


def say(line: str) -> None:
    print(f"cfchat: {line}", file=sys.stderr)


def say_error(error: UpstreamError, settings: Settings) -> None:
    from cfchat.cli.advice import explain

    what, following = explain(error, settings)
    tried = f" (tries: {error.tries})" if error.tries > 1 else ""
    say(f"{what}{tried}; next: {following}")
