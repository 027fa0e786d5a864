"""Print on the terminal, and name the exit codes. All commands share both.

What is printed may hold words of strangers, so no line of it moves the cursor or looks like two.
"""

from __future__ import annotations

import os
import sys

from cfchat.errors import UpstreamError
from cfchat.ops.line_writer import LineWriter
from cfchat.ops.logs import flush_logs, one_line
from cfchat.upstream.client import Settings

STDIN, STDOUT, STDERR = range(3)
OK, FAILED, WRONG_USE = 0, 1, 2
# 128 and the number of a signal, as the shell has it for a program that the signal ended.
INTERRUPTED, BROKEN_PIPE = 130, 141


def open_standard_files() -> None:
    """Open stdin, stdout and stderr on the null device where they are closed, so that no socket becomes one of them."""
    for number, name, mode in ((STDIN, "stdin", "r"), (STDOUT, "stdout", "w"), (STDERR, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def show(line: str) -> None:
    """Print a line on stdout at once."""
    print(one_line(line), flush=True)


def print_aside(text: str) -> None:
    """Print on stdout from a thread, because a stdout that is full, or that nobody reads, must not stop a server."""
    stdout = LineWriter(STDOUT)
    stdout.put(os.fsencode(text))
    stdout.close()


def say(line: str) -> None:
    """Print a line on stderr, behind all log lines, with the name of the program before it."""
    flush_logs()
    print(f"cfchat: {one_line(line)}", file=sys.stderr)


def say_error(error: UpstreamError, settings: Settings) -> None:
    """Print what went wrong and what to do about it, in one line on stderr."""
    from cfchat.cli.advice import explain  # here, because most runs have no error

    what, next_step = explain(error, settings)
    tries = f" (tries: {error.tries})" if error.tries > 1 else ""
    say(f"{what}{tries}; next: {next_step}")
