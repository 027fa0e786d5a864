"""Workers AI's JSON: request body, stream events -> Delta, error replies -> errors. Pure.

Two dialects, the classic `{"response": "..."}` and OpenAI's chunks, meet in one reply: each event is judged
by itself. A token that happens to be JSON arrives as a number or boolean, so text is not always a string. An
error is judged by Cloudflare's own code first and by the HTTP status second: a junk token is a 400, and a 200
can carry an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, NoReturn, Protocol

from cfchat.chat import Conversation, Delta, without_surrogates
from cfchat.errors import (
    ContextLengthExceeded,
    UpstreamAuthError,
    UpstreamEmpty,
    UpstreamError,
    UpstreamInterrupted,
    UpstreamModelGone,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from cfchat.wire.sse import Event

DEFAULT_MODEL = "@cf/google/gemma-4-26b-a4b-it"

# Thinking is on unless switched off, and eats max_tokens. Some models refuse fields that they do not know.
_NO_THINKING: Mapping[str, object] = {"chat_template_kwargs": {"enable_thinking": False}}
MODEL_FIELDS: Mapping[str, Mapping[str, object]] = {
    "@cf/google/gemma-4-26b-a4b-it": _NO_THINKING,
    "@cf/zai-org/glm-4.7-flash": _NO_THINKING,
}

_MODEL_NAME = re.compile(r"@(cf|hf)/[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
_ACCOUNT_ID = re.compile(r"[0-9a-fA-F]{32}")
_TOKEN = re.compile(r"[!#-&(-~]+")  # visible ASCII without quotes, which are pasted along at times


# --- the request ---------------------------------------------------------------------------------


def is_model_name(name: str) -> bool:
    """Whether a name may be put into a path as it is."""
    return _MODEL_NAME.fullmatch(name) is not None and ".." not in name


def is_account_id(text: str) -> bool:
    return _ACCOUNT_ID.fullmatch(text) is not None


def is_token(text: str) -> bool:
    """Whether it could be an API token: a newline or a quote pasted along makes Cloudflare answer 6003."""
    return _TOKEN.fullmatch(text) is not None


def run_path(base_path: str, account: str, model: str) -> str:
    """`@` and slashes of the model's name stay as they are, as in Cloudflare's own examples."""
    return f"{base_path.rstrip('/')}/accounts/{account}/ai/run/{model}"


def encode_request(conversation: Conversation, model: str, max_tokens: int) -> bytes:
    """The body of the POST. Classic models stop at 256 tokens unless max_tokens is sent."""
    body = {
        "messages": [{"role": message.role, "content": message.content} for message in conversation.messages],
        "stream": True,
        "max_tokens": max_tokens,
        **MODEL_FIELDS.get(model, {}),
    }
    return without_surrogates(_compact(body)).encode()


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


# --- one event of a reply ------------------------------------------------------------------------


class _Literal(str):
    """A number as it was written: `3.10` and integers of twenty digits survive."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


# Few events hold a number as text, so only those are read once more with literals: a Python call for each
# number of each event costs more. (json.loads with arguments would even build a decoder per event.)
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
_decode_literals = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_int=_Literal, parse_float=_Literal
).decode


class _Said(NamedTuple):
    """What one event says, whichever dialect it speaks; the values are as JSON gave them."""

    text: Any = None
    finish: Any = None
    usage: Any = None
    reasoning: Any = None
    tool_calls: Any = None


_Shape = Callable[[Any], _Said | None]
_KEYS = frozenset({"response", "choices", "usage", "tool_calls", "finish_reason"})


def _said_in_event(reply: dict[str, Any]) -> _Said | None:
    """None for an event that is of neither dialect."""
    choices = reply.get("choices")
    if choices:
        return _said_in_choices(choices, reply)
    if reply.keys().isdisjoint(_KEYS):
        return None
    return _Said(
        reply.get("response"),
        reply.get("finish_reason"),
        reply.get("usage"),
        tool_calls=reply.get("tool_calls"),
    )


