"""`check` as an operator runs it: a process of its own, against the stand-in on real TLS."""

from __future__ import annotations

import json
import re
import socket

import pytest
from account import ALONE, ANSWER, HELLO, LISTING, MODEL, OTHER, THOUGHTS, cloudflare, listed, listing
from command import cfchat, free_port, run
from house import ACCOUNT
from places import CERTS
from proxy_standin import ProxyStandIn
from standin import Script, StandIn, hang_up, json_error, partial, reply, silence

EMPTY = b'data: {"response":""}\n\ndata: [DONE]\n\n'
THOUGHT_ENOUGH = THOUGHTS.replace(b'"length"', b'"stop"')
HTML = reply(b"<html>It works!</html>", 404, framing="length", fields=[("content-type", "text/html")])


async def test_check_of_an_account_that_works() -> None:
    async with cloudflare() as standin:
        done = await cfchat(standin.base_url, "check", "--fallback-models", OTHER)
    assert (done.code, done.err) == (0, "")
    steps = [line.split()[:2] for line in done.out.splitlines()]
    assert steps == [["ok", name] for name in ("settings", "resolve", "connect", "token", "model", "model")]
    assert "127.0.0.1" in done.line("resolve")
    assert re.search(rf"TLSv1\.[23] to 127\.0\.0\.1:{standin.port}\n", done.line("connect"))
    assert "2 text models" in done.line("token")
    assert re.search(r"ok +model +[0-9]+ ms  " + re.escape(MODEL), done.out) and OTHER in done.out
    assert ACCOUNT not in done.out
    _, first, second = standin.requests
    assert first.target.endswith(MODEL) and second.target.endswith(OTHER)
    assert json.loads(first.body)["max_tokens"] < 100


async def test_check_as_json() -> None:
    async with cloudflare(answer=json_error(429, 3040, "No capacity")) as standin:
        done = await cfchat(standin.base_url, "check", "--json", *ALONE)
    report = json.loads(done.out)
    assert done.code == 1 and report["ok"] is False
    assert [check["name"] for check in report["checks"]] == ["settings", "resolve", "connect", "token", "model"]
    last = report["checks"][-1]
    assert last["status"] == "fail" and last["ok"] is False and last["model"] == MODEL
    assert "3040" in last["detail"] and last["next"] and last["ms"] > 0
    assert all(check["ok"] is True and check["status"] == "ok" for check in report["checks"][:-1])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (json_error(400, 9106, "Invalid"), ["9106", "token"]),
        (json_error(404, 7003, "Could not route"), ["7003", "CLOUDFLARE_ACCOUNT_ID", "dashboard"]),
        (HTML, ["404", "It works!", "CFCHAT_BASE_URL", "https://localhost:", "https://api.cloudflare.com/client/v4"]),
        (reply(b"<html></html>", fields=[("content-type", "text/html")]), ["CFCHAT_BASE_URL"]),
        (reply(b"SSH-2.0-OpenSSH_9.7\r\n"), ["CFCHAT_BASE_URL"]),
    ],
    ids=["9106", "7003", "HTML with 404", "HTML with 200", "no JSON"],
)
async def test_check_where_token_or_account_is_wrong(answer: Script, words: list[str]) -> None:
    async with cloudflare(models=answer) as standin:
        done = await cfchat(standin.base_url, "check")
    assert (done.code, done.err) == (1, "")
    line = done.line("token")
    assert line.startswith("FAIL  token") and "      next: " in line
    assert not [word for word in words if word not in line], line
    assert done.line("model").startswith("skip") and "`token` must work first" in done.line("model")
    assert len(standin.requests) == 1, "no model was asked in vain"


