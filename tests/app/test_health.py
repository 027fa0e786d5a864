"""Probes and metrics, through real sockets."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket

import pytest
from client import FROM_HERE, get, request, scrape, send, until
from serving import BODY, WORDS, post, served
from standin import STREAM_TYPE, Exchange, StandIn, head_of, json_error, partial

import cfchat
from cfchat.api import serve_on
from cfchat.upstream.client import FAILURES

HALF = b'data: {"response":"Hel"}\n\n'


# --- metrics --------------------------------------------------------------------------------------


async def test_the_numbers_are_right_after_known_traffic() -> None:
    async with served(WORDS) as serving:
        for _ in range(3):
            assert (await post(serving.port)).whole
        await post(serving.port, b"no json")
        await post(serving.port, path="/nowhere/at/all")
        await get(serving.port, "/api/chat/42/stream")
        numbers = await scrape(serving.port)
    assert numbers['cfchat_requests_total{route="/api/chatbot",status="200"}'] == 3
    assert numbers['cfchat_requests_total{route="/api/chatbot",status="400"}'] == 1
    assert numbers['cfchat_requests_total{route="other",status="404"}'] == 1
    assert numbers['cfchat_requests_total{route="/api/chat/*/stream",status="204"}'] == 1
    assert numbers['cfchat_rejected_total{reason="invalid_json"}'] == 1
    assert numbers['cfchat_rejected_total{reason="not_found"}'] == 1
    assert numbers['cfchat_replies_total{end="whole"}'] == 3
    assert numbers['cfchat_tokens_total{kind="prompt"}'] == 3 * 51
    assert numbers['cfchat_tokens_total{kind="completion"}'] == 3 * 9
    assert numbers["cfchat_tries_total"] == 3
    assert numbers["cfchat_first_token_seconds_count"] == 3
    assert numbers["cfchat_per_token_seconds_count"] == 3
    assert numbers['cfchat_streams{state="running"}'] == 0
    assert numbers['cfchat_upstream_connections{state="idle"}'] >= 1
    assert numbers["cfchat_client_connections"] == 1
    assert numbers["cfchat_ready"] == 1
    own = f'{{worker="{os.getpid()}"}}'
    by_worker = {name.removesuffix(own): number for name, number in numbers.items() if name.endswith(own)}
    assert by_worker.pop("cfchat_worker_cpu_seconds") > 0
    assert by_worker == {"cfchat_tokens_today": 3 * 60, "cfchat_neurons_today": 0, "cfchat_worker_streams": 0}


async def test_kept_replies_are_counted() -> None:
    async with served(WORDS, resume=60) as serving:
        ask = request(BODY, fields=f"Idempotency-Key: {'k' * 16}\r\n")
        assert [(await send(serving.port, ask)).whole for _ in range(3)] == [True] * 3
        numbers = await scrape(serving.port)
    assert numbers['cfchat_kept_replies{state="running"}'] == 0
    assert numbers['cfchat_kept_replies{state="finished"}'] == 1
    assert 4096 < numbers["cfchat_kept_bytes"] < 8192
    assert (numbers["cfchat_resumed_total"], numbers["cfchat_tries_total"]) == (2, 1)


async def test_the_days_budget_stands_beside_what_is_used() -> None:
    async with served(WORDS, daily_tokens=1000) as serving:
        numbers = await scrape(serving.port)
    assert numbers[f'cfchat_budget_tokens{{worker="{os.getpid()}"}}'] == 1000


async def test_a_failure_is_counted_by_its_code() -> None:
    async with served(json_error(401, 10000, "Authentication error")) as serving:
        await post(serving.port)
        numbers = await scrape(serving.port)
    assert numbers['cfchat_upstream_errors_total{code="upstream_auth"}'] == 1
    assert numbers['cfchat_requests_total{route="/api/chatbot",status="502"}'] == 1
    assert "cfchat_rejected_total" not in "".join(numbers)


async def test_a_broken_reply_is_counted_as_one() -> None:
    async with served(partial(HALF, then="close")) as serving:
        await post(serving.port)
        numbers = await scrape(serving.port)
    assert numbers['cfchat_replies_total{end="broken"}'] == 1
    assert numbers['cfchat_upstream_errors_total{code="upstream_interrupted"}'] == 1
    assert numbers["cfchat_per_token_seconds_count"] == 0


async def test_a_reply_that_runs_and_one_that_the_client_left() -> None:
    async def hold(exchange: Exchange) -> None:
        await exchange.send(head_of(200, [STREAM_TYPE]) + HALF)
        await exchange.closed_by_peer.wait()

    async with served(hold) as serving:
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        writer.write(request(BODY))
        await reader.readuntil(b"Hel")
        running = await scrape(serving.port)
        writer.transport.abort()
        await until(lambda: serving.service.app.streams == (0, 0))
        numbers = await scrape(serving.port)
    assert running['cfchat_streams{state="running"}'] == 1
    assert running['cfchat_upstream_connections{state="lent"}'] == 1
    assert numbers['cfchat_requests_total{route="/api/chatbot",status="499"}'] == 1


async def test_the_loop_is_timed() -> None:
    async with served(WORDS) as serving:
        while not (await scrape(serving.port))["cfchat_loop_lag_seconds_count"]:
            pass


# --- access -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (FROM_HERE, 200),
        ("Host: localhost\r\n", 200),
        ("Host: [::1]:8787\r\n", 200),
        ("Host: evil.example:8787\r\n", 404),
        (FROM_HERE + "Origin: https://evil.example\r\n", 404),
        (FROM_HERE + "X-Forwarded-For: 127.0.0.1\r\n", 404),
        (FROM_HERE + "X-Forwarded-Proto: https\r\n", 404),
        (FROM_HERE + "Forwarded: for=127.0.0.1\r\n", 404),
        (FROM_HERE + "Via: 1.1 proxy\r\n", 404),
        (FROM_HERE + "CF-Connecting-IP: 127.0.0.1\r\n", 404),
    ],
)
async def test_metrics_are_for_this_machine_alone(fields: str, status: int) -> None:
    async with served(WORDS) as serving:
        assert (await get(serving.port, "/metrics", fields)).status == status


async def test_an_address_that_others_reach_has_no_metrics() -> None:
    """A forwarder of bare TCP on this machine makes strangers look like a program here."""
    async with served(WORDS, host="0.0.0.0") as serving:
        assert (await get(serving.port, "/metrics", "Host: localhost\r\n")).status == 404
        assert (await get(serving.port, "/healthz", "Host: localhost\r\n")).status == 200


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
async def test_nor_does_one_where_this_machine_is_an_address_of_ipv4_in_ipv6() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        async with serve_on([sock], cfchat.load_config(demo=True, environ={})) as serving:
            assert (await get(serving.port, "/metrics")).status == 404


async def test_metrics_are_not_for_a_trusted_proxys_clients() -> None:
    async with served(WORDS, trusted_proxies="127.0.0.1") as serving:
        answer = await get(serving.port, "/metrics", FROM_HERE + "X-Forwarded-For: 9.9.9.9\r\n")
    assert answer.status == 404


async def test_the_admin_address() -> None:
    async with served(WORDS, admin="127.0.0.1:0") as serving:
        admin = serving.service.admin
        assert admin is not None
        port = admin.address[1]
        assert (await get(serving.port, "/metrics")).status == 404
        assert (await get(serving.port, "/healthz")).status == 200
        shown = await get(port, "/metrics", "Host: metrics.example\r\nVia: 1.1 scraper\r\n")
        assert (await get(port, "/readyz")).body == b"ready\n"
        assert (await get(port, "/nothing")).status == 404
        assert (await post(port, path="/healthz")).status == 405
    assert (shown.status, shown.fields["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "access-control-allow-origin" not in shown.fields


async def test_the_admin_address_has_a_page_that_loads_only_its_own_files() -> None:
    async with served(WORDS, admin="127.0.0.1:0") as serving:
        assert serving.service.admin is not None
        port = serving.service.admin.address[1]
        page, chat = await get(port, "/"), await get(serving.port, "/")
        assert page.fields["content-security-policy"] == chat.fields["content-security-policy"]
        html = page.body.decode()
        files = re.findall(r'(?:src|href)="([^"]+)"', html)
        assert {"admin.js", "admin.css", "metrics"} <= set(files)
        for file in files:
            assert (await get(port, f"/{file}")).status == 200
        script = (await get(port, "/admin.js")).body.decode()
        assert all([(await get(port, f"/{name}")).status == 200 for name in re.findall(r'from "\./(.+)"', script)])
        known = await get(port, "/", f"Host: x\r\nIf-None-Match: {page.fields['etag']}\r\n")
        assert (known.status, known.body) == (304, b"")
        assert (await get(serving.port, "/admin.js")).status == 404
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)


async def test_an_admin_address_in_use_is_a_config_error() -> None:
    async with served(WORDS) as serving:
        with pytest.raises(cfchat.CfchatError, match="in use"):
            async with served(WORDS, admin=f"127.0.0.1:{serving.port}"):
                pass


# --- ready ----------------------------------------------------------------------------------------


async def test_ready_until_it_drains() -> None:
    async with served(WORDS, admin="127.0.0.1:0") as serving:
        assert serving.service.admin is not None
        port = serving.service.admin.address[1]
        assert (await get(serving.port, "/readyz")).status == 200
        await serving.server.drain()
        answer = await get(port, "/readyz")
        assert (await get(port, "/healthz")).status == 200
    assert (answer.status, answer.body) == (503, b"draining\n")


async def test_not_ready_while_the_upstream_cannot_be_reached() -> None:
    async with served(WORDS) as serving:
        upstream = serving.service.upstream
        async with StandIn([], certificate=None) as closed:
            port = closed.port
        upstream._settings = upstream.settings._replace(origin=upstream.settings.origin._replace(port=port))
        for _ in range(FAILURES):
            assert (await get(serving.port, "/readyz")).status == 200
            with pytest.raises(cfchat.CfchatError):
                await upstream._connect()
        lost = await get(serving.port, "/readyz")
        upstream._settings = upstream.settings
        assert (await post(serving.port)).whole
        again = await get(serving.port, "/readyz")
    assert (lost.status, lost.body) == (503, b"the model's server cannot be reached\n")
    assert again.status == 200


# --- logs -----------------------------------------------------------------------------------------


async def test_probes_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cfchat")
    async with served(WORDS) as serving:
        for path in ("/healthz", "/readyz", "/metrics"):
            await get(serving.port, path)
        await get(serving.port, "/metrics", "Host: evil.example\r\n")
    assert [line for line in caplog.messages if " GET " in line] == [
        line for line in caplog.messages if "GET /metrics 404" in line
    ]