def _said_in_choices(choices: Any, reply: dict[str, Any]) -> _Said | None:
    choice = choices[0] if type(choices) is list else None
    if type(choice) is not dict:
        return None
    delta = choice.get("delta", {})
    if type(delta) is not dict:
        return None
    return _Said(
        delta.get("content"),
        choice.get("finish_reason"),
        reply.get("usage"),
        delta.get("reasoning_content") or delta.get("reasoning"),
        delta.get("tool_calls"),
    )


def _said_in_whole(reply: dict[str, Any]) -> _Said | None:
    """A reply that was not streamed: with an envelope or bare; classic, chat completion, or responses."""
    result = reply.get("result", reply)
    if type(result) is not dict:
        return None
    if type(result.get("output")) is list:
        return _Said("".join(_output_texts(result["output"])), usage=result.get("usage"))
    choices = result.get("choices")
    if type(choices) is list and choices and type(choices[0]) is dict:
        result = {**result, "choices": [{**choices[0], "delta": choices[0].get("message")}]}
    # A success with nothing in it is an empty answer, not nonsense.
    return _said_in_event(result) or (_Said() if "result" in reply else None)


def _output_texts(output: list[Any]) -> Iterator[str]:
    for item in output:
        # A reasoning item has content too, and it is not for the user.
        if type(item) is dict and item.get("type", "message") == "message":
            for part in item.get("content") or ():
                if type(part) is dict and type(part.get("text")) is str:
                    yield part["text"]


class _Joiner:
    """Joins surrogates that were torn over events; what stays alone becomes U+FFFD."""

    def __init__(self) -> None:
        self._held = ""

    def join(self, text: str) -> str:
        if not self._held and text.isascii():
            return text
        text = self._held + text
        self._held = ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        # UTF-16 is what makes a pair one character; "replace" would be "?" when encoding.
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text

    def flush(self) -> str:
        held, self._held = self._held, ""
        return "\ufffd" if held else ""


# --- one streamed reply --------------------------------------------------------------------------

# As Cloudflare's own client maps them; all others count as "stop".
_FINISH_REASONS = {
    "length": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "other": "other",
    "unknown": "other",
}
_NO_BLANK_AFTER = frozenset(" \t\n\r\f\v([{<\"'`«„“‘‚")


