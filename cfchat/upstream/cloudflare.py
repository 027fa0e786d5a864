"""Workers AI's requests: models and what is known of them, paths, the body of a POST, the list of models. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from cfchat.conversation import Conversation, Message, Options, without_surrogates
from cfchat.errors import UpstreamProtocolError

# --- models --------------------------------------------------------------------------------------

_GEMMA = "@cf/google/gemma-4-26b-a4b-it"
_GLM = "@cf/zai-org/glm-4.7-flash"
DEFAULT_MODEL = _GEMMA
# Asked in this order where the default fails; the second runs on another engine.
FALLBACK_MODELS = (_GLM, "@cf/meta/llama-3.1-8b-instruct-fast")

# Thinking is on unless switched off, and eats max_tokens. Some models refuse fields that they do not know.
_NO_THINKING: Mapping[str, object] = {"chat_template_kwargs": {"enable_thinking": False}}
MODEL_FIELDS: Mapping[str, Mapping[str, object]] = {
    _GEMMA: _NO_THINKING,
    _GLM: _NO_THINKING,
}

# Tokens, input and reply together (developers.cloudflare.com/workers-ai/models).
_WINDOWS: Mapping[str, int] = {
    _GEMMA: 256_000,
    _GLM: 131_072,
    "@cf/ibm-granite/granite-4.0-h-micro": 131_000,
    "@cf/meta/llama-3.1-8b-instruct-fp8-fast": 128_000,
    "@cf/meta/llama-3.1-8b-instruct-fp8": 32_000,
    "@cf/meta/llama-3.2-1b-instruct": 60_000,
    "@cf/meta/llama-3.2-3b-instruct": 80_000,
    "@cf/meta/llama-3.3-70b-instruct-fp8-fast": 24_000,
    "@cf/meta/llama-4-scout-17b-16e-instruct": 131_000,
    "@cf/mistralai/mistral-small-3.1-24b-instruct": 128_000,
    "@cf/qwen/qwen3-30b-a3b-fp8": 32_000,
    "@cf/qwen/qwq-32b": 24_000,
    "@cf/qwen/qwen2.5-coder-32b-instruct": 32_000,
    "@cf/qwen/qwen3.8-27b": 262_000,
    "@cf/openai/gpt-oss-20b": 128_000,
    "@cf/openai/gpt-oss-120b": 128_000,
    "@cf/nvidia/nemotron-3-120b-a12b": 256_000,
    "@cf/aisingapore/gemma-sea-lion-v4-27b-it": 128_000,
    "@cf/deepseek-ai/deepseek-r1-distill-qwen-32b": 80_000,
}

_Ranges = Mapping[str, tuple[float, float]]
_NEWER: _Ranges = {
    "max_tokens": (1, 1_000_000),
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (1, 50),
    "seed": (1, 9_999_999_999),
    "repetition_penalty": (0, 2),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
}
_CLASSIC: _Ranges = {**_NEWER, "temperature": (0, 5), "frequency_penalty": (0, 2), "presence_penalty": (0, 2)}
_WIDEST: _Ranges = {**_NEWER, "temperature": (0, 5)}
_CLASSIC_NAMES = re.compile(r"@cf/(meta|mistralai|mistral|deepseek-ai)/.*|@cf/qwen/(qwq|qwen1|qwen2).*|@hf/.*")
# These make it run into a timeout (cloudflare/langchain-cloudflare#30).
_NOT_TAKEN: Mapping[str, frozenset[str]] = {_GLM: frozenset({"top_k", "repetition_penalty"})}
# Of what OpenAI's API knows, these are in the classic schema, too.
_CLASSIC_PASSED = frozenset({"tools", "response_format"})
_THINKS_FIRST = re.compile(r"@cf/deepseek-ai/deepseek-r1-distill.*|@cf/qwen/qwq.*")


@lru_cache(maxsize=64)
def ranges(model: str | None) -> Mapping[str, tuple[float, float]]:
    """The options of a reply, and from what to what each may go; the widest where no model is named.

    The classic models take other numbers than the newer ones (developers.cloudflare.com/workers-ai/models).
    """
    if model is None:
        return _WIDEST
    known = _CLASSIC if _CLASSIC_NAMES.fullmatch(model) else _NEWER
    without = _NOT_TAKEN.get(model, frozenset())
    return {name: known[name] for name in known if name not in without} if without else known


def takes(model: str | None, name: str) -> bool:
    """Whether the model takes this body field, one of those that are passed on as they are; the widest for None."""
    return model is None or name in _CLASSIC_PASSED or not _CLASSIC_NAMES.fullmatch(model)


def window(model: str) -> int | None:
    """How many tokens a conversation and its reply may have together, where that is documented."""
    return _WINDOWS.get(model)


@lru_cache(maxsize=64)
def thinks_first(model: str) -> bool:
    """Whether the model begins with its thoughts in the text, and leaves out the opening tag."""
    return _THINKS_FIRST.fullmatch(model) is not None


_MODEL_NAME = re.compile(r"@(cf|hf)/[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
_ACCOUNT_ID = re.compile(r"[0-9a-fA-F]{32}")
_TOKEN = re.compile(r"[!#-&(-~]+")  # visible ASCII without quotes, which are pasted along at times


# json.dumps with arguments builds an encoder each time.
_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


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


def models_path(base_path: str, account: str) -> str:
    """The free list of the account's models for text; it is one page, whatever one asks for."""
    return f"{base_path.rstrip('/')}/accounts/{account}/ai/models/search?task=Text%20Generation"


