"""Places where little is allowed: each is made with the kernel's own means, and a whole cfchat put into it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from client import Reply, parse, request
from places import CERTS, ROOT
from standin import STREAM_TYPE, Exchange, StandIn, head_of, reply

COMMAND = [sys.executable, "-I", "-S", "-OO", "-W", "error", str(ROOT / "cfchat_server.py")]
BODY = json.dumps([{"role": "user", "content": "I am unhappy"}]).encode()
SAID = "I am sorry to hear that you are unhappy."

linux = pytest.mark.skipif(
    not os.environ.get("CI")
    and (shutil.which("unshare") is None or subprocess.run(["unshare", "-rmn", "true"], check=False).returncode != 0),
    reason="needs Linux, util-linux, and leave to make namespaces",
)

INSIDE = {
    "no writable disk": ["unshare", "-rm", "sh", "-c", 'mount -o bind,remount,ro / && ! touch "$0" && exec "$@"'],
    "no /proc": ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none /proc && ! ls /proc/self && exec "$@"'],
    "nobody": ["unshare", "-U", "sh", "-c", '[ "$(id -u)" != 0 ] && exec "$@"'],
    "64 files": ["sh", "-c", 'ulimit -n 64 && exec "$@"'],
    "no locale": ["env", "-i", "LC_ALL=C"],
}


@asynccontextmanager
async def running(
    *inside: str, flags: tuple[str, ...] = ("--demo",), **environ: str
) -> AsyncIterator[tuple[int, int]]:
    """A server in there, by its port and the number of its process."""
    shell = [str(ROOT / "tests" / "touched")] if "sh" in inside else []
    process = await asyncio.create_subprocess_exec(
        *(*inside, *shell, *COMMAND, *flags, "--port", "0", "--log-level", "error"),
        env={"PATH": os.environ["PATH"], **environ},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        banner = (await process.stdout.readline()).decode()
        found = re.search(r":(\d+)/api/chatbot", banner)
        assert found, banner
        yield int(found[1]), process.pid
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


async def post(port: int) -> Reply:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(BODY))
    received = await reader.read()
    writer.close()
    return parse(received)


@linux
@pytest.mark.parametrize("place", INSIDE)
async def test_it_answers_there(place: str) -> None:
    async with running(*INSIDE[place]) as (port, _):
        answer = await post(port)
    assert (answer.status, answer.body.decode(), answer.whole) == (200, SAID, True)


# --- no IPv6 --------------------------------------------------------------------------------------

WITHOUT_IPV6 = """
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
ip link set lo up
"$@" --demo --host ::1 --port 0 2>&1
echo $?
exec "$@" ask --demo "I am unhappy"
"""


@linux
async def test_without_ipv6() -> None:
    process = await asyncio.create_subprocess_exec(
        *("unshare", "-rn", "sh", "-c", WITHOUT_IPV6, "sh", *COMMAND), stdout=asyncio.subprocess.PIPE
    )
    lines = (await process.communicate())[0].decode().splitlines()
    assert lines[-2:] == ["2", SAID]
    assert "cannot listen on ::1 port 0: " in lines[-3]


# --- TLS, many at once ----------------------------------------------------------------------------


def to(standin: StandIn) -> dict[str, str]:
    return {
        "CLOUDFLARE_ACCOUNT_ID": "0" * 32,
        "CLOUDFLARE_API_TOKEN": "t",
        "CFCHAT_BASE_URL": standin.base_url,
        "SSL_CERT_FILE": str(CERTS / "ca.pem"),
    }


@linux
async def test_two_hundred_replies_at_once_in_128_mib() -> None:
    together = asyncio.Barrier(200)

    async def script(exchange: Exchange) -> None:
        if exchange.method == "POST":
            await exchange.send(head_of(200, [STREAM_TYPE]) + b'data: {"response":"Hel"}\n\n')
            await together.wait()
            await exchange.send(b'data: {"response":"lo"}\n\ndata: [DONE]\n\n')
        exchange.close()

    async with StandIn([script], repeat=True) as standin, running(flags=(), **to(standin)) as (port, number):
        answers = await asyncio.gather(*(post(port) for _ in range(200)))
        most = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{number}/status").read_text())
    assert {(answer.status, answer.body, answer.whole) for answer in answers} == {(200, b"Hello", True)}
    assert most and int(most[1]) < 128 * 1024


async def test_more_clients_than_files() -> None:
    """Each has words or a clear error, and then it is as before."""
    words = reply(b'data: {"response":"Hello"}\n\ndata: [DONE]\n\n')
    async with (
        StandIn([words], repeat=True) as standin,
        running(*INSIDE["64 files"], flags=(), **to(standin)) as (port, _),
    ):
        answers = await asyncio.gather(*(post(port) for _ in range(100)))
        while (after := await post(port)).status == 503:  # until the server has closed the last of these
            pass
    assert {answer.status for answer in answers} <= {200, 503}
    assert all(answer.body == b"Hello" if answer.status == 200 else answer.error["code"] for answer in answers)
    assert (after.status, after.body) == (200, b"Hello")


# --- nobody to trust ------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("command", [["--port", "0"], ["ask", "Hello"], ["check"]])
async def test_without_authorities_it_says_what_to_set(command: list[str]) -> None:
    paths = ssl.get_default_verify_paths()
    usual = {os.path.realpath(os.path.dirname(paths.openssl_cafile)), os.path.realpath(paths.openssl_capath)}
    there = sorted((path for path in {*usual, "/etc/ssl"} if os.path.isdir(path)), reverse=True)  # the inner ones first
    hide = " && ".join(f"mount -t tmpfs none {path}" for path in there)
    process = await asyncio.create_subprocess_exec(
        *("unshare", "-rm", "sh", "-c", f'{hide} && exec "$@"', "sh", *COMMAND, *command),
        env={"PATH": os.environ["PATH"], "CLOUDFLARE_ACCOUNT_ID": "0" * 32, "CLOUDFLARE_API_TOKEN": "t"},
        stderr=asyncio.subprocess.PIPE,
    )
    told = (await process.communicate())[1].decode()
    assert process.returncode == 2
    assert told.count("\n") == 1 and "ca-certificates" in told and "SSL_CERT_FILE" in told
