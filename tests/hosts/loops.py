"""cfchat in the event loops that embedders run: `pytest tests/hosts/loops.py`, where requirements.txt is installed."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from client import unchunk
from places import CERTS
from standin import Exchange, Model, StandIn, json_error

import cfchat

BODY = json.dumps([{"role": "user", "content": "Hello"}]).encode()
ASK = b"POST /api/chatbot HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


def run_uvloop(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def run_in_debug_mode(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main, debug=True)


async def converse(certificate: str) -> None:
    """Ask twice on one connection; the words of each reply come one by one, over TLS on both sides if it is wanted."""
    model = Model()

    async def answer(exchange: Exchange) -> None:
        # The upkeep asks for the list of models, too, on a connection of its own.
        await (model if exchange.method == "POST" else json_error(403, 10000, "Authentication error"))(exchange)

    async with StandIn([answer], repeat=True) as standin:
        config = cfchat.load_config(
            account_id="0" * 32, api_token="x" * 40, base_url=standin.base_url, port=0, warm=0,
            tls_cert=certificate or None,
        )
        context = ssl.create_default_context(cafile=str(CERTS / "ca.pem")) if certificate else None
        async with cfchat.serve(config) as serving:
            reader, writer = await asyncio.open_connection("localhost", serving.port, ssl=context)
            for _ in range(2):
                writer.write(ASK)
                received = b""
                for word in ("one", " two", " three"):
                    model.say(word)
                    while word.encode() not in received:
                        received += await reader.read(1 << 16)
                model.end()
                while not received.endswith(b"\r\n0\r\n\r\n"):
                    received += await reader.read(1 << 16)
                assert unchunk(received.partition(b"\r\n\r\n")[2]) == b"one two three"
            writer.close()
        asked = [exchange.connection for exchange in standin.requests if exchange.method == "POST"]
        assert len(asked) == 2 and len(set(asked)) == 1


@pytest.mark.parametrize("certificate", ["", str(CERTS / "localhost.pem")], ids=["plain", "TLS"])
@pytest.mark.parametrize("run", [run_uvloop, run_in_debug_mode])
def test_in_another_loop(
    run: Callable[[Coroutine[Any, Any, None]], None], certificate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTS / "ca.pem"))
    run(asyncio.wait_for(converse(certificate), 20))
