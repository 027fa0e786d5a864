"""Who gets the key, and how a request ends that nobody answers."""

from __future__ import annotations

import asyncio

import pytest
from places import CERTS
from standin import Script, StandIn, partial, reply, silence

from cfchat.cli.check_url.address import parse_url
from cfchat.cli.check_url.call import LONGEST, Answer, Caller
from cfchat.errors import ConfigError
from cfchat.secret import Secret


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTS / "ca.pem"))  # quicker to read than all of the system's


@pytest.mark.parametrize(
    ("base", "asked", "sent"),
    [
        ("https://1.1.1.1/chat", "https://1.1.1.1", True),
        ("https://1.1.1.1", "https://1.1.1.1:8443", False),
        ("https://1.1.1.1", "http://1.1.1.1:443", False),
        ("https://1.1.1.1", "https://1.0.0.1", False),
        ("http://1.1.1.1", "http://1.1.1.1", False),  # everyone on the way could read it
        ("http://127.0.0.1:8787", "http://127.0.0.1:8787", True),
        ("http://10.0.0.1", "https://10.0.0.1", False),
    ],
)
async def test_the_key_goes_to_one_origin(base: str, asked: str, sent: bool) -> None:
    assert await Caller(parse_url(base), Secret("k"), {}).sends_key(parse_url(asked)) is sent
    assert not await Caller(parse_url(base), None, {}).sends_key(parse_url(asked))


async def test_a_request_ends_in_time_and_keeps_what_came() -> None:
    async def ask(script: Script) -> Answer:
        async with StandIn([script], certificate=None) as standin:
            origin = parse_url(f"http://localhost:{standin.port}")
            caller = Caller(origin, None, {})
            caller.until = asyncio.get_running_loop().time() + 0.1
            return await caller.ask(origin, "GET", "/")

    nothing, half = await asyncio.gather(ask(silence()), ask(partial(b"four", then="silence")))
    assert (nothing.status, nothing.fault) == (0, "no answer within 0 s")
    assert (half.status, half.body, half.fault) == (200, b"four", "no end within 0 s")


async def test_a_long_text_is_not_read_to_its_end() -> None:
    async with StandIn([reply(b"x" * 500_000, 404)], certificate=None) as standin:
        origin = parse_url(f"http://localhost:{standin.port}")
        answer = await Caller(origin, None, {}).ask(origin, "GET", "/")
    assert LONGEST <= len(answer.body) < 3 * LONGEST


async def test_a_proxy_that_is_no_url_is_not_repeated() -> None:
    origin = parse_url("https://chat.example")
    with pytest.raises(ConfigError, match="HTTPS_PROXY must be") as caught:
        Caller(origin, None, {"HTTPS_PROXY": "socks5://u:hush@x"}).proxy(origin)
    assert "hush" not in str(caught.value)