class ReplyReader:
    """The state of one streamed reply: events in, deltas out.

    `done` means that nothing more is to be read: [DONE] was seen, or an error that close() raises.
    """

    def __init__(self, max_tokens: int) -> None:
        self.done = False
        self.text_seen = False
        self.passed_over = 0
        self.finish_reason: str | None = None
        self._max_tokens = max_tokens
        self._shape: _Shape = _said_in_event
        self._usage: dict[str, Any] | None = None
        self._total = 0.0
        self._text = _Joiner()
        self._reasoning = _Joiner()
        self._last = ""  # the last character of the text so far
        self._thought = False
        self._called_tools = False
        self._error: UpstreamError | None = None

    @property
    def usage(self) -> Mapping[str, object] | None:
        """The usage with the largest total; counts only."""
        return None if self._usage is None else _counts(self._usage)

    def read(self, events: Sequence[Event]) -> list[Delta]:
        """The deltas of these events.

        Raises the UpstreamError that an event reports; where deltas came before it, the next call does.
        """
        deltas: list[Delta] = []
        for event in events:
            if self.done:
                break
            delta = self._read_event(event)
            if delta is not None:
                deltas.append(delta)
        if self._error is not None and not deltas:
            raise self._error
        return deltas

    def close(self, pending: Event | None) -> list[Delta]:
        """The body has ended, perhaps inside `pending`, which counts if it is whole.

        Raises UpstreamInterrupted where the reply is not complete, or the UpstreamError of an event.
        """
        deltas = [] if pending is None else self.read([pending])
        if self._error is not None:
            raise self._error
        if not self.done and self.finish_reason is None:
            raise UpstreamInterrupted("The reply was interrupted.", detail="the stream ended without [DONE]")
        return [*deltas, self._last_delta()]

    def empty_error(self) -> UpstreamEmpty:
        """Why a complete reply has no text: hidden thinking is billed and cut by max_tokens all the same."""
        if self.finish_reason == "length":
            message = "The model used its whole budget thinking; a larger max_tokens may help."
        elif self._thought:
            message = "The model thought about it, but gave no answer."
        elif self._called_tools:
            message = "The model called a tool instead of answering."
        else:
            message = "The model gave an empty answer."
        reason, usage = self.finish_reason, self.usage
        return UpstreamEmpty(
            message, detail=f"finish reason {reason}, usage {usage}, passed over {self.passed_over}"
        )

    def _read_event(self, event: Event) -> Delta | None:
        data = event.data
        if event.event == "error":
            self._fail(_read_error_event(data))
            return None
        if data[:1] != "{":
            data = data.strip()
        if data == "[DONE]":
            self.done = True
            return None
        try:
            reply = _decode(data)
            if type(reply) is dict:
                return self._read_reply(reply, data)
        except (ValueError, RecursionError):
            pass
        self.passed_over += 1
        return None

    def _read_reply(self, reply: dict[str, Any], data: str) -> Delta | None:
        if _is_error(reply):
            self._fail(_judge(200, _faults(reply)))
            return None
        said = self._shape(reply)
        if said is None:
            self.passed_over += 1
            return None
        if said.finish:
            self._finish(said.finish)
        if said.usage:
            self._keep_usage(said.usage)
        return self._say(said, data)

    def _say(self, said: _Said, data: str) -> Delta | None:
        words = said.text if type(said.text) is str else self._words(said.text, data)
        if words:
            self.text_seen = True
            self._last = words[-1]
            words = self._text.join(words)
        thought = self._think(said.reasoning) if said.reasoning else ""
        self._called_tools |= bool(said.tool_calls)
        return Delta(words, reasoning=thought) if words or thought else None

    def _think(self, thought: object) -> str:
        self._thought = True
        return self._reasoning.join(thought) if isinstance(thought, str) else ""

    def _words(self, value: object, data: str) -> str:
        """Text that is no string: a token that is valid JSON arrives as that JSON."""
        if value is None:
            return ""
        if value is True or value is False:
            word = "true" if value else "false"
            # The blank before a word is lost; numbers keep theirs as an event of its own.
            return (
                word
                if not self._last or self._last in _NO_BLANK_AFTER or self._last.isspace()
                else f" {word}"
            )
        if isinstance(value, (int, float)):
            said = self._shape(_decode_literals(data))
            return "" if said is None else str(said.text)
        return _compact(value)

    def _finish(self, reason: object) -> None:
        if reason == "error":
            self._fail(
                UpstreamUnavailable("The model failed, please try again.", detail="finish reason error")
            )
        self.finish_reason = _FINISH_REASONS.get(reason, "stop") if isinstance(reason, str) else "stop"

    def _keep_usage(self, usage: object) -> None:
        # Several events carry usage, some are increments, the last may be zeros: the largest is the total.
        if type(usage) is dict and (total := _total(usage)) > self._total:
            self._usage, self._total = usage, total

    def _last_delta(self) -> Delta:
        if self.finish_reason is None:
            # The classic dialect has no finish reason.
            spent = _count(self._usage or {}, "completion_tokens", "output_tokens")
            self.finish_reason = "length" if spent >= self._max_tokens else "stop"
        return Delta(self._text.flush(), self.finish_reason, self.usage, self._reasoning.flush())

    def _fail(self, error: UpstreamError) -> None:
        self._error = error
        self.done = True


def read_json_reply(body: bytes, max_tokens: int) -> list[Delta]:
    """The deltas of a reply that was not streamed although it was asked for so.

    Raises the UpstreamError that it reports under its 200, UpstreamProtocolError where it has none of the
    known shapes, and UpstreamEmpty.
    """
    reader = ReplyReader(max_tokens)
    reader._shape = _said_in_whole
    deltas = reader.read([Event(body.decode("utf-8", "replace").removeprefix("\ufeff"))])
    if reader.passed_over:
        raise UpstreamProtocolError("The model's server sent nonsense.", detail=f"reply {_printable(body)}")
    reader.done = True
    deltas += reader.close(None)
    if not reader.text_seen:
        raise reader.empty_error()
    return deltas


def _is_count(value: object) -> bool:
    """`1e999` is an infinity in Python and nothing in JSON."""
    return type(value) in (int, float) and 0 <= value < 1e15  # type: ignore[operator]


def _count(usage: Mapping[str, Any], *names: str) -> float:
    """The first of these that is a count, or 0."""
    return next((usage[name] for name in names if _is_count(usage.get(name))), 0)


