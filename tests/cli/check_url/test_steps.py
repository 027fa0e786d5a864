"""`check --url` against a cfchat, and servers that are something else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from checked import KEY, check, demo, faults
from command import free_port, run
from places import CERTS
from proxy_standin import ProxyStandIn
from standin import Script, StandIn, raw, reply

from cfchat.cli.check_url.steps import read_asked
from cfchat.cli.results import Status
from cfchat.errors import ConfigError

NAMES = ["name", "tcp", "tls", "pulse", "http", "buffering", "cut", "client", "body", "cors"]
STREAM = [("Content-Type", "text/event-stream")]
SENT = b"".join(b'data: {"n":%d,"client":"1.1.1.1"}\n\n' % n for n in range(1, 6))
PULSE = reply(SENT, fields=STREAM)


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTS / "ca.pem"))


async def test_a_cfchat_by_https_with_a_key(tmp_path: Any) -> None:
    (tmp_path / "keys").write_text(f"tester {KEY}\n")
    pem = str(CERTS / "localhost.pem")
    async with demo(tls_cert=pem, tls_key=pem, api_keys_file=str(tmp_path / "keys")) as serving:
        url = f"https://localhost:{serving.port}/"
        results = await check(url, KEY)
        refused = await check(url)
        wrong = await check(url, "another-key")
    assert list(results) == NAMES and faults(results) == {}
    assert "127.0.0.1" in results["name"].detail
    assert re.match(r"TLSv1\.3, a certificate for \d{5} more days", results["tls"].detail)
    assert results["client"].detail == "cfchat takes this client for 127.0.0.1"
    assert "400, invalid_messages" in results["body"].detail
    assert results["cut"].ms >= 1000 > results["buffering"].ms
    assert faults(refused) == {"pulse": "fail", **dict.fromkeys(NAMES[4:], "skip")}
    assert "401 of a cfchat: invalid_api_key" in refused["pulse"].detail
    assert "CFCHAT_CHECK_KEY" in refused["pulse"].next and "is no key" in wrong["pulse"].next


async def test_a_page_of_another_origin() -> None:
    error = b'{"error":{"code":"origin_not_allowed","request_id":"1"}}'
    refused = reply(error, 403, fields=[("Content-Type", "application/json")])
    async with StandIn([PULSE, reply(b"", 404), reply(b"", 204), refused], certificate=None) as standin:
        results = await check(f"http://localhost:{standin.port}", origin="https://b.example")
    assert [request.fields.get("origin") for request in standin.requests] == [None, None, *["https://b.example"] * 2]
    assert "origin_not_allowed" in results["cors"].detail
    assert results["cors"].status is Status.FAIL and "--allow-origin https://b.example" in results["cors"].next


async def test_the_proxy_of_the_environment_leads_there() -> None:
    """The name is one of the Internet, so cfchat must not take its clients for 127.0.0.1."""
    local = reply(b'data: {"n":1,"client":"127.0.0.1"}\n\n', fields=STREAM)
    async with StandIn([local], repeat=True, certificate="wrong_host") as far, ProxyStandIn(leads_to=far.port) as proxy:
        results = await check("https://elsewhere.invalid", HTTPS_PROXY=proxy.url)
    assert list(results)[:2] == ["proxy", "tcp"] and results["client"].status is Status.WARN
    assert "127.0.0.1, a proxy's address" in results["client"].detail
    assert "--trusted-proxies 127.0.0.1" in results["client"].next
    assert proxy.seen[0].startswith("CONNECT elsewhere.invalid:443 ")


@pytest.mark.parametrize(
    ("answer", "words", "step"),
    [
        (
            reply(
                b"<html>\n<h1>It \x1bworks!</h1>" + b"x" * 99, 404, fields=[("Server", "nginx/1.2"), ("Via", "1.1 a")]
            ),
            ['404, not of cfchat: Server "nginx/1.2", Via "1.1 a", text "<html> <h1>It', "xxx"],
            "prefix",
        ),
        (reply(b"<html>Log in</html>", fields=[("Content-Type", "text/html")]), ['200 as "text/html"'], "prefix"),
        (reply(b'data: {"price":1}\n\n', fields=STREAM), ["an event stream, but not of cfchat"], "prefix"),
        (reply(b"busy", 502, framing="length"), ["502", 'text "busy"'], "no connection to cfchat"),
        (reply(b"", 401, framing="length"), ["401", "no text"], "login"),
        (reply(b"", 500), ["500"], "log of the program"),
        (reply(b"", 403, fields=[("cf-mitigated", "challenge"), ("cf-ray", "1")]), ["403"], "Cloudflare"),
        (
            reply(b'{"error":{"code":"not_found","request_id":"1"}}', 404),
            ["404 of a cfchat: not_found"],
            "too old for /api/pulse",
        ),
        (raw(b"SSH-2.0-OpenSSH_9.7\r\n", then="close"), ["no reply"], "check the port"),
        (raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000, then="close"), ["no reply", "too large"], "check the port"),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\ndata:", then="abort"),
            [],
            "",
        ),
        (reply(KEY.encode(), 404), ['text "***"'], "prefix"),
        (reply(b'{"error":{"code":"\\u001b[2J","request_id":"1"}}', 404), ["not of cfchat"], "prefix"),
    ],
    ids=["404", "login", "stream", "502", "401", "500", "challenge", "old", "ssh", "endless", "cut", "key", "code"],
)
async def test_what_answers_in_the_place_of_a_pulse(answer: Script, words: Sequence[str], step: str) -> None:
    async with StandIn([answer], repeat=True, certificate=None) as standin:
        results = await check(f"http://localhost:{standin.port}/chat", KEY)
    assert standin.requests[0].target == "/chat/api/pulse"
    assert standin.requests[0].fields["accept-encoding"] == "gzip, br"
    failed = results["pulse"] if results["pulse"].status is Status.FAIL else results["cut"]
    assert failed.status is Status.FAIL and step in failed.next, failed
    assert not [word for word in words if word not in failed.detail], failed
    assert len(failed.detail) < 400


@pytest.mark.parametrize(
    ("certificate", "trusted", "words", "step"),
    [
        ("expired", "ca", "it has expired", "renew"),
        ("self_signed", "ca", "it is self-signed", "Let's Encrypt"),
        ("wrong_host", "ca", "for another host, not for localhost", "server_name"),
        ("chain_incomplete", "chain_ca", "the chain is incomplete, or", "fullchain.pem"),
        ("localhost", "chain_ca", "or its authority is private: ", "SSL_CERT_FILE"),
    ],
)
async def test_certificates_that_browsers_refuse(
    certificate: str, trusted: str, words: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTS / f"{trusted}.pem"))
    async with StandIn([reply(b"")], repeat=True, certificate=certificate) as standin:
        results = await check(f"https://localhost:{standin.port}", KEY)
    assert faults(results) == {"tls": "fail", **dict.fromkeys(NAMES[3:], "skip")}
    assert words in results["tls"].detail and step in results["tls"].next
    assert not [asked for asked in standin.requests if KEY in asked.head.decode("latin-1")]


async def test_plain_http_where_https_is_wanted() -> None:
    async with demo() as serving:
        results = await check(f"https://localhost:{serving.port}")
    assert faults(results)["tls"] == "fail" and results["tls"].detail.startswith("no TLS: ")
    assert "plain http" in results["tls"].next


async def test_where_nothing_listens_and_where_nobody_lives() -> None:
    results = await check(f"http://[::1]:{free_port()}")
    assert faults(results)["tcp"] == "fail" and "Connection refused" in results["tcp"].detail
    results = await check("https://no-such-host.invalid/x")
    assert faults(results) == {"name": "fail", **dict.fromkeys(NAMES[1:], "skip")}
    assert "getent hosts no-such-host.invalid" in results["name"].next


async def test_a_redirect_is_followed_and_told_and_gets_no_key() -> None:
    html = reply(b"<html>413</html>", 413, fields=[("Server", "nginx")])
    async with StandIn([PULSE, html, reply(b"", 405), PULSE], certificate=None) as far:
        there = f"http://127.0.0.1:{far.port}/deep/api/pulse?more=1"
        near = reply(b"", 307, fields=[("Location", there)])
        async with StandIn([near], certificate=None) as standin:
            results = await check(f"http://localhost:{standin.port}", KEY)
    assert results["pulse"].status is Status.WARN and "POST does not outlive" in results["pulse"].next
    assert f"redirected by 307 to http://127.0.0.1:{far.port}/deep/api/pulse: 200" in results["pulse"].detail
    assert standin.requests[0].fields["authorization"] == f"Bearer {KEY}"
    assert not [request for request in far.requests if "authorization" in request.fields]
    assert [(request.method, request.target) for request in far.requests] == [
        ("GET", "/deep/api/pulse?more=1"),
        ("POST", "/deep/api/chatbot"),
        ("OPTIONS", "/deep/api/chatbot"),
        ("GET", "/deep/api/pulse"),
    ]
    assert len(far.requests[1].body) == 256 * 1024
    assert "413, not of cfchat" in results["body"].detail and "client_max_body_size" in results["body"].next
    assert results["cors"].status is Status.FAIL and "preflight 405" in results["cors"].detail


async def test_a_redirect_to_a_page_is_none_of_the_pulse() -> None:
    near = reply(b"", 302, fields=[("Location", "/login?to=/api/pulse")])
    async with StandIn([near, PULSE], certificate=None) as standin:
        results = await check(f"http://localhost:{standin.port}")
    assert faults(results)["pulse"] == "fail" and "without a redirect" in results["pulse"].next


async def test_a_preflight_has_no_key_and_a_small_body_limit_is_cfchats_own() -> None:
    large = reply(b'{"error":{"code":"body_too_large","request_id":"1"}}', 413)
    async with StandIn([PULSE, large, reply(b"", 204), PULSE], certificate=None) as standin:
        results = await check(f"http://localhost:{standin.port}", KEY)
    assert [request.method for request in standin.requests if "authorization" not in request.fields] == ["OPTIONS"]
    assert results["body"].status is Status.WARN and "--max-body" in results["body"].next
    assert results["buffering"].status is Status.WARN, "together, but early"


@pytest.mark.parametrize("location", ["/api/pulse", "http://[", "ftp://x/", "", "http://a@b/", None])
async def test_a_redirect_that_leads_nowhere(location: str | None) -> None:
    fields = [] if location is None else [("Location", location)]
    async with StandIn([reply(b"", 302, fields=fields)], repeat=True, certificate=None) as standin:
        results = await check(f"http://localhost:{standin.port}", KEY)
    assert faults(results)["pulse"] == "fail" and len(standin.requests) <= 6


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (reply(b": \n\n" * 4 + SENT, fields=STREAM), Status.OK, "4 of 4 heartbeats"),
        (reply(SENT, fields=STREAM), Status.WARN, "0 of 4 heartbeats"),
        (reply(b'{"error":{"code":"overloaded","request_id":"1"}}', 503), Status.FAIL, "503 of a cfchat: overloaded"),
    ],
)
async def test_a_silent_pulse_is_asked_for_if_it_is_wanted(answer: Script, status: Status, words: str) -> None:
    scripts = [PULSE, answer, reply(b"", 404), reply(b"", 204), PULSE]
    async with StandIn(scripts, certificate=None) as standin:
        result = (await check(f"http://localhost:{standin.port}", slow=True))["slow"]
    assert standin.requests[1].target == "/api/pulse?idle=65"
    assert result.status is status and words in result.detail


async def test_a_proxy_that_lets_nobody_out() -> None:
    async with ProxyStandIn(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n") as proxy:
        results = await check("https://elsewhere.invalid", HTTPS_PROXY=proxy.url)
    assert faults(results)["tcp"] == "fail" and "NO_PROXY=elsewhere.invalid" in results["tcp"].next


def test_the_command_prints_json_of_one_schema_without_an_account() -> None:
    done = run("check", "--json", "--url", f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    assert report["ok"] is False and [each["name"] for each in report["checks"]] == NAMES
    kinds: dict[str, Any] = {
        "name": str,
        "status": str,
        "detail": str,
        "next": str,
        "ms": (int, float),
        "model": str,
        "ok": bool,
    }
    for each in report["checks"]:
        assert set(each) == set(kinds) and all(isinstance(each[name], kind) for name, kind in kinds.items())
        assert each["ok"] is (each["status"] in ("ok", "warn"))


@pytest.mark.parametrize(
    "flags",
    [("--url", f"https://me:{KEY}@x.example"), ("--url", f"{KEY}.example"), ("--origin", "https://a.example")],
)
def test_a_url_that_cannot_be_is_not_repeated(flags: tuple[str, ...]) -> None:
    done = run("check", *flags)
    assert done.returncode == 2 and done.stderr.startswith("cfchat: --") and KEY not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "environ"),
    [({"origin": "https://a.example/path"}, {}), ({"origin": "*"}, {}), ({}, {"CFCHAT_CHECK_KEY": "a b"})],
)
def test_flags_that_cannot_be(flags: dict[str, str], environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        read_asked({"url": "https://a.example", "origin": None, "slow": False, **flags}, environ)
