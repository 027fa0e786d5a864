"""Listening: TCP, a unix socket, HTTPS."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from client import parse, request
from command import run, surroundings
from places import CERTS
from process import HELLO, WAIT, Gate, Process, standin, started

from cfchat.errors import ConfigError
from cfchat.net.listen import Where, listening

LEAF, OTHER = CERTS / "localhost.pem", CERTS / "wrong_host.pem"

# --- TCP ------------------------------------------------------------------------------------------


def test_every_address_of_a_name() -> None:
    with listening(Where("localhost", 0)) as sockets:
        assert "127.0.0.1" in {sock.getsockname()[0] for sock in sockets}
    assert all(sock.fileno() == -1 for sock in sockets)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "300.0.0.1", "a..b", "a" * 64])
def test_an_address_that_this_machine_has_not(host: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"), listening(Where(host, 0)):
        pass


# --- unix socket ----------------------------------------------------------------------------------


def test_a_socket_whose_owner_has_a_full_backlog_is_in_use(tmp_path: Path) -> None:
    """To connect would block for ever."""
    path = tmp_path / "s"
    with ExitStack() as socks:
        owner = socks.enter_context(socket.socket(socket.AF_UNIX))
        owner.bind(str(path))
        owner.listen(0)
        with suppress(BlockingIOError):
            while True:
                sock = socks.enter_context(socket.socket(socket.AF_UNIX))
                sock.setblocking(False)
                sock.connect(str(path))
        with pytest.raises(ConfigError, match="another process does"), listening(Where(uds=str(path))):
            pass


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))  # no process listens on the file, as after a kill
    async with standin() as upstream, started(upstream.base_url, "--uds", str(path)) as process:
        assert path.stat().st_mode & 0o777 == 0o660
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request(HELLO, fields="X-Forwarded-For: 203.0.113.9\r\n"))
        assert parse(await reader.read()).body == b"Hello"
        writer.close()
        # Its permissions are the trust: the field is believed. Without the field the client has no address.
        await process.logged(" 203.0.113.9 POST /api/chatbot 200 ")
        line = process.banner.partition("try: ")[2].partition("\n")[0]
        done = await asyncio.create_subprocess_exec("sh", "-c", f"{line} -s", stdout=asyncio.subprocess.PIPE)
        assert (await done.communicate())[0] == b"Hello"
        await process.logged(" unix POST /api/chatbot 200 ")
        taken = await asyncio.to_thread(run, "--uds", str(path), **surroundings(upstream.base_url))
        assert taken.returncode == 2 and taken.stderr.endswith("another process does\n"), taken.stderr
        assert await process.stop() == 0
    assert not path.exists()


def test_the_file_of_a_successor_stays(tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    with listening(Where(uds=str(path), uds_mode=0o600)):
        assert path.stat().st_mode & 0o777 == 0o600
        path.unlink()
        path.write_text("another's")
    assert path.exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("file", "there is a file that is no socket"), ("no/folder", "No such file"), ("x" * 200, "too long")],
)
def test_a_path_that_cannot_be_one(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match=reason), listening(Where(uds=str(tmp_path / name))):
        pass
    assert (tmp_path / "file").read_text() == "precious"


# --- HTTPS ----------------------------------------------------------------------------------------


def context(**attributes: object) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=CERTS / "ca.pem")
    made.set_alpn_protocols(["h2", "http/1.1"])
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


async def read_name(process: Process, tls: ssl.SSLContext) -> str:
    """Return the name in the certificate."""
    _, writer = await asyncio.open_connection("127.0.0.1", process.port, ssl=tls, server_hostname="localhost")
    name = writer.get_extra_info("peercert")["subjectAltName"][0][1]
    writer.close()
    await writer.wait_closed()
    return str(name)


@pytest.mark.parametrize("workers", ["0", "1"])
async def test_https_and_a_certificate_that_is_renewed(tmp_path: Path, workers: str) -> None:
    pem, gate, tls = tmp_path / "chat.pem", Gate(), context(check_hostname=False)
    shutil.copy(LEAF, pem)
    flags = ("--tls-cert", str(pem), "--workers", workers)
    async with standin(gate) as upstream, started(upstream.base_url, *flags) as process:
        assert f"https://127.0.0.1:{process.port}/api/chatbot" in process.banner
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", process.port, ssl=context(), server_hostname="localhost"
        )
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.write(request(WAIT))
        received = await reader.readuntil(b"Hel\r\n")

        pem.write_text("nonsense")
        process.send(signal.SIGHUP)
        await process.logged("--tls-cert: cannot use .*(stays as it was|chat.pem)")
        await process.logged("stays as it was|the old ones stay")
        assert await read_name(process, tls) == "localhost"
        shutil.copy(OTHER, pem)
        process.send(signal.SIGHUP)
        await process.logged("certificate read|SIGTERM: stopping")
        while await read_name(process, tls) != "elsewhere.invalid":
            assert workers == "1"  # the old worker may still accept for a moment

        process.send(signal.SIGTERM)
        gate.open.set()
        answer = parse(received + await reader.read())
        writer.close()
        assert (answer.body, answer.whole) == (b"Hello", True)
        assert await process.process.wait() == 0


@pytest.mark.parametrize("first", ["certificate", "key"])
async def test_a_renewal_that_is_half_done_changes_neither(tmp_path: Path, first: str) -> None:
    """SIGHUP comes when only one of the two files is new: HTTPS goes on as before, and the next SIGHUP takes both."""
    files, new = {"certificate": tmp_path / "cert.pem", "key": tmp_path / "key.pem"}, parts_of(OTHER)
    for name, text in parts_of(LEAF).items():
        files[name].write_text(text)
    flags = ("--tls-cert", str(files["certificate"]), "--tls-key", str(files["key"]))
    tls = context(check_hostname=False)
    async with standin() as upstream, started(upstream.base_url, *flags) as process:
        files[first].write_text(new.pop(first))
        process.send(signal.SIGHUP)
        await process.logged("the key is of another certificate; the certificate stays as it was")
        assert await read_name(process, tls) == "localhost"
        ((other, text),) = new.items()
        files[other].unlink()
        os.mkfifo(files[other])
        process.send(signal.SIGHUP)
        await process.logged("is not a regular file; the certificate stays as it was")
        assert await read_name(process, tls) == "localhost"
        files[other].unlink()
        files[other].write_text(text)
        process.send(signal.SIGHUP)
        await process.logged("certificate read")
        assert await read_name(process, tls) == "elsewhere.invalid"
        assert await process.stop() == 0


def parts_of(pem: Path) -> dict[str, str]:
    """Return the certificate and the key in a file."""
    text = pem.read_text()
    certificate, begin, key = text[text.index("-----BEGIN CERT") :].partition("-----BEGIN PRIVATE")
    return {"certificate": certificate, "key": begin + key}


async def test_old_tls_and_plain_http_are_refused() -> None:
    async with standin() as upstream, started(upstream.base_url, "--tls-cert", str(LEAF)) as process:
        for version, code in (("-tls1_1", 1), ("-tls1_2", 0), ("-tls1_3", 0)):
            hands = [version, "-cipher", "DEFAULT@SECLEVEL=0", "-connect", f"127.0.0.1:{process.port}"]
            null = asyncio.subprocess.DEVNULL
            client = await asyncio.create_subprocess_exec(
                "openssl", "s_client", *hands, stdin=null, stdout=null, stderr=null
            )
            assert await client.wait() == code, version
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
        writer.write(request(HELLO))
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert await process.stop() == 0


def test_a_wrong_certificate_ends_the_start(tmp_path: Path) -> None:
    key, locked, cert = tmp_path / "key.pem", tmp_path / "locked.pem", tmp_path / "cert.pem"
    cert.write_text(parts_of(LEAF)["certificate"])
    key.write_text(parts_of(OTHER)["key"])
    lock = ["openssl", "pkcs8", "-topk8", "-in", str(LEAF), "-out", str(locked), "-passout", "pass:secret"]
    subprocess.run(lock, check=True, capture_output=True)
    for flags, reason in (
        (["--tls-cert", "/no/such/file"], "No such file"),
        (["--tls-cert", str(cert)], "PEM"),
        (["--tls-cert", str(cert), "--tls-key", str(key)], "of another certificate"),
        (["--tls-cert", str(cert), "--tls-key", str(locked)], "encrypted"),
        (["--tls-key", str(key)], "--tls-cert must name"),
    ):
        done = run("--demo", "--port", "0", *flags)
        assert done.returncode == 2 and reason in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


