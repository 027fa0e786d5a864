"""Print errors on the terminal, and name the exit codes. All commands share both."""

from __future__ import annotations

import sys

from cfchat.errors import UpstreamError
from cfchat.upstream.client import Settings

OK, FAILED, WRONG_USE = 0, 1, 2
# 128 and the number of a signal, as the shell has it for a program that the signal ended.
INTERRUPTED, BROKEN_PIPE = 130, 141


def say(line: str) -> None:
    """Print a line on stderr, with the name of the program before it."""
    print(f"cfchat: {line}", file=sys.stderr)


def say_error(error: UpstreamError, settings: Settings) -> None:
    """Print what went wrong and what to do about it, in one line on stderr."""
    from cfchat.cli.advice import explain  # here, because most runs have no error

    what, next_step = explain(error, settings)
    tries = f" (tries: {error.tries})" if error.tries > 1 else ""
    say(f"{what}{tries}; next: {next_step}")
