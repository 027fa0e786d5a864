"""`check`, `ask` and `models` as an operator runs them: processes of their own, against the stand-in on real TLS."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from command import command, free_port, run, surroundings
from house import ACCOUNT, TOKEN
from places import CERTS
from proxy_standin import ProxyStandIn
from standin import Exchange, Script, StandIn, hang_up, json_error, partial, reply, silence

MODEL = "@cf/google/gemma-4-26b-a4b-it"
OTHER = "@cf/meta/llama-3.1-8b-instruct-fast"
ALONE = ("--fallback-models", "none")
HELLO = b'data: {"response":"Hello"}\n\ndata: {"response":" there"}\n\n'
DONE = b'data: {"response":"","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\ndata: [DONE]\n\n'
ANSWER = reply(HELLO + DONE)
THOUGHTS = (
    b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"Hm."},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
)
HTML = reply(b"<html>It works!</html>", 404, framing="length", fields=[("content-type", "text/html")])


@dataclass(frozen=True)
class Done:
    code: int | None
    out: str
    err: str

    def line(self, name: str) -> str:
        """The line of one step of `check`, and what to do about it."""
        found = re.search(rf"^(?:ok|warn|FAIL|skip) +{name} .*\n(?:      next: .*\n)?", self.out, re.MULTILINE)
        assert found, self.out
        return found[0]




@asynccontextmanager
async def started(base_url: str, *flags: str, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command(), *flags, env=surroundings(base_url, **more), stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process, stdin: bytes = b"") -> Done:
    out, err = await process.communicate(stdin)
    told = out.decode() + err.decode()
    assert TOKEN not in told and "Traceback" not in told and "never awaited" not in told, told
    return Done(process.returncode, out.decode(), err.decode())


async def cfchat(base_url: str, *flags: str, stdin: bytes = b"", **more: str) -> Done:
    """What the command said, and its exit code."""
    async with started(base_url, *flags, **more) as process:
        return await ended(process, stdin)


def listing(*models: Mapping[str, object]) -> Script:
    """The reply of `models/search`."""
    envelope = {"success": True, "errors": [], "messages": [], "result": list(models)}
    return reply(json.dumps(envelope).encode(), framing="length", fields=[("content-type", "application/json")])


def listed(name: str, **properties: object) -> dict[str, object]:
    """One entry of it."""
    task = {"id": "c329a1f9-323d-4e91-b2aa-582dd4188d34", "name": "Text Generation", "description": ""}
    told = [{"property_id": key, "value": value} for key, value in properties.items()]
    return {"id": "1", "source": 1, "name": name, "description": "", "task": task, "tags": [], "properties": told}


LISTING = listing(listed(MODEL), listed(OTHER))


def cloudflare(models: Script = LISTING, answer: Script = ANSWER, **answers: Script) -> StandIn:
    """An account: its list of models, and what its models say."""

    async def script(exchange: Exchange) -> None:
        if "/ai/models/search" in exchange.target:
            await models(exchange)
        else:
            await answer(exchange)

    return StandIn([script], repeat=True)




# --- check ---------------------------------------------------------------------------------------


async def test_check_of_what_works() -> None:
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
    told = json.loads(done.out)
    assert done.code == 1 and told["ok"] is False
    assert [check["name"] for check in told["checks"]] == ["settings", "resolve", "connect", "token", "model"]
    last = told["checks"][-1]
    assert last["status"] == "fail" and last["ok"] is False and last["model"] == MODEL
    assert "3040" in last["detail"] and last["next"] and last["ms"] > 0
    assert all(check["ok"] is True and check["status"] == "ok" for check in told["checks"][:-1])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (json_error(401, 10000, "Authentication error"), ["10000", "Workers AI", "API Tokens", "CLOUDFLARE_API_TOKEN"]),
        (json_error(400, 9106, "Invalid"), ["9106", "token"]),
        (json_error(404, 7003, "Could not route"), ["7003", "CLOUDFLARE_ACCOUNT_ID", "dashboard"]),
        (HTML, ["404", "It works!", "CFCHAT_BASE_URL", "https://localhost:", "https://api.cloudflare.com/client/v4"]),
        (reply(b"<html></html>", fields=[("content-type", "text/html")]), ["CFCHAT_BASE_URL"]),
        (reply(b"SSH-2.0-OpenSSH_9.7\r\n"), ["CFCHAT_BASE_URL"]),
    ],
    ids=["10000", "9106", "7003", "HTML with 404", "HTML with 200", "no JSON"],
)
async def test_check_where_token_or_account_is_wrong(answer: Script, words: list[str]) -> None:
    async with cloudflare(models=answer) as standin:
        done = await cfchat(standin.base_url, "check")
    assert (done.code, done.err) == (1, "")
    told = done.line("token")
    assert told.startswith("FAIL  token") and "      next: " in told
    assert not [word for word in words if word not in told], told
    assert done.line("model").startswith("skip") and "`token` must work first" in done.line("model")
    assert len(standin.requests) == 1, "no model was asked in vain"


async def test_check_of_a_token_that_may_not_list_models() -> None:
    refused = json_error(403, 10000, "Authentication error")
    async with cloudflare(models=refused) as standin:
        done = await cfchat(standin.base_url, "check", *ALONE)
    assert done.code == 0
    assert done.line("token").startswith("warn") and "Workers AI" in done.line("token")
    assert done.line("model").startswith("ok")
    assert done.out.index("token") < done.out.index(" model ")
    async with cloudflare(models=refused, answer=refused) as standin:
        done = await cfchat(standin.base_url, "check", *ALONE)
    assert done.code == 1
    assert done.line("token").startswith("FAIL") and done.line("model").startswith("FAIL")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (json_error(400, 5007, "No such model"), ["5007", "cfchat models", "--model"]),
        (json_error(410, 5028, "This model is deprecated"), ["5028", "cfchat models", "--model"]),
        (json_error(403, 5035, "This model needs the Paid plan"), ["5035", "Workers Paid"]),
        (json_error(429, 3040, "Capacity temporarily exceeded"), ["3040", "--fallback-models"]),
        (json_error(429, 4006, "you have used up your daily free allocation"), ["4006", "00:00 UTC", "Workers Paid"]),
        (json_error(400, 2001, "Please configure AI Gateway"), ["2001", "--gateway"]),
        (json_error(400, 5006, "Bad input: /temperature"), ["5006", "/temperature"]),
        (json_error(500, 3043, "Internal server error"), ["3043", "again"]),
        (reply(b"<html>Bad gateway</html>", 502, fields=[("content-type", "text/html")]), ["502", "again"]),
        (silence(), ["--first-token-timeout"]),
        (partial(HELLO, then="abort"), ["again"]),
        (hang_up("abort"), ["again"]),
    ],
    ids=["5007", "5028", "5035", "3040", "4006", "2001", "5006", "3043", "502", "silence", "cut", "hung up"],
)
async def test_check_where_a_model_fails(answer: Script, words: list[str]) -> None:
    async with cloudflare(answer=answer) as standin:
        done = await cfchat(standin.base_url, "check", *ALONE, "--first-token-timeout", "0.3")
    assert (done.code, done.err) == (1, "")
    assert done.line("token").startswith("ok")
    told = done.line("model")
    assert told.startswith("FAIL") and f"  {MODEL}: " in told and "      next: " in told
    assert not [word for word in words if word not in told], told
    assert len(standin.requests) == 2, "the list and one try"


async def test_check_of_a_model_that_only_thinks() -> None:
    async with cloudflare(answer=reply(THOUGHTS)) as standin:
        done = await cfchat(standin.base_url, "check", *ALONE)
    assert done.code == 0
    assert done.line("model").startswith("ok") and "tokens" in done.line("model")


async def test_check_warns_of_models_that_will_go() -> None:
    models = listing(listed(MODEL, planned_deprecation_date="2027-05-30"))
    async with cloudflare(models) as standin:
        done = await cfchat(standin.base_url, "check", "--fallback-models", OTHER)
    assert done.code == 0
    told = done.out[done.out.index("warn") :]
    assert told.count("warn") == 2 and told.count("      next: ") == 2
    assert re.search(re.escape(MODEL) + ".* 2027-05-30\n.*cfchat models", told)
    assert re.search(re.escape(OTHER) + ".* not in the account's list", told)


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        ("wrong_host", ["certificate", "CFCHAT_BASE_URL", "localhost"]),
        ("expired", ["certificate", "expired", "`date`"]),
        ("localhost", ["certificate", "SSL_CERT_FILE"]),
        (None, ["TLS", "CFCHAT_BASE_URL"]),
    ],
    ids=["wrong host", "expired", "unknown authority", "no TLS"],
)
async def test_check_where_tls_fails(certificate: str | None, words: list[str]) -> None:
    trusted = CERTS / ("wrong_host.pem" if certificate == "localhost" else "ca.pem")
    async with StandIn([silence()], certificate=certificate) as standin:
        url = f"https://localhost:{standin.port}/client/v4"
        seconds = "10" if certificate else "1"
        done = await cfchat(url, "check", "--connect-timeout", seconds, SSL_CERT_FILE=str(trusted))
    assert (done.code, done.err) == (1, "")
    told = done.line("connect")
    assert told.startswith("FAIL") and not [word for word in words if word not in told], told
    assert done.line("token").startswith("skip") and done.line("model").startswith("skip")


async def test_check_where_nobody_listens() -> None:
    port = free_port()
    done = await cfchat(f"https://localhost:{port}/client/v4", "check")
    assert done.code == 1
    assert "refused" in done.line("connect") and f"nothing listens at localhost:{port}" in done.line("connect")


async def test_check_where_the_name_has_no_address() -> None:
    done = await cfchat("https://no-such-host.invalid/client/v4", "check")
    assert done.code == 1
    told = done.line("resolve")
    assert told.startswith("FAIL") and "no-such-host.invalid" in told and "DNS" in told and "CFCHAT_BASE_URL" in told
    assert done.line("connect").startswith("skip")


async def test_check_where_the_far_end_keeps_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://localhost:{mute.getsockname()[1]}/client/v4"
        done = await cfchat(url, "check", "--connect-timeout", "0.3")
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
    told = done.line("connect")
    assert told.startswith("FAIL") and "HTTPS_PROXY" in told and "CONNECT" in told
    assert not [word for word in words if word not in told], told


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
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert [(check["name"], check["status"]) for check in told["checks"]] == [("settings", "fail")]


@pytest.mark.parametrize("name", ["check", "models"])
def test_the_demo_has_no_account(name: str) -> None:
    done = run(name, "--demo")
    assert done.returncode == 2 and "ask --demo" in done.stderr and len(done.stderr.splitlines()) == 1


# --- ask -----------------------------------------------------------------------------------------


async def test_ask_prints_the_words_as_they_come() -> None:
    go_on = asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + HELLO)
        await go_on.wait()
        await exchange.send(DONE)
        exchange.close()

    async with StandIn([slowly]) as standin, started(standin.base_url, "ask", "Hello?") as process:
        assert process.stdout
        first = await process.stdout.readexactly(len("Hello there"))
        go_on.set()
        done = await ended(process)
    assert first == b"Hello there", "before the reply is whole"
    assert (done.code, done.out, done.err) == (0, "\n", "")


@pytest.mark.parametrize("words", [[], ["-"]])
async def test_ask_reads_the_question_from_standard_input(words: list[str]) -> None:
    async with StandIn([ANSWER]) as standin:
        flags = ("--system", "Be short.", "--model", OTHER)
        done = await cfchat(standin.base_url, "ask", *flags, *words, stdin="Grüß Gott?\n".encode())
    assert (done.code, done.out) == (0, "Hello there\n")
    asked = json.loads(standin.requests[0].body)
    assert asked["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Grüß Gott?\n"},
    ]
    assert standin.requests[0].target.endswith(OTHER)


async def test_ask_takes_its_words_with_or_without_quotes() -> None:
    async with StandIn([ANSWER]) as standin:
        done = await cfchat(standin.base_url, "ask", "what", "is", "this")
    assert done.code == 0 and json.loads(standin.requests[0].body)["messages"][-1]["content"] == "what is this"


@pytest.mark.parametrize("stdin", [b"", b" \n", b"\xff\xfe?"])
async def test_ask_of_nothing(stdin: bytes) -> None:
    done = await cfchat("https://localhost:1/client/v4", "ask", stdin=stdin)
    assert done.code == 2 and len(done.err.splitlines()) == 1


async def test_ask_says_what_went_wrong_and_what_to_do() -> None:
    async with StandIn([json_error(401, 10000, "Authentication error")]) as standin:
        done = await cfchat(standin.base_url, "ask", "Hello?", "--log-level", "error")
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1
    assert "10000" in done.err and "; next: " in done.err and "CLOUDFLARE_API_TOKEN" in done.err


async def test_ask_shows_that_it_tries_again() -> None:
    busy = json_error(429, 3040, "No capacity", headers=[("retry-after", "0")])
    async with StandIn([busy, ANSWER]) as standin:
        done = await cfchat(standin.base_url, "ask", "Hello?")
    assert (done.code, done.out) == (0, "Hello there\n")
    assert "3040" in done.err and "retrying" in done.err


async def test_ask_of_a_reply_that_breaks_off() -> None:
    async with StandIn([partial(HELLO, then="abort")]) as standin:
        done = await cfchat(standin.base_url, "ask", "Hello?")
    assert (done.code, done.out) == (1, "Hello there\n")
    assert len(done.err.splitlines()) == 1 and "broke off" in done.err and "; next: " in done.err


async def test_ask_notes_that_the_answer_was_cut() -> None:
    cut = b'data: {"choices":[{"index":0,"delta":{"content":"Once"},"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
    async with StandIn([reply(cut)]) as standin:
        done = await cfchat(standin.base_url, "ask", "Hello?", "--max-tokens", "7")
    assert (done.code, done.out) == (0, "Once\n")
    assert "7 tokens" in done.err and "--max-tokens" in done.err


async def test_ask_of_a_model_that_only_thinks() -> None:
    async with StandIn([reply(THOUGHTS)]) as standin:
        done = await cfchat(standin.base_url, "ask", "Hello?", "--log-level", "error")
    assert done.code == 1 and "thinking" in done.err and "--max-tokens" in done.err


async def test_ctrl_c_ends_ask_and_the_reply() -> None:
    async with (
        StandIn([partial(HELLO, then="silence")]) as standin,
        started(standin.base_url, "ask", "Hello?") as process,
    ):
        assert process.stdout
        assert await process.stdout.readexactly(11) == b"Hello there"
        process.send_signal(signal.SIGINT)
        await standin.wait_closed_by_peer()
        done = await ended(process)
    assert (done.code, done.out, done.err) == (130, "\n", "")


async def test_ctrl_c_before_the_first_words() -> None:
    async with StandIn([silence()]) as standin, started(standin.base_url, "ask", "Hello?") as process:
        await standin.wait_requests()
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    assert (done.code, done.out, done.err) == (130, "", "")


async def test_ask_ends_quietly_when_nobody_reads_on() -> None:
    gone = asyncio.Event()

    async def endlessly(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + HELLO)
        await gone.wait()
        while not exchange.closed_by_peer.is_set():
            await exchange.send(HELLO)
            await asyncio.sleep(0)  # a write that the kernel takes at once lets nobody else run

    reading, writing = os.pipe()
    async with StandIn([endlessly]) as standin:
        process = await asyncio.create_subprocess_exec(
            *command(), "ask", "Hello?",
            env=surroundings(standin.base_url), stdout=writing, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        os.close(writing)
        await asyncio.to_thread(os.read, reading, 1)
        os.close(reading)
        gone.set()
        _, err = await process.communicate()
    assert (process.returncode, err) == (141, b"")


async def test_no_model_writes_control_sequences_to_a_terminal() -> None:
    said = b'data: {"response":"\\u001b]0;owned\\u0007Hi\\u009b2J\\ttab"}\n\n' + DONE
    async with StandIn([reply(said), reply(said)]) as standin:
        keyboard, terminal = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *command(), "ask", "Hello?", env=surroundings(standin.base_url), stdout=terminal
        )
        await process.wait()
        shown = os.read(keyboard, 4096).decode()
        os.close(keyboard)
        os.close(terminal)
        piped = await cfchat(standin.base_url, "ask", "Hello?")
    assert shown.strip() == "\ufffd]0;owned\ufffdHi\ufffd2J\ttab"
    assert piped.out == "\x1b]0;owned\x07Hi\x9b2J\ttab\n", "a file gets what was said"


def test_ask_of_the_demo() -> None:
    done = run("ask", "--demo", "I am unhappy")
    assert done.returncode == 0 and "unhappy" in done.stdout and done.stderr == ""


# --- models --------------------------------------------------------------------------------------

PRICE = [
    {"unit": "per M input tokens", "price": 0.1, "currency": "USD"},
    {"unit": "per M output tokens", "price": 0.3, "currency": "USD"},
]
CATALOGUE = listing(
    listed(MODEL, context_window="256000", price=PRICE, reasoning="true"),
    listed("@cf/moonshotai/kimi-k2.6", require_workers_paid="true", planned_deprecation_date="2027-05-30"),
    listed(OTHER),
)


async def test_models_are_listed_as_a_table() -> None:
    async with StandIn([CATALOGUE]) as standin:
        done = await cfchat(standin.base_url, "models")
    assert (done.code, done.err) == (0, "")
    head, *lines = done.out.splitlines()
    assert head.split()[:2] == ["MODEL", "WINDOW"]
    gemma, llama, kimi = lines
    assert gemma.split()[:4] == [MODEL, "256,000", "0.100", "0.300"] and "default" in gemma and "reasoning" in gemma
    assert llama.split()[:4] == [OTHER, "-", "-", "-"] and "fallback" in llama
    assert "paid" in kimi and "2027-05-30" in kimi


async def test_models_as_json() -> None:
    async with StandIn([CATALOGUE]) as standin:
        done = await cfchat(standin.base_url, "models", "--json")
    first = json.loads(done.out)[0]
    assert done.code == 0
    assert (first["name"], first["window"], first["price_in"], first["price_out"]) == (MODEL, 256000, 0.1, 0.3)


async def test_models_of_a_wrong_account() -> None:
    async with StandIn([json_error(403, 10000, "Authentication error")]) as standin:
        done = await cfchat(standin.base_url, "models")
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1 and "10000" in done.err and "; next: " in done.err
