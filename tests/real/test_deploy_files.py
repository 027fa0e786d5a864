"""What `deploy` prints, read by the tools that it is for; and the proxies at work before cfchat."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
from client import parse, request, send
from command import deploy, free_port
from house import house, quicker
from places import ROOT
from process import FIRST, HEAD, HELLO, REST
from proxies import PROXIES, passes, running, tool
from standin import Exchange, StandIn, silence

from cfchat.app.routes import Settings
from cfchat.guard.addresses import Proxies
from cfchat.net.listen import Where, listening
from cfchat.server.request import Limits


@pytest.mark.parametrize("flags", [(), ("--port", "80", "--workers", "4"), ("--uds", "/run/cfchat/cfchat.sock")])
def test_systemd_reads_the_unit(tmp_path: Path, flags: tuple[str, ...]) -> None:
    analyze, unit = tool("systemd-analyze"), tmp_path / "cfchat.service"
    unit.write_text(deploy("systemd", *flags, CFCHAT_SYSTEM_PROMPT='Say "100%"\nof $x'))
    assert passes(analyze, "verify", "--man=no", str(unit)) == ""
    # Out of 100, which is a service that may do everything.
    passes(analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(unit))


# --- proxies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("name", PROXIES)
async def test_a_reply_streams_through_and_no_address_is_lost(tmp_path: Path, name: str, unix: bool) -> None:
    """The second word is not sent before the first has come out; what a stranger says of addresses is not believed."""
    arrived = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(HEAD + FIRST)
        await arrived.wait()
        await exchange.send(REST)
        exchange.close()

    peers = Proxies((ip_network("127.0.0.1"),))
    where = Where(uds=str(tmp_path / "chat.sock"), uds_mode=0o666) if unix else Where(port=free_port())
    flags = ("--uds", where.uds) if where.uds else ("--port", str(where.port))
    text = await asyncio.to_thread(deploy, name, *flags)
    assert ("its unix socket" if unix else "--trusted-proxies 127.0.0.1") in text
    with listening(where) as sockets:
        async with StandIn([script]) as standin, house(standin, peers=peers) as cfchat:
            await cfchat.server.start_on(sockets)
            async with running(name, text, tmp_path) as port:
                # From another of this machine's addresses than the proxy's own.
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
                lies = "X-Forwarded-For: 5.6.7.8\r\nForwarded: for=6.7.8.9\r\n"
                writer.write(request(HELLO, fields=lies))
                head = await reader.readuntil(b"Hel\r\n")
                arrived.set()
                answer = parse(head + await reader.read())
                writer.close()
            assert (answer.body, answer.whole) == (b"Hello", True)
            await cfchat.logged(" 127.0.0.2 POST /api/chatbot 200 ")


SERVICE = 61184  # the first of the numbers that systemd gives to DynamicUser=
PACKAGES = {"nginx": "www-data", "haproxy": "haproxy", "caddy": "caddy"}  # the users of Debian's


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")
@pytest.mark.parametrize("name", PROXIES)
async def test_a_proxy_may_open_the_socket_of_the_unit_with_both_as_their_users(name: str) -> None:
    """The unit's user owns nothing but the runtime folder, as with DynamicUser=."""
    try:
        proxy = pwd.getpwnam(PACKAGES[name])
    except KeyError:
        pytest.skip(f"{name} has no user here")
    with folder_of(SERVICE, "/run") as runtime, folder_of(proxy.pw_uid, "/tmp") as folder:
        uds = f"{runtime}/chat.sock"
        unit = await asyncio.to_thread(deploy, "systemd", "--uds", uds)
        assert f"RuntimeDirectory={runtime.name}" in unit.splitlines()
        (umask,) = re.findall(r"^UMask=(.*)$", unit, re.MULTILINE)
        service = await asyncio.create_subprocess_exec(
            *(shutil.which("python3", path="/usr/local/bin:/usr/bin") or sys.executable, copied(folder), "--demo"),
            env=dict(re.findall(r"^Environment=(CFCHAT_UDS\w*)=(.*)$", unit, re.MULTILINE)),
            stdout=asyncio.subprocess.PIPE, user=SERVICE, group=SERVICE, extra_groups=[], umask=int(umask, 8), cwd="/",
        )  # fmt: skip
        try:
            assert service.stdout and b"listens" in await service.stdout.readline()
            text = await asyncio.to_thread(deploy, name, "--uds", uds)
            async with running(name, text, folder, user=proxy.pw_uid, group=proxy.pw_gid, extra_groups=[]) as port:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(HELLO))
                assert parse(await reader.read()).status == 200
                writer.close()
        finally:
            service.kill()
            await service.wait()


