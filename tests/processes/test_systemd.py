"""Messages to a service manager, and sockets that systemd's own tool hands down."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
from command import command, free_port, surroundings
from process import Gate, ask, begun, is_whole, standin, started

from cfchat.ops.systemd import take_files, take_notifier

ACTIVATE = shutil.which("systemd-socket-activate")


@pytest.mark.parametrize(("workers", "abstract"), [("0", False), ("2", True)])
async def test_the_messages_to_the_service_manager(tmp_path: Path, workers: str, abstract: bool) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0cfchat-{os.getpid()}" if abstract else str(tmp_path / "notify"))
        manager.setblocking(False)
        name = manager.getsockname()
        address = "@" + name[1:].decode() if abstract else name

        async def received(skip: str = "WATCHDOG=1\n") -> str:
            while (message := (await loop.sock_recv(manager, 4096)).decode()) == skip:
                pass
            return message

        watched = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
        async with standin() as upstream, started(upstream.base_url, "--workers", workers, **watched) as process:
            assert await received() == "READY=1\n"
            assert [await received(skip="") for _ in range(3)] == ["WATCHDOG=1\n"] * 3
            process.send(signal.SIGHUP)
            lines = (await received()).split("\n")
            assert lines[0] == "RELOADING=1" and lines[1].startswith("MONOTONIC_USEC=")
            assert await received() == "READY=1\n"
            process.send(signal.SIGTERM)
            assert await received() == "STOPPING=1\n"
            assert await process.process.wait() == 0


def test_variables_are_removed_and_count_only_for_this_process() -> None:
    own = str(os.getpid())
    environ = {"LISTEN_FDS": "2", "LISTEN_PID": own, "LISTEN_FDNAMES": "a:b", "PATH": "/bin"}
    assert take_files(environ) == [3, 4] and environ == {"PATH": "/bin"}
    for wrong in ({"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": "-1"}, {"LISTEN_FDS": ""}):
        environ = {"LISTEN_FDS": "2", "LISTEN_PID": own, **wrong}
        assert take_files(environ) == [] and environ == {}
    environ = {"WATCHDOG_USEC": "1", "WATCHDOG_PID": own}
    notifier = take_notifier(environ)
    notifier.ready()  # does nothing
    assert notifier.sock is None and environ == {}


def test_a_service_manager_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    assert take_notifier({"NOTIFY_SOCKET": "/no/such/socket"}).sock is None
    assert "there is no service manager at NOTIFY_SOCKET" in caplog.text


@pytest.mark.skipif(ACTIVATE is None and "CI" not in os.environ, reason="systemd-socket-activate is not installed")
@pytest.mark.parametrize("workers", ["0", "2"])
async def test_sockets_from_systemd(workers: str) -> None:
    assert ACTIVATE is not None, "systemd is required on CI"
    gate, port = Gate(), free_port()
    async with standin(gate) as upstream:
        # The tool hands down only the environment that it is given, and starts the command at the first connection.
        kept = [f"--setenv={name}={value}" for name, value in surroundings(upstream.base_url).items()]
        activate = [ACTIVATE, f"--listen=127.0.0.1:{port}", *kept]
        starting = started(upstream.base_url, "--workers", workers, before=activate, argv=command())
        asking = asyncio.create_task(ask_when_open(port))
        async with starting as process:
            await asking
            assert process.port == port
            stream = await begun(port)
            process.send(signal.SIGTERM)
            await process.logged("SIGTERM: stopping")
            gate.open.set()
            assert is_whole(await stream.rest())
            assert await process.process.wait() == 0


async def ask_when_open(port: int) -> None:
    """Ask as soon as the port is open. The connection makes the tool start the command, which answers."""
    while True:
        try:
            stream = await ask(port)
        except ConnectionRefusedError:
            await asyncio.sleep(0)
        else:
            assert is_whole(await stream.rest())
            return
