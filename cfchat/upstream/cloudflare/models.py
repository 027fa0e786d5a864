"""What is known of Workers AI's models before any is asked. Pure.

Tables hold what Cloudflare documents and what its forums report: windows, ranges of options, fields that a model needs
or cannot take. Models that are not in a table are judged by the pattern of their name: the older "classic" ones have
another schema than the newer ones. A name that fits no pattern counts as a newer model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

_GEMMA = "@cf/google/gemma-4-26b-a4b-it"
_GLM = "@cf/zai-org/glm-4.7-flash"
DEFAULT_MODEL = _GEMMA
# Asked in this order if the default model fails. The second one runs on another engine.
FALLBACK_MODELS = (_GLM, "@cf/meta/llama-3.1-8b-instruct-fast")
# These models think unless it is switched off, and thinking uses up max_tokens. Other models may refuse the field.
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
CLASSIC_NAMES = re.compile(r"@cf/(meta|mistralai|mistral|deepseek-ai)/.*|@cf/qwen/(qwq|qwen1|qwen2).*|@hf/.*")
# GLM runs into a timeout with these (cloudflare/langchain-cloudflare#30).
_NOT_TAKEN: Mapping[str, frozenset[str]] = {_GLM: frozenset({"top_k", "repetition_penalty"})}
_NOT_OF_OPENAI = frozenset({"top_k", "repetition_penalty"})  # a route may lead to a model of another provider
# The fields of OpenAI's API that the classic schema has, too.
_CLASSIC_PASSED = frozenset({"tools", "response_format"})
# Models whose template has the opening tag, so that their text begins behind it.
_THINKS_FIRST = re.compile(r"@.*/(deepseek-r[0-9]|qwq).*|@.*-thinking.*")
# Models whose templates take only user and assistant in turns, the user first, and fail with "Conversation roles must
# alternate" (vllm-project/vllm#6862, google/adk-python#1373).
_ALTERNATE = re.compile(r"@.*/(gemma-([23]|7b|sea-lion)|mistral-|mixtral-|llama-2-).*")


@lru_cache(maxsize=64)
def ranges(model: str | None) -> Mapping[str, tuple[float, float]]:
    """Return the options that a model takes, each with its lowest and highest value. None: the widest of all models.

    Source: the schemas on developers.cloudflare.com/workers-ai/models.
    """
    if model is None:
        return _WIDEST
    known = _CLASSIC if CLASSIC_NAMES.fullmatch(model) else _NEWER
    without = _NOT_OF_OPENAI if is_route(model) else _NOT_TAKEN.get(model, frozenset())
    return {name: known[name] for name in known if name not in without} if without else known


def takes(model: str | None, name: str) -> bool:
    """Return whether a model takes this body field, one that is passed on unchanged. None: whether any model does."""
    if model is not None and is_search(model):
        return False
    return model is None or name in _CLASSIC_PASSED or not CLASSIC_NAMES.fullmatch(model)


# Models that take images beside the text, each as a data: URL. The last one is the stand-in of the demo.
_SEES = re.compile(
    r"@cf/(google/gemma-4-|meta/llama-4-|mistralai/mistral-small-3\.1-|qwen/qwen3\.8-27b|zai-org/glm-5\.3-flash|"
    r"moonshotai/kimi-k2\.[67]|demo/).*"
)


@lru_cache(maxsize=64)
def sees(model: str) -> bool:
    """Return whether the model is known to take images. The account's list may name more.

    Which models a route leads to is the operator's choice, who has allowed images, too.
    """
    return _SEES.fullmatch(model) is not None or is_route(model)


def window_of(model: str) -> int | None:
    """Return how many tokens a conversation and its reply may have together; None if Cloudflare documents no number."""
    return _WINDOWS.get(model)


@lru_cache(maxsize=64)
def needs_turns(model: str) -> bool:
    """Return whether the model fails if two neighbours have one role, or the assistant begins."""
    return _ALTERNATE.fullmatch(model) is not None


@lru_cache(maxsize=64)
def thinks_first(model: str) -> bool:
    """Return whether the model may begin its text with reasoning, and leave out the opening tag."""
    return _THINKS_FIRST.fullmatch(model) is not None


# How much a model is asked to think (OpenAI's `reasoning_effort`), and the models that can be asked: these switch it on
# or off, gpt-oss always thinks and knows three degrees, and the classic ones that do not think can only go on so.
EFFORTS = ("none", "minimal", "low", "medium", "high")
_SWITCHED = re.compile(r"@cf/(google/gemma-4|zai-org/glm-|qwen/qwen3|nvidia/nemotron-3|moonshotai/kimi-).*")
_DEGREES = re.compile(r"@cf/openai/gpt-oss-.*")


@lru_cache(maxsize=64)
def efforts(model: str) -> tuple[str, ...]:
    """Return how much a model can be asked to think."""
    if _SWITCHED.fullmatch(model):
        return EFFORTS
    if _DEGREES.fullmatch(model):
        return EFFORTS[1:]
    return EFFORTS[:1] if CLASSIC_NAMES.fullmatch(model) and not thinks_first(model) else ()


def effort_fields(model: str, effort: str) -> dict[str, object]:
    """Return the body fields that ask a model to think so much; none if it cannot be asked."""
    if _SWITCHED.fullmatch(model):
        switch = "thinking" if "/kimi-" in model else "enable_thinking"
        return {"chat_template_kwargs": {switch: effort != "none"}}
    if _DEGREES.fullmatch(model) and effort != "none":
        return {"reasoning_effort": "low" if effort == "minimal" else effort}
    return {}


# An instance of AI Search is asked in place of a model, so it has a name among them: `ai-search/NAME`, or
# `ai-search/NAMESPACE/NAME`. None of the patterns above fits it: AI Search itself knows the model that it asks.
SEARCH = "ai-search/"
_SEARCH_NAME = re.compile(SEARCH + r"(?:[a-z0-9_-]{1,64}/)?[a-z0-9_-]{1,64}")


def is_search(name: str) -> bool:
    """Return whether a name is that of an instance of AI Search, and may be put into a path without escaping."""
    return _SEARCH_NAME.fullmatch(name) is not None


_MODEL_NAME = re.compile(r"@(cf|hf)/[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")
# A dynamic route of the gateway, and Cloudflare's Auto Router (developers.cloudflare.com/ai-gateway/features).
_ROUTE = re.compile(r"dynamic/[A-Za-z0-9._-]{1,100}|cloudflare/auto")


def is_model_name(name: str) -> bool:
    """Return whether a name is a model's, which may be put into a path without escaping, or a route's."""
    return (_MODEL_NAME.fullmatch(name) is not None and ".." not in name) or is_route(name)


def may_be_listed(name: str) -> bool:
    """Return whether the account's list of models can have a name. It has no route and no instance of AI Search."""
    return _MODEL_NAME.fullmatch(name) is not None


def is_route(name: str) -> bool:
    """Return whether AI Gateway chooses the model behind this name, for each request."""
    return _ROUTE.fullmatch(name) is not None