@contextmanager
def folder_of(user: int, place: str) -> Iterator[Path]:
    """A folder that only this user can write to, and all can enter."""
    with tempfile.TemporaryDirectory(prefix="cfchat-", dir=place) as made:
        os.chown(made, user, user)
        os.chmod(made, 0o755)
        yield Path(made)


def copied(folder: Path) -> str:
    """Copy the program to where every user can read it."""
    shutil.copytree(ROOT / "cfchat", folder / "cfchat", ignore=shutil.ignore_patterns("__pycache__"))
    return str(shutil.copy(ROOT / "cfchat_server.py", folder))


@pytest.mark.parametrize("name", PROXIES)
async def test_a_model_that_is_slow_twice_is_waited_for(tmp_path: Path, name: str) -> None:
    """All times are a two-hundredth: a first try without words, 60 s, and a second one that takes 30 s to begin."""

    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(30 / 200)
        await exchange.send(HEAD + FIRST + REST)
        exchange.close()

    port = free_port()
    text = await asyncio.to_thread(deploy, name, "--port", str(port))
    printed = r"(?m)(read_timeout|response_header_timeout|timeout client|timeout server) (\d+)s"
    text = re.sub(printed, lambda match: f"{match[1]} {int(match[2]) * 1000 // 200}ms", text)
    with listening(Where(port=port)) as sockets:
        change = quicker(first_delta=60 / 200)
        async with StandIn([silence(), slow]) as standin, house(standin, change=change) as cfchat:
            await cfchat.server.start_on(sockets)
            async with running(name, text, tmp_path) as front:
                answer = await send(front, request(HELLO))
    assert (answer.status, answer.body, answer.whole) == (200, b"Hello", True)


@pytest.mark.parametrize("name", PROXIES)
async def test_heartbeats_come_through_before_the_first_word(tmp_path: Path, name: str) -> None:
    beaten = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await beaten.wait()
        await exchange.send(HEAD + FIRST + REST)
        exchange.close()

    port = free_port()
    text = await asyncio.to_thread(deploy, name, "--port", str(port))
    with listening(Where(port=port)) as sockets:
        async with StandIn([script]) as standin, house(standin, limits=Limits(heartbeat=0.05)) as cfchat:
            await cfchat.server.start_on(sockets)
            async with running(name, text, tmp_path) as front:
                reader, writer = await asyncio.open_connection("127.0.0.1", front)
                writer.write(request(HELLO, fields="Accept: text/event-stream\r\n"))
                begin = await reader.readuntil(b": still there\n\n\r\n")
                beaten.set()
                answer = parse(begin + await reader.read())
                writer.close()
    assert answer.whole and answer.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("name", PROXIES)
async def test_a_body_that_is_too_large_ends_at_the_proxy_or_here(tmp_path: Path, name: str) -> None:
    port = free_port()
    text = await asyncio.to_thread(deploy, name, "--port", str(port), "--max-body", "1000")
    with listening(Where(port=port)) as sockets:
        async with StandIn([]) as standin, house(standin, app=Settings(max_body=1000)) as cfchat:
            await cfchat.server.start_on(sockets)
            async with running(name, text, tmp_path) as front:
                reader, writer = await asyncio.open_connection("127.0.0.1", front)
                writer.write(request(b"x" * 20_000))
                # Caddy says 502 where cfchat has refused before the whole body was sent.
                assert re.match(rb"HTTP/1\.1 (413|502) ", await reader.read())
                writer.close()