def _total(usage: Mapping[str, Any]) -> float:
    if _is_count(usage.get("total_tokens")):
        return float(usage["total_tokens"])
    return _count(usage, "prompt_tokens", "input_tokens") + _count(
        usage, "completion_tokens", "output_tokens"
    )


def _counts(usage: Mapping[str, Any]) -> dict[str, object]:
    """The counts, also those one level down; nothing else, as this goes out again as JSON."""
    kept: dict[str, object] = {}
    for name, value in usage.items():
        if type(value) is dict:
            kept[name] = {key: count for key, count in value.items() if _is_count(count)}
        elif _is_count(value):
            kept[name] = value
    return kept


# --- errors --------------------------------------------------------------------------------------


class FieldsLike(Protocol):
    """`Fields`, or a dict with lower-case names."""

    def get(self, name: str, /) -> str | None: ...


@dataclass(frozen=True, slots=True)
class _Verdict:
    error: type[UpstreamError]
    message: str
    retryable: bool = False


_REFUSED = _Verdict(UpstreamRefused, "The model refused the request.")
_GONE = _Verdict(UpstreamModelGone, "The model is not available.")
_TOO_LONG = _Verdict(ContextLengthExceeded, "The conversation is too long.")
_SETUP = _Verdict(UpstreamAuthError, "The server is not set up correctly.")
_BLOCKED_ACCOUNT = _Verdict(UpstreamAuthError, "The assistant is not available.")
_SLOW = _Verdict(UpstreamTimeout, "The model took too long to answer.", retryable=True)
_TOO_SLOW = _Verdict(UpstreamTimeout, "The model took too long to answer.")
_DAY_USED_UP = _Verdict(UpstreamQuota, "The daily limit is used up. It resets at 00:00 UTC.")
_BUDGET_USED_UP = _Verdict(UpstreamQuota, "The budget is used up.")
_BUSY = _Verdict(UpstreamOverloaded, "The assistant is busy, please try again.", retryable=True)
_TOO_MANY = _Verdict(UpstreamRateLimited, "Too many requests, please wait a moment.", retryable=True)
_FAULT = _Verdict(UpstreamUnavailable, "The assistant had a fault, please try again.", retryable=True)
_PROMPT_BLOCKED = _Verdict(UpstreamRefused, "This message was blocked.")
_REPLY_BLOCKED = _Verdict(UpstreamRefused, "The reply was blocked.")

