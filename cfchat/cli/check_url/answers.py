"""Judge the status of a reply, and tell who has answered: cfchat, or another program in its place. Pure.

Whatever strangers have written is redacted, bounded and quoted before it is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from http import HTTPStatus

from cfchat.cli.check_url.call import Answer
from cfchat.cli.check_url.proxies import identify
from cfchat.cli.results import Result, Status
from cfchat.ops.logs import quote
from cfchat.secret import redact
from cfchat.wire.fields import Fields

SIGNS = ("Server", "Via")  # fields in which programs name themselves
SHOWN = 60  # characters of a stranger's text
_BOUND = 400  # characters that are searched for secrets
LOST = "the proxy has no connection to cfchat: is it running, and is the proxy's address of it right?"


def excerpt(text: str, secrets: Sequence[str]) -> str:
    """Return the beginning of a stranger's text in quotes, on one line and without secrets."""
    bounded = redact(" ".join(text[:_BOUND].split()), secrets)
    quoted = quote(bounded[:SHOWN])
    return quoted if quoted.startswith('"') else f'"{quoted}"'


def show_url(url: str, secrets: Sequence[str]) -> str:
    """Return the URL that a redirect leads to, without its query, where tokens use to be."""
    shown = url.partition("?")[0]
    for secret in secrets:
        shown = shown.replace(secret, "***")
    return quote(shown)


def error_code(answer: Answer) -> str:
    """Return the code of cfchat's own error; empty if another program has answered."""
    try:
        error = json.loads(answer.body)["error"]
        code, request_id = error["code"], error["request_id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    known = isinstance(code, str) and isinstance(request_id, str) and re.fullmatch("[a-z_]{1,40}", code)
    return code if known else ""  # so that no stranger's text is shown as a code


def name_proxy(fields: Fields, secrets: Sequence[str]) -> str:
    """Return what kind of proxy a reply has come through, and the fields that say so; empty if none does."""
    names = ", ".join(f"{name} {excerpt(value, secrets)}" for name in SIGNS if (value := fields.get(name)))
    return f"{identify(fields).name or 'a proxy'} ({names})" if names else identify(fields).name


def describe_sender(answer: Answer, secrets: Sequence[str]) -> str:
    """Return who has answered, in its own words: `Server`, `Via`, and the beginning of its text."""
    names = [f"{name} {excerpt(value, secrets)}" for name in SIGNS if (value := answer.fields.get(name))]
    text = answer.body.decode(errors="replace")
    return ", ".join([*names, f"text {excerpt(text, secrets)}" if text.strip() else "no text"])


def judge_pulse(answer: Answer, target: str, key_sent: bool, secrets: Sequence[str]) -> Result:
    """Judge what GET /api/pulse was answered with."""
    status, ms = answer.status, round(answer.head_ms, 1)
    if answer.head is None:
        detail = f"{target}: no reply: {answer.fault}"
        step = "what listens there does not answer by HTTP/1.1: check the port, whether it wants https, and its log"
        return Result("pulse", Status.FAIL, detail, step, ms)
    content_type = answer.fields.get("content-type", "")
    if status == HTTPStatus.OK and content_type.lower().startswith("text/event-stream"):
        return Result("pulse", Status.OK, f"{target}: 200, an event stream", ms=ms)
    code = error_code(answer)
    if code:
        detail = f"{target}: {status} of a cfchat: {code}"
        return Result("pulse", Status.FAIL, detail, _advise_on_code(code, key_sent), ms)
    kind = f" as {excerpt(content_type, secrets)}" if status == HTTPStatus.OK else ""
    detail = f"{target}: {status}{kind}, not of cfchat: {describe_sender(answer, secrets)}"
    return Result("pulse", Status.FAIL, detail, _advise_on_status(answer), ms)


def _advise_on_code(code: str, key_sent: bool) -> str:
    """Return what to do about an error of cfchat's own."""
    return {
        "invalid_api_key": "CFCHAT_CHECK_KEY is no key of this server: take one from its --api-keys-file"
        if key_sent
        else "this server wants a key: put one from its --api-keys-file into CFCHAT_CHECK_KEY, which "
        "is sent to the origin of --url alone, and to a public host only by https",
        "rate_limited": "the rate limit of this server (--rate-limit): wait, or ask with a key that has a rate left",
        "overloaded": "wait a moment: it runs too many replies or pulses, or it is about to stop",
        "not_found": "--url is what stands before /api/chatbot; or the proxy does not take that prefix off before it "
        "passes a request on, or this cfchat is too old for /api/pulse",
        "method_not_allowed": "this cfchat is too old for /api/pulse: update it",
    }.get(code, "see this server's log")


def _advise_on_status(answer: Answer) -> str:
    """Return what to do if another program than cfchat has answered with this status."""
    status = answer.status
    if "cf-mitigated" in answer.fields:
        return "Cloudflare wants to see a browser: let this path pass in the zone's security rules"
    if status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT):
        return LOST
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED):
        return "a login or a firewall before cfchat refuses this: let this path pass there"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "a limit before cfchat refuses this: wait, or raise it"
    if 300 <= status < 400:
        return "give the URL that it leads to"
    if status >= 500:
        return "see the log of the program that answered"
    return "is the prefix right? The proxy must pass /api/ on to cfchat; `cfchat deploy nginx` prints how"


def judge_body(answer: Answer, size: int, secrets: Sequence[str]) -> Result:
    """Judge what a POST of `size` bytes that is no conversation was answered with."""
    about, status, code, ms = f"a POST of {size >> 10} KiB", answer.status, error_code(answer), round(answer.ms, 1)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and code:
        step = "raise --max-body if conversations may be as long"
        return Result("body", Status.WARN, f"{about}: too large for cfchat itself", step, ms)
    if code:
        return Result("body", Status.OK, f"{about} comes through: cfchat answers {status}, {code}", ms=ms)
    advice = identify(answer.fields).body
    if answer.head is None:
        return Result("body", Status.FAIL, f"{about}: no reply: {answer.fault}", advice, ms)
    detail = f"{about}: {status}, not of cfchat: {describe_sender(answer, secrets)}"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Result("body", Status.FAIL, detail, advice, ms)
    return Result("body", Status.FAIL, detail, _advise_on_status(answer), ms)