@pytest.mark.parametrize(
    "refused",
    [
        json_error(401, 10000, "Authentication error"),
        json_error(403, 10000, "Authentication error"),
        json_error(403, 9109, "Unauthorized to access requested resource"),
        reply(b"<html>Forbidden</html>", 403, framing="length", fields=[("content-type", "text/html")]),
    ],
    ids=["401 10000", "403 10000", "403 9109", "HTML"],
)
async def test_check_of_a_token_that_may_not_list_models(refused: Script) -> None:
    async with cloudflare(models=refused) as standin:
        done = await cfchat(standin.base_url, "check", *ALONE)
    assert done.code == 0
    assert done.line("token").startswith("warn") and "      next: " in done.line("token")
    assert done.line("model").startswith("ok")
    assert done.out.index("token") < done.out.index(" model ")
    async with cloudflare(models=refused, answer=refused) as standin:
        done = await cfchat(standin.base_url, "check", *ALONE)
    assert done.code == 1
    assert done.line("token").startswith("FAIL") and done.line("model").startswith("FAIL")
    assert "10000" not in done.out or "API Tokens), and put it into CLOUDFLARE_API_TOKEN" in done.line("token")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (json_error(400, 5007, "No such model"), ["5007", "cfchat models", "--model"]),
        (json_error(410, 5028, "This model is deprecated"), ["5028", "cfchat models", "--model"]),
        (json_error(403, 5035, "This model needs the Paid plan"), ["5035", "Workers Paid"]),
        (json_error(429, 3040, "Capacity temporarily exceeded"), ["3040", "--fallback-models"]),
        (json_error(429, 4006, "you have used up your daily free allocation"), ["4006", "00:00 UTC", "Workers Paid"]),
        (json_error(400, 2001, "Please configure AI Gateway"), ["2001", "--gateway"]),
        (json_error(400, 2005, "Failed to get response from provider"), ["2005", "again in a minute"]),
        (json_error(400, 2008, "Invalid provider"), ["2008", "CFCHAT_BASE_URL", "--model"]),
        (json_error(402, 2021, "Insufficient credits"), ["2021", "Credits"]),
        (json_error(402, 2021, "Invalid User Credentials"), ["2021", "Provider Keys"]),
        (json_error(422, 2017, "Blocked due to security configurations"), ["2017", "Guardrails"]),
        (json_error(503, 7013, "Guardrail scanner unavailable"), ["7013", "guardrails", "again in a minute"]),
        (json_error(429, 0, "Spend limit reached"), ["budget", "AI > AI Gateway"]),
        (reply(EMPTY), ["empty answer", "take another model"]),
        (reply(THOUGHT_ENOUGH), ["no answer", "take another model"]),
        (json_error(400, 5006, "Bad input: /temperature"), ["5006", "/temperature"]),
        (json_error(500, 3043, "Internal server error"), ["3043", "again"]),
        (reply(b"<html>Bad gateway</html>", 502, fields=[("content-type", "text/html")]), ["502", "again"]),
        (silence(), ["--first-token-timeout"]),
        (partial(HELLO, then="abort"), ["again"]),
        (hang_up("abort"), ["again"]),
    ],
    ids=["5007", "5028", "5035", "3040", "4006", "2001", "2005", "2008", "no credits", "wrong credentials", "2017"]
    + ["7013", "spend limit", "empty", "thoughts", "5006", "3043", "502", "silence", "cut", "hung up"],
)
async def test_check_where_a_model_fails(answer: Script, words: list[str]) -> None:
    async with cloudflare(answer=answer) as standin:
        done = await cfchat(standin.base_url, "check", *ALONE, "--first-token-timeout", "0.3")
    assert (done.code, done.err) == (1, "")
    assert done.line("token").startswith("ok")
    line = done.line("model")
    assert line.startswith("FAIL") and f"  {MODEL}: " in line and "      next: " in line
    assert not [word for word in words if word not in line], line
    assert len(standin.requests) == 2, "the list and one try"


async def test_check_of_a_model_that_only_thinks() -> None:
    async with cloudflare(answer=reply(THOUGHTS)) as standin:
        done = await cfchat(standin.base_url, "check", *ALONE)
    assert done.code == 0
    assert done.line("model").startswith("ok") and "tokens" in done.line("model")


