"""Start the command often and quickly: a process imports it once, and a fork of that process is each start.

`python -I -S -W error fork_server.py ROOT` is that process. It takes jobs from its stdin, a socket: argv and
environment as JSON, with four files. Three become the standard files, and the exit code is written to the fourth.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
from functools import cache
from typing import NoReturn


class ForkServer:
    """The client's side: starts commands with `argv`, each in a fork."""

    def __init__(self, argv: list[str]) -> None:
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            files = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
            self._pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=files)
        atexit.register(self.close)

    def run(self, argv: list[str], environ: dict[str, str], stdin: bytes, timeout: float) -> tuple[int, str, str]:
        """Run a command to its end; return its exit code, stdout and stderr.

        Raises:
            TimeoutError: it has not ended in `timeout` seconds.
        """
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            code, theirs = os.pipe()
            job = json.dumps([argv, environ]).encode()
            socket.send_fds(self._door, [job], [given.fileno(), out.fileno(), err.fileno(), theirs])
            os.close(theirs)
            with open(code, "rb") as ended:
                if not select.select([ended], [], [], timeout)[0]:
                    raise TimeoutError(argv)
                returned = int(ended.read())
            out.seek(0), err.seek(0)
            return returned, out.read().decode(), err.read().decode()

    def close(self) -> None:
        """End the server; it has no more forks to wait for."""
        self._door.close()
        os.waitpid(self._pid, 0)


@cache
def fork_server(root: str) -> ForkServer:
    """Return the server for the cfchat in this folder. It is started once and ends with this process."""
    return ForkServer([sys.executable, "-I", "-S", "-W", "error", __file__, root])


def serve(door: socket.socket, root: str) -> None:
    """Start what is asked for until nobody can ask any more. What commands import is imported here, once."""
    import encodings.idna  # noqa: F401
    import importlib.resources  # noqa: F401
    import tomllib  # noqa: F401

    from cfchat.cli import ask, check, deploy, main, models, settings  # noqa: F401

    gc.collect()
    gc.freeze()  # no collection of a fork looks at what is here by now, and the kernel need not copy it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who has ended leaves nothing behind
    while (received := socket.recv_fds(door, 1 << 20, 4))[0]:
        job, files = received[:2]
        if not os.fork():
            _keep(door, json.loads(job), files, root)
        for file in files:
            os.close(file)


def _keep(door: socket.socket, job: tuple[list[str], dict[str, str]], files: list[int], root: str) -> NoReturn:
    """Run one command, wait for its end and tell its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not (pid := os.fork()):
        *standard, code = files
        os.close(code)
        for number, file in enumerate(standard):  # the door is file 0, and is closed by this
            os.dup2(file, number)
            os.close(file)
        door.detach()
        _become(*job, root)
    _, status = os.waitpid(pid, 0)
    os.write(files[3], b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(argv: list[str], environ: dict[str, str], root: str) -> NoReturn:
    from cfchat.cli.start import main

    os.environ.clear()
    os.environ.update(environ)
    sys.argv = [f"{root}/cfchat_server.py", *argv]
    sys.exit(main())


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    with socket.socket(fileno=0) as door:
        serve(door, sys.argv[1])