# Workers AI 3xxx, 5xxx and 8xxx; v4 API 971, 1000, 6003, 7xxx, 9xxx and 10000; AI Gateway 2xxx; edge 1015.
# 4006 is what is sent where the documentation says 3036.
_CODES: Mapping[int, _Verdict] = {
    **dict.fromkeys((3003, 3030, 3039, 5004, 5005, 5006, 5012, 5019, 5025, 8001, 8006), _REFUSED),
    **dict.fromkeys((3042, 5007, 5016, 5018, 5028, 5035), _GONE),
    **dict.fromkeys((3006, 5021), _TOO_LONG),
    **dict.fromkeys((1000, 2001, 2009, 6003, 7000, 7003, 9106, 9109, 10000), _SETUP),
    **dict.fromkeys((3023, 3041), _BLOCKED_ACCOUNT),
    **dict.fromkeys((3007, 3008), _SLOW),
    3046: _TOO_SLOW,
    **dict.fromkeys((3036, 4006), _DAY_USED_UP),
    2045: _BUDGET_USED_UP,
    **dict.fromkeys((2018, 2021, 3040), _BUSY),
    **dict.fromkeys((971, 1015, 2003, 3021), _TOO_MANY),
    **dict.fromkeys((3043, 8004, 8005), _FAULT),
    2016: _PROMPT_BLOCKED,
    2017: _REPLY_BLOCKED,
}
# The statuses that say more than their class does.
_STATUSES: Mapping[int, _Verdict] = {
    **dict.fromkeys((401, 403), _SETUP),
    408: _SLOW,
    410: _GONE,
    413: _TOO_LONG,
    425: _FAULT,
    429: _TOO_MANY,
    **dict.fromkeys((504, 524), _SLOW),
}
# 3030 also carries refusals that have nothing to do with length.
_LENGTH_WORDS = re.compile(r"context|too long|tokens|sequence", re.IGNORECASE)
_EDGE_TEXT = re.compile(rb"error code: (1[0-9]{3})\n?")  # 520 and the like are only the status once more
_CODE_DIGITS = re.compile(r"[0-9]{1,6}")
_SECONDS = re.compile(r"[0-9]{1,9}")
_DATE = re.compile(
    r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class _Fault:
    """One error as Cloudflare words it: for the log, as it holds ids. `code` is a number where possible."""

    code: int | str | None
    message: str


def read_error(status: int, fields: FieldsLike, body: bytes, now: float | None = None) -> UpstreamError:
    """What a reply that is no answer means. `now` (epoch seconds) is for a Retry-After that is a date."""
    error = _judge(status, _faults_in_body(body), fields.get("cf-ray"))
    error.retry_after = _retry_after(fields.get("retry-after"), now)
    return error


def _is_error(reply: dict[str, Any]) -> bool:
    return bool(reply.get("error") or reply.get("errors")) or reply.get("success") is False


def _read_error_event(data: str) -> UpstreamError:
    """`event: error` has no form that is documented."""
    return _judge(200, _faults_in_body(data.encode("utf-8", "replace")))


def _faults_in_body(body: bytes) -> list[_Fault]:
    if edge := _EDGE_TEXT.fullmatch(body):
        return [_Fault(int(edge[1]), "")]
    try:
        reply = _decode(body.decode())
    except (ValueError, RecursionError):
        reply = None
    if type(reply) is dict:
        return _faults(reply)
    return [_Fault(None, body[:1000].decode("utf-8", "replace"))]


def _faults(reply: dict[str, Any]) -> list[_Fault]:
    """`errors` of Workers AI and the v4 API, `error` of AI Gateway (a list) and OpenAI, or the reply."""
    found = reply.get("errors") or reply.get("error") or reply
    return [_fault(item) for item in (found if type(found) is list else [found])]


def _fault(item: object) -> _Fault:
    if type(item) is not dict:
        return _Fault(None, item if isinstance(item, str) else "")
    code, message = item.get("code", item.get("internalCode")), item.get("message")
    if isinstance(code, str) and _CODE_DIGITS.fullmatch(code):
        code = int(code)
    if type(code) not in (int, str):
        code = None
    return _Fault(code, message if isinstance(message, str) else "")


def _judge(status: int, faults: Sequence[_Fault], ray: str | None = None) -> UpstreamError:
    """Cloudflare's code first, then the status."""
    known = (fault for fault in faults if fault.code in _CODES)
    fault = next(known, faults[0] if faults else _Fault(None, ""))
    verdict = _verdict(status, fault)
    detail = f"status {status}, code {_printable(str(fault.code))}, {_printable(fault.message)}"
    error = verdict.error(verdict.message, detail=f"{detail}, cf-ray {_printable(ray or 'none')}")
    error.retryable = verdict.retryable
    return error


def _verdict(status: int, fault: _Fault) -> _Verdict:
    code = fault.code
    if code == 3030 and _LENGTH_WORDS.search(fault.message):
        return _TOO_LONG
    if isinstance(code, int) and code in _CODES:
        return _CODES[code]
    if 200 <= status < 300:
        # OpenAI's shape has the status as its code; otherwise it may well be a passing fault.
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return _STATUSES.get(status, _FAULT if status >= 500 else _REFUSED)


def _printable(text: str | bytes) -> str:
    """The start of what a stranger wrote, fit for one line of a log."""
    if isinstance(text, bytes):
        text = text[:1000].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else " " for char in text[:300])


def _retry_after(value: str | None, now: float | None) -> float | None:
    """RFC 9110 §10.2.3: seconds, or a date (IMF-fixdate only). None where it is neither."""
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        return float(value)
    date = _DATE.fullmatch(value)
    if date is None or now is None or date[2] not in _MONTHS:
        return None
    year, month, day = int(date[3]), _MONTHS.index(date[2]) + 1, int(date[1])
    try:
        moment = datetime(year, month, day, int(date[4]), int(date[5]), int(date[6]), tzinfo=UTC)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - now)
