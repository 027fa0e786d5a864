"""`check --url` through nginx, HAProxy, Caddy and worse: what they do to a stream, and what the check says of it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from between import Between, adds, cuts, holds
from checked import check, demo, faults
from command import deploy, free_port
from proxies import running

from cfchat.cli.results import Status

PACKED = "gzip on; gzip_types text/event-stream; gzip_proxied any;"


def server(port: int, behind: int, location: str = "", more: str = "") -> str:
    listen = f"127.0.0.1:{port}" if port else "80"  # the support module has its own port for the latter
    return f"server {{ listen {listen}; {more} location / {{ proxy_pass http://127.0.0.1:{behind}; {location} }} }}\n"


async def test_proxies_that_spoil_replies() -> None:
    """One after the other, because one client has only two pulses at once."""
    origin = "https://a.example"
    twice = adds(b"Access-Control-Allow-Origin: https://a.example\r\nServer: nginx\r\n")
    async with (
        demo(allow_origin=origin) as serving,
        Between(serving.port, holds) as holding,
        Between(serving.port, cuts) as cutting,
        Between(serving.port, twice) as adding,
    ):
        held = await check(holding.url)
        cut = await check(cutting.url)
        allowed = await check(adding.url, origin=origin)
    assert faults(held) == {"buffering": "fail"}
    assert re.match(r"the events come together, the first after 1\d{3} ms: held back by a ", held["buffering"].detail)
    assert faults(cut)["cut"] == "fail" and cut["buffering"].status is Status.SKIP
    assert re.match("cut after .* 1 of 5 events.*; no field names a proxy$", cut["cut"].detail)
    assert faults(allowed) == {"cors": "fail"}
    assert "has 2 Access-Control-Allow-Origin" in allowed["cors"].detail and "add_header" in allowed["cors"].next


async def test_nginx_in_its_moods(tmp_path: Path) -> None:
    names = ("buffers", "twice", "packs", "packs and ignores", "is small and allows twice")
    ports = {name: free_port() for name in names}
    ignores, unbuffered = "proxy_ignore_headers X-Accel-Buffering;", "proxy_buffering off;"
    small = "client_max_body_size 100k; add_header Access-Control-Allow-Origin * always;"
    async with demo() as serving:
        back = serving.port
        text = (
            server(0, back, unbuffered)
            + server(ports["buffers"], back)
            + server(ports["twice"], ports["buffers"])
            + server(ports["packs"], back, unbuffered, PACKED)
            + server(ports["packs and ignores"], back, ignores, PACKED)
            + server(ports["is small and allows twice"], back, "", small)
        )
        async with running("nginx", text, tmp_path) as port:
            checks = [await check(f"http://localhost:{each}") for each in (port, *ports.values())]
    plain, buffers, twice, packs, ignoring, small_one = checks
    # cfchat's X-Accel-Buffering switches the buffering of one nginx off.
    assert faults(plain) == faults(buffers) == {}
    assert faults(twice) == {"buffering": "fail"}
    assert 'held back by nginx (Server "nginx/' in twice["buffering"].detail
    assert "proxy_buffering off" in twice["buffering"].next and "eats `X-Accel-Buffering`" in twice["buffering"].next
    assert faults(packs) == {"buffering": "warn"}
    assert 'as they are sent compressed ("gzip")' in packs["buffering"].detail
    assert "gzip_types" in packs["buffering"].next
    assert faults(ignoring) == {"buffering": "fail"}
    assert "gzip_types" in ignoring["buffering"].next and "proxy_buffering off" in ignoring["buffering"].next
    assert faults(small_one) == {"body": "fail", "cors": "fail"}
    assert '413, not of cfchat: Server "nginx/' in small_one["body"].detail
    assert "client_max_body_size" in small_one["body"].next and "add_header" in small_one["cors"].next


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy"])
async def test_the_proxies_of_deploy_leave_nothing_to_say(tmp_path: Path, name: str) -> None:
    text = await asyncio.to_thread(deploy, name, "--port", str(back := free_port()))
    async with demo(port=back), running(name, text, tmp_path) as port:
        assert faults(await check(f"http://localhost:{port}")) == {}


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy"])
async def test_a_proxy_before_nothing(tmp_path: Path, name: str) -> None:
    text = await asyncio.to_thread(deploy, name, "--port", str(free_port()))
    async with running(name, text, tmp_path) as port:
        result = (await check(f"http://localhost:{port}"))["pulse"]
    assert result.status is Status.FAIL and re.search("50[23], not of cfchat: ", result.detail)
    assert "no connection to cfchat" in result.next