async def test_check_misses_no_search_in_the_list_of_models() -> None:
    async with cloudflare() as standin:
        done = await cfchat(standin.base_url, "check", "--ai-search", "pages", "--fallback-models", OTHER)
    assert done.code == 0 and "warn" not in done.out
    assert done.line("search").startswith("ok") and "ai-search/pages: answers" in done.line("search")


@pytest.mark.parametrize(("day", "words"), [("2999-05-30", "is going to be"), ("2001-05-30", "was to be")])
async def test_check_warns_of_models_that_will_go(day: str, words: str) -> None:
    models = listing(listed(MODEL, planned_deprecation_date=day))
    async with cloudflare(models) as standin:
        done = await cfchat(standin.base_url, "check", "--fallback-models", OTHER)
    assert done.code == 0
    warnings = done.out[done.out.index("warn") :]
    assert warnings.count("warn") == 2 and warnings.count("      next: ") == 2
    assert re.search(re.escape(MODEL) + f".* {words} removed on {day}\n.*cfchat models", warnings)
    assert re.search(re.escape(OTHER) + ".* not in the account's list", warnings)


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        ("wrong_host", ["certificate", "CFCHAT_BASE_URL", "localhost"]),
        ("expired", ["certificate", "expired", "`date`"]),
        ("localhost", ["certificate", "not in SSL_CERT_FILE, now ", "wrong_host.pem"]),
        ("company", ["certificate", "Authority Key Identifier", "--tls-verify usual"]),
        (None, ["TLS", "CFCHAT_BASE_URL"]),
    ],
    ids=["wrong host", "expired", "unknown authority", "not strict", "no TLS"],
)
async def test_check_where_tls_fails(certificate: str | None, words: list[str]) -> None:
    trusted = CERTS / {"localhost": "wrong_host.pem", "company": "company_ca.pem"}.get(certificate or "", "ca.pem")
    async with StandIn([silence()], certificate=certificate) as standin:
        url = f"https://localhost:{standin.port}/client/v4"
        seconds = "10" if certificate else "0.1"
        flags = ("--tls-verify", "strict", "--connect-timeout", seconds)
        done = await cfchat(url, "check", *flags, SSL_CERT_FILE=str(trusted))
    assert (done.code, done.err) == (1, "")
    line = done.line("connect")
    assert "set SSL_CERT_FILE" not in line
    assert line.startswith("FAIL") and not [word for word in words if word not in line], line
    assert done.line("token").startswith("skip") and done.line("model").startswith("skip")


@pytest.mark.parametrize(("certificate", "works"), [("company", True), ("wrong_host", False), ("expired", False)])
async def test_what_the_usual_look_takes_and_what_it_never_takes(certificate: str, works: bool) -> None:
    trusted = CERTS / ("company_ca.pem" if certificate == "company" else "ca.pem")
    async with StandIn([LISTING, ANSWER], certificate=certificate) as standin:
        url = f"https://localhost:{standin.port}/client/v4"
        done = await cfchat(url, "check", *ALONE, "--tls-verify", "usual", SSL_CERT_FILE=str(trusted))
    assert done.line("connect").startswith("ok") is works and (done.code == 0) is works


async def test_check_where_no_server_listens() -> None:
    port = free_port()
    done = await cfchat(f"https://localhost:{port}/client/v4", "check")
    assert done.code == 1
    assert "refused" in done.line("connect") and f"nothing listens at localhost:{port}" in done.line("connect")


async def test_check_where_the_name_has_no_address() -> None:
    done = await cfchat("https://no-such-host.invalid/client/v4", "check")
    assert done.code == 1
    line = done.line("resolve")
    assert line.startswith("FAIL") and "no-such-host.invalid" in line and "DNS" in line and "CFCHAT_BASE_URL" in line
    assert done.line("connect").startswith("skip")


