"""Start here: hold back SIGHUP, which would kill, and then import all that takes time."""

from __future__ import annotations

from cfchat.ops.hangup import Hangup


def main() -> int:
    """Run the command that the command line names. Return the exit code."""
    hangup = Hangup()
    from cfchat.cli.main import run

    return run(None, hangup)