def encode_request(
    conversation: Conversation,
    model: str,
    max_tokens: int,
    *,
    extra: Mapping[str, object] | None = None,
    reject_if_busy: bool = False,
) -> bytes:
    """The body of the POST. Classic models stop at 256 tokens unless max_tokens is sent.

    `extra` are further fields for this model, by default those known to be good for it; `reject_if_busy` asks
    Cloudflare to refuse at once in place of queueing (developers.cloudflare.com/workers-ai/features/reject-if-busy).
    """
    body: dict[str, object] = dict(MODEL_FIELDS.get(model, {}) if extra is None else extra)
    body |= _options(conversation.options, model)
    body |= _passed(conversation.passed, model)
    body |= {
        "messages": [_message(message) for message in conversation.messages],
        # JSON mode cannot be streamed (developers.cloudflare.com/workers-ai/features/json-mode).
        "stream": "response_format" not in body,
        "max_tokens": max_tokens,
    }
    if reject_if_busy:
        own = body.get("options")
        body["options"] = {**(own if isinstance(own, dict) else {}), "rejectIfBusy": True}
    text = _encode_json(body)
    return without_surrogates(text).encode()


def _options(options: Options, model: str) -> dict[str, object]:
    """What the client asked for, as far as this model takes it: it may be another than the client had in mind."""
    return {
        name: min(max(asked, low), high)
        for name, (low, high) in ranges(model).items()
        if (asked := getattr(options, name)) is not None
    }


def _passed(passed: Mapping[str, object], model: str) -> dict[str, object]:
    """What this model takes of it. The classic schema wants the schema of a JSON reply bare."""
    fields = {name: value for name, value in passed.items() if takes(model, name)}
    wanted: Any = fields.get("response_format")
    if wanted and wanted["type"] == "json_schema" and _CLASSIC_NAMES.fullmatch(model):
        fields["response_format"] = {"type": "json_schema", "json_schema": wanted["json_schema"]["schema"]}
    return fields


def _message(message: Message) -> dict[str, object]:
    told: dict[str, object] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        told["tool_calls"] = message.tool_calls
    if message.tool_call_id:
        told["tool_call_id"] = message.tool_call_id
    return told


# --- the list of models --------------------------------------------------------------------------


_TOKENS = re.compile(r"[0-9]{1,9}")


class Model(NamedTuple):
    """What the list says of a model. `window` is in tokens, prices are US$ for a million tokens in and out."""

    name: str
    window: int | None = None
    price_in: float | None = None
    price_out: float | None = None
    deprecation: str = ""  # the day on which it is planned to be removed
    paid: bool = False  # on the Workers Paid plan only
    reasoning: bool = False
    functions: bool = False


def read_models(body: bytes) -> list[Model]:
    """The text models in the reply to GET models/search. Raises UpstreamProtocolError where it is something else."""
    try:
        found = json.loads(body)["result"]
        listed = [item for item in found if item["task"]["name"] == "Text Generation"]
        return [_model(item["name"], item.get("properties") or ()) for item in listed]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        reason = f"list of models: {body[:200]!r}"
        raise UpstreamProtocolError("The model's server sent nonsense.", detail=reason) from error


def _model(name: str, properties: Any) -> Model:
    told = {item["property_id"]: item["value"] for item in properties}
    prices = {item["unit"]: item["price"] for item in told.get("price") or ()}
    return Model(
        str(name),
        _window(told.get("context_window")),
        _price(prices.get("per M input tokens")),
        _price(prices.get("per M output tokens")),
        str(told.get("planned_deprecation_date") or "")[:10],
        _is_true(told.get("require_workers_paid")),
        _is_true(told.get("reasoning")),
        _is_true(told.get("function_calling")),
    )


def _window(value: object) -> int | None:
    text = str(value)  # the list has numbers as strings
    return int(text) if _TOKENS.fullmatch(text) else None


def _price(value: object) -> float | None:
    return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]


def _is_true(value: object) -> bool:
    return value is True or value == "true"
