"""Run the command without what Windows lacks: `python3 tests/support/windows.py --demo`.

It stands in for a machine with Windows as far as a program can see it: modules, constants and calls are taken away, and
the loop refuses what the one of Windows refuses.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
from typing import NoReturn

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

_MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
_NAMES = {
    os: ("O_NOCTTY", "O_NONBLOCK", "WNOHANG", "fork", "getuid", "killpg", "posix_spawn", "set_blocking"),
    select: ("epoll", "poll"),
    signal: ("SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIG_BLOCK", "SIG_UNBLOCK", "pthread_sigmask"),
    socket: ("AF_UNIX", "MSG_DONTWAIT", "TCP_KEEPCNT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_USER_TIMEOUT"),
}


def _refuse(*arguments: object) -> NoReturn:
    raise NotImplementedError


class _Loop(asyncio.SelectorEventLoop):
    """Becomes like the ProactorEventLoop."""


class _Policy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = _Loop


def _take_away() -> None:
    unix, pair = socket.AF_UNIX, socket.socketpair
    socket.socketpair = lambda *arguments: pair(unix)
    asyncio.set_event_loop_policy(_Policy())
    for name in ("add_signal_handler", "remove_signal_handler", "add_reader", "remove_reader", "add_writer"):
        setattr(_Loop, name, _refuse)
    for name in _MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in _NAMES.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)


if __name__ == "__main__":
    _take_away()
    from cfchat.cli.start import main

    sys.exit(main())
