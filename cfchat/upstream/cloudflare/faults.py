"""Turn Cloudflare's error replies and error events into UpstreamErrors. Pure.

An error is judged by Cloudflare's own code first and by the HTTP status second, because a bad token may be a 400 and a
200 can carry an error. Two tables hold a verdict for each code and status: the error for the client, and whether
another try or another model may help. A few codes have two meanings: their status or their words tell which.

An error reply may repeat our request, and so the token and the user's words. The log must not show them: `detail` is
logged, and holds numbers and ids alone, each checked by a pattern. The reply's own text is kept in `origin_text`. Only
`cfchat check` shows an excerpt of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from cfchat.errors import (
    DAY,
    ContentBlocked,
    ContextLengthExceeded,
    UpstreamAuthError,
    UpstreamError,
    UpstreamModelGone,
    UpstreamOverloaded,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from cfchat.wire.strict_json import decode


class FieldsLike(Protocol):
    """`Fields`, or a dict with lower-case names."""

    def get(self, name: str, /) -> str | None: ...


# --- verdicts ------------------------------------------------------------------------------------


class _Verdict(NamedTuple):
    """What an error means for the client and for the next try.

    `elsewhere`: another model may not share the fault. `most_tries`: how many requests are worth it at most. `wait`:
    how many seconds to wait if there is no Retry-After.
    """

    error: type[UpstreamError]
    message: str
    retryable: bool = False
    elsewhere: bool = False
    most_tries: int | None = None
    wait: float | None = None


_REFUSED = _Verdict(UpstreamRefused, "The model refused the request.")
_GONE = _Verdict(UpstreamModelGone, "The model is not available.", elsewhere=True)
_NOT_YET = _Verdict(UpstreamRefused, "The model is not available.", elsewhere=True)
_TOO_LONG = _Verdict(ContextLengthExceeded, "The conversation is too long.")
_SETUP = _Verdict(UpstreamAuthError, "The server is not set up correctly.")
_BLOCKED_ACCOUNT = _Verdict(UpstreamAuthError, "The assistant is not available.")
_SLOW = _Verdict(UpstreamTimeout, "The model took too long to answer.", retryable=True, elsewhere=True)
# Cloudflare's edge waited two minutes for the first byte: a third try is not worth it.
_VERY_SLOW = _Verdict(UpstreamTimeout, _SLOW.message, retryable=True, elsewhere=True, most_tries=2)
_TOO_SLOW = _Verdict(UpstreamTimeout, _SLOW.message)
_DAY_USED_UP = _Verdict(UpstreamQuota, "The daily limit is used up. It resets at 00:00 UTC.")
_BUDGET_USED_UP = _Verdict(UpstreamQuota, "The budget is used up.")
_BUSY = _Verdict(UpstreamOverloaded, "The assistant is busy, please try again.", retryable=True, elsewhere=True)
_TOO_MANY = _Verdict(UpstreamRateLimited, "Too many requests, please wait a moment.", retryable=True)
# A limit of this model alone, for one minute.
_MODEL_TOO_MANY = _Verdict(UpstreamRateLimited, _TOO_MANY.message, retryable=True, elsewhere=True, wait=10.0)
_EDGE_TOO_MANY = _Verdict(UpstreamRateLimited, _TOO_MANY.message, retryable=True, wait=60.0)
_FAULT = _Verdict(UpstreamUnavailable, "The assistant had a fault, please try again.", retryable=True)
_ENGINE_FAULT = _Verdict(UpstreamUnavailable, _FAULT.message, retryable=True, elsewhere=True)
_PROMPT_BLOCKED = _Verdict(ContentBlocked, "This message was blocked.")
_REPLY_BLOCKED = _Verdict(UpstreamRefused, "The reply was blocked.")

# Workers AI 3xxx, 5xxx and 8xxx; v4 API 971, 1000, 6003, 7xxx, 9xxx and 10000; AI Gateway 2xxx; edge 1015.
# Cloudflare sends 4006 where its documentation says 3036.
_CODES: Mapping[int, _Verdict] = {
    **dict.fromkeys((3003, 3030, 3039, 5004, 5005, 5006, 5012, 5019, 5023, 5025, 8001, 8006), _REFUSED),
    **dict.fromkeys((3042, 5007, 5018, 5028, 5035), _GONE),
    5016: _NOT_YET,  # until the account agrees to the model's licence
    **dict.fromkeys((3006, 5021), _TOO_LONG),
    **dict.fromkeys((1000, 2001, 2008, 2009, 6003, 7000, 7003, 9106, 9109, 10000), _SETUP),
    **dict.fromkeys((3023, 3041), _BLOCKED_ACCOUNT),
    **dict.fromkeys((3007, 3008), _SLOW),
    3046: _TOO_SLOW,
    **dict.fromkeys((3036, 4006), _DAY_USED_UP),
    **dict.fromkeys((2021, 2045), _BUDGET_USED_UP),
    **dict.fromkeys((2018, 3040), _BUSY),
    **dict.fromkeys((971, 2003), _TOO_MANY),
    1015: _EDGE_TOO_MANY,
    3021: _MODEL_TOO_MANY,
    **dict.fromkeys((2005, 3043, 8004, 8005), _ENGINE_FAULT),  # 2005: the engine behind the gateway
    **dict.fromkeys((7009, 7013), _FAULT),
    2016: _PROMPT_BLOCKED,
    2017: _REPLY_BLOCKED,
}
# The statuses that say more than that the client or the server is at fault.
_STATUSES: Mapping[int, _Verdict] = {
    **dict.fromkeys((401, 403), _SETUP),
    402: _BUDGET_USED_UP,
    408: _SLOW,
    410: _GONE,
    413: _TOO_LONG,
    425: _FAULT,
    429: _TOO_MANY,
    500: _ENGINE_FAULT,
    504: _SLOW,
    524: _VERY_SLOW,
}
# Cloudflare uses 3030 for other refusals, too: only its words say that the conversation is too long.
_LENGTH_WORDS = r"(?i)context|too long|tokens|sequence"
# 2021 is about money, or about the credentials of a provider.
_CREDENTIAL_WORDS = r"(?i)credential|authenti|unauthori|api key"
# The spend limit of a gateway has no documented code, but the status of a rate limit.
_MONEY_WORDS = r"(?i)(?<![a-z])(spen[dt]|spending|budget|cost limit)(?![a-z])"


def read_error(status: int, fields: FieldsLike, body: bytes, now: float | None = None) -> UpstreamError:
    """Return the error that a reply with another status than 200 means.

    `now` is the time in seconds since the epoch. Without it, a Retry-After that is a date is ignored.
    """
    ids = [_id(name, value) for name in ("cf-ray", "cf-ai-req-id") if (value := fields.get(name))]
    error = _judge(status, _faults_in_body(body), ids or ["cf-ray none"])
    wait = _parse_retry_after(fields.get("retry-after"), now)
    if wait is not None:
        error.retry_after = wait
    elif type(error) is UpstreamQuota and error.origin_code in (3036, 4006) and now is not None:
        error.retry_after = DAY - now % DAY
    return error


_INSIDE = "inside a reply"
# A reply with none of these names carries no error.
ERROR_KEYS = frozenset({"error", "errors", "success", "internalCode"})


def error_in_event(data: str) -> UpstreamError:
    """Return the error that the data of an `event: error` means. Cloudflare documents no form of it."""
    return _judge(200, _faults_in_body(data.encode("utf-8", "replace")), [_INSIDE])


def error_in_reply(reply: Mapping[str, Any]) -> UpstreamError | None:
    """Return the error that a 200, or one event of a stream, carries instead of content; None if it carries none."""
    if reply.get("error") or reply.get("errors") or reply.get("success") is False or "internalCode" in reply:
        return _judge(200, _faults(reply), [_INSIDE])
    return None


def finish_error() -> UpstreamError:
    """Return the error that the finish reason `error` means: the engine failed, and gave no reason."""
    return _error(_ENGINE_FAULT, 200, _Fault(None, ""), "finish reason error")


def _judge(status: int, faults: Sequence[_Fault], more: Sequence[str]) -> UpstreamError:
    """Return the error of the first fault whose code is known, or of the first fault, or of the status alone."""
    known = (fault for fault in faults if fault.code in _CODES)
    fault = next(known, faults[0] if faults else _Fault(None, ""))
    detail = [f"status {status}", f"code {'none' if fault.code is None else fault.code}", *more]
    return _error(_verdict(status, fault), status, fault, ", ".join(detail))


def _error(verdict: _Verdict, status: int, fault: _Fault, detail: str) -> UpstreamError:
    error = verdict.error(verdict.message, detail=detail, retry_after=verdict.wait)
    error.retryable, error.elsewhere, error.most_tries = verdict.retryable, verdict.elsewhere, verdict.most_tries
    error.origin_status, error.origin_code, error.origin_text = status, fault.code, fault.message[:LONGEST_TEXT]
    return error


def _verdict(status: int, fault: _Fault) -> _Verdict:
    code = fault.code
    if code == 3030 and re.search(_LENGTH_WORDS, fault.message):
        return _TOO_LONG
    if code == 2021 and re.search(_CREDENTIAL_WORDS, fault.message):
        return _SETUP
    if code == 2017 and status == 422:
        return _PROMPT_BLOCKED  # there it may be the reply as well: nothing tells which
    if isinstance(code, int) and code in _CODES:
        return _CODES[code]
    if 200 <= status < 300:
        # OpenAI's errors have the status as their code. Any other error under a 200 may pass.
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
    if status == 429 and re.search(_MONEY_WORDS, f"{code} {fault.message}"):
        return _BUDGET_USED_UP
    return _STATUSES.get(status, _FAULT if status >= 500 else _REFUSED)


# --- bodies --------------------------------------------------------------------------------------

_EDGE_TEXT = rb"error code: (1[0-9]{3})\n?"  # without 520 and the like, which only repeat the status
_CODE_NUMBER = r"[0-9]{1,6}"
_CODE_NAME = r"(?=.{1,40}\Z)[a-z]+(_[a-z]+)+"  # OpenAI's; a single word might be one of the user's
LONGEST_TEXT = 1000  # characters


class _Fault(NamedTuple):
    """One error as Cloudflare words it. `code` is a number if it can be one, and None if it is no code at all."""

    code: int | str | None
    message: str


def _faults_in_body(body: bytes) -> list[_Fault]:
    if edge := re.fullmatch(_EDGE_TEXT, body):
        return [_Fault(int(edge[1]), "")]
    try:
        reply = decode(body.decode())
    except (ValueError, RecursionError):
        reply = None
    if type(reply) is dict:
        return _faults(reply)
    return [_Fault(None, text_of(body))]


def text_of(body: bytes) -> str:
    """Return the beginning of a body as text, for an error's `origin_text`."""
    return body[:LONGEST_TEXT].decode("utf-8", "replace")