async def test_check_where_the_far_end_keeps_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://localhost:{mute.getsockname()[1]}/client/v4"
        done = await cfchat(url, "check", "--connect-timeout", "0.1")
    assert done.code == 1
    assert "firewall" in done.line("connect") and "--connect-timeout" in done.line("connect")


async def test_check_of_plain_http() -> None:
    async with StandIn([LISTING, ANSWER], certificate=None) as standin:
        done = await cfchat(standin.base_url, "check", *ALONE)
    assert done.code == 0 and "no TLS" in done.line("connect")


@pytest.mark.parametrize(("status", "words"), [(407, ["407", "USER:PASSWORD"]), (403, ["403", "NO_PROXY"])])
async def test_check_where_the_proxy_refuses(status: int, words: list[str]) -> None:
    async with ProxyStandIn(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()) as proxy:
        done = await cfchat("https://cloudflare.invalid/client/v4", "check", HTTPS_PROXY=proxy.url)
    assert done.code == 1
    assert done.line("proxy").startswith("ok") and f"localhost:{proxy.port}" in done.line("proxy")
    line = done.line("connect")
    assert line.startswith("FAIL") and "HTTPS_PROXY" in line and "CONNECT" in line
    assert not [word for word in words if word not in line], line


async def test_check_where_there_is_no_proxy() -> None:
    url = f"http://somebody:hush-hush@127.0.0.1:{free_port()}"
    done = await cfchat("https://cloudflare.invalid/client/v4", "check", HTTPS_PROXY=url)
    assert done.code == 1
    assert done.line("proxy").startswith("FAIL") and "HTTPS_PROXY" in done.line("proxy")
    assert done.line("connect").startswith("skip")
    assert "hush-hush" not in done.out + done.err


def test_check_of_settings_that_cannot_work() -> None:
    done = run("check", "--json")
    assert done.returncode == 2 and "CLOUDFLARE_ACCOUNT_ID" in done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert [(check["name"], check["status"]) for check in report["checks"]] == [("settings", "fail")]


# --- AI Search -----------------------------------------------------------------------------------

CHUNKS = [{"score": 1, "text": "...", "item": {"key": key}} for key in ("a.md", "b.md", "a.md")]
FOUND = reply(b"event: chunks\ndata: " + json.dumps(CHUNKS).encode() + b"\n\n" + HELLO + b"data: [DONE]\n\n")
SEARCH = ("--ai-search", "team/docs")


async def test_check_of_a_search() -> None:
    async with StandIn([FOUND]) as standin:
        done = await cfchat(standin.base_url, "check", *SEARCH)
    assert done.code == 0 and done.line("token").startswith("skip")
    assert re.search(r"ok +search +[0-9]+ ms  ai-search/team/docs: answers from 2 pages", done.out)
    assert standin.requests[0].target.endswith("/ai-search/namespaces/team/instances/docs/chat/completions")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, 10000, ["AI Search - Run", "API Tokens"]),
        (403, 10000, ["AI Search - Run", "API Tokens"]),
        (403, 9109, ["AI Search - Run", "API Tokens"]),
        (404, 7002, ["--ai-search", "NAMESPACE/NAME", "dashboard"]),
        (429, 4006, ["00:00 UTC"]),
    ],
)
async def test_check_of_a_search_that_fails(status: int, code: int, words: list[str]) -> None:
    async with cloudflare(search=json_error(status, code, "No")) as standin:
        done = await cfchat(standin.base_url, "check", *SEARCH, "--fallback-models", OTHER)
    assert done.code == 1 and done.line("token").startswith("ok") and done.line("model").startswith("ok")
    line = done.line("search")
    assert line.startswith("FAIL  search") and not [word for word in words if word not in line], line


async def test_check_of_a_search_that_cannot_be_reached() -> None:
    done = await cfchat(f"https://127.0.0.1:{free_port()}/client/v4", "check", *SEARCH)
    assert done.line("search").startswith("skip") and "`connect` must work first" in done.line("search")