def _faults(reply: Mapping[str, Any]) -> list[_Fault]:
    """Return the faults of a reply.

    Workers AI and the v4 API have them in `errors`, AI Gateway in `error` as a list, OpenAI in `error` as an object.
    Otherwise the reply itself is the fault.
    """
    items = reply.get("errors") or reply.get("error") or reply
    return [_fault(item) for item in (items if type(items) is list else [items])]


def _fault(item: object) -> _Fault:
    if type(item) is not dict:
        return _Fault(None, item if isinstance(item, str) else "")
    codes = [_code(item.get(name)) for name in ("code", "internalCode")]
    code = next((code for code in codes if code in _CODES), codes[0] if codes[0] is not None else codes[1])
    messages = [item.get("message"), *_reasons(item.get("error_chain"))]
    return _Fault(code, ": ".join(message for message in messages if isinstance(message, str)))


def _code(value: object) -> int | str | None:
    if type(value) is int:
        return value if 0 <= value < 1_000_000 else None
    if type(value) is str and re.fullmatch(_CODE_NUMBER, value):
        return int(value)
    return value if type(value) is str and re.fullmatch(_CODE_NAME, value) else None


def _reasons(chain: object) -> list[object]:
    """Return the messages of an `error_chain`: what led to an error of the v4 API."""
    return [link.get("message") for link in chain if type(link) is dict] if type(chain) is list else []


# A ray, and what other ids look like. An account's id, 32 digits in a row, does not.
_ID = r"[0-9a-f]{1,20}(-[A-Z]{3})?|[0-9a-f]{1,12}(-[0-9a-f]{1,12}){1,5}"


def _id(name: str, value: str) -> str:
    return f"{name} {value if re.fullmatch(_ID, value) else 'malformed'}"


# --- Retry-After ---------------------------------------------------------------------------------

_SECONDS = r"[0-9]{1,9}"
# IMF-fixdate (RFC 9110 §5.6.7). The parser takes years below 100 for the 20th or 21st century.
_DATE = r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} (?!00)[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"


def _parse_retry_after(value: str | None, now: float | None) -> float | None:
    """Return the seconds to wait (RFC 9110 §10.2.3); None if the value is neither seconds nor an IMF-fixdate."""
    if value is None:
        return None
    if re.fullmatch(_SECONDS, value):
        return float(value)
    if now is None or not re.fullmatch(_DATE, value):
        return None
    from email.utils import parsedate_to_datetime  # few servers ever need it

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None
