"""What is known of models: names, ranges of options, fields, windows."""

from __future__ import annotations

import pytest

from cfchat.upstream.cloudflare.models import (
    DEFAULT_MODEL,
    EFFORTS,
    FALLBACK_MODELS,
    efforts,
    is_model_name,
    is_search,
    needs_turns,
    ranges,
    sees,
    takes,
    thinks_first,
    window_of,
)

GEMMA, GLM, LLAMA = DEFAULT_MODEL, *FALLBACK_MODELS

@pytest.mark.parametrize(
    ("name", "good"),
    [
        (DEFAULT_MODEL, True),
        ("@hf/nous/x_y.z-1", True),
        ("@cf/meta", False),
        ("@cf/meta/a/b", False),
        ("@cf/../x", False),
        ("@cf/a/b..c", False),
        ("@cf/a/b\n", False),
        ("@cf/a/b?c", False),
        ("@cf/a/ü", False),
        ("@xx/a/b", False),
        ("dynamic/support-chat", True),
        ("dynamic/a/b", False),
        ("dynamic/", False),
        ("dynamic/a b", False),
        ("cloudflare/auto", True),
        ("cloudflare/auto\n", False),
        ("cloudflare/other", False),
        ("", False),
    ],
)
def test_model_names(name: str, good: bool) -> None:
    assert is_model_name(name) is good


@pytest.mark.parametrize(
    ("model", "temperature", "penalty", "top_k"),
    [
        (LLAMA, (0, 5), (0, 2), (1, 50)),
        ("@hf/nousresearch/hermes", (0, 5), (0, 2), (1, 50)),
        ("@cf/qwen/qwen2.5-coder-32b-instruct", (0, 5), (0, 2), (1, 50)),
        ("@cf/qwen/qwen3-30b-a3b-fp8", (0, 2), (-2, 2), (1, 50)),
        (GEMMA, (0, 2), (-2, 2), (1, 50)),
        (GLM, (0, 2), (-2, 2), None),
        (None, (0, 5), (-2, 2), (1, 50)),
    ],
)
def test_ranges_are_those_of_the_model(
    model: str | None, temperature: tuple[int, int], penalty: tuple[int, int], top_k: tuple[int, int] | None
) -> None:
    taken = ranges(model)
    assert (taken["temperature"], taken["presence_penalty"], taken.get("top_k")) == (temperature, penalty, top_k)


@pytest.mark.parametrize(
    ("model", "needed"),
    [
        ("@cf/mistralai/mistral-small-3.1-24b-instruct", True),
        ("@hf/mistral/mistral-7b-instruct-v0.2", True),
        ("@cf/meta-llama/llama-2-7b-chat-hf-lora", True),
        ("@cf/google/gemma-3-12b-it", True),
        ("@cf/google/gemma-7b-it-lora", True),
        ("@cf/aisingapore/gemma-sea-lion-v4-27b-it", True),
        ("@hf/thebloke/openhermes-2.5-mistral-7b-awq", False),
        (GEMMA, False),
        (GLM, False),
        (LLAMA, False),
    ],
)
def test_models_whose_template_needs_turns(model: str, needed: bool) -> None:
    assert needs_turns(model) is needed


def test_what_is_known_of_models() -> None:
    assert (window_of(GEMMA), window_of(LLAMA)) == (256_000, None)
    for name in ("@cf/deepseek-ai/deepseek-r1-distill-qwen-32b", "@cf/qwen/qwq-32b", "@cf/qwen/qwen3-4b-thinking-2507"):
        assert thinks_first(name)
    for name in (GEMMA, GLM, LLAMA, "@cf/deepseek-ai/deepseek-v4-flash", "@cf/qwen/qwen3-30b-a3b-fp8"):
        assert not thinks_first(name)


def test_classic_models_take_fewer_fields() -> None:
    assert takes(None, "stop") and takes(GEMMA, "stop") and not takes(LLAMA, "stop")
    assert takes(LLAMA, "tools")


@pytest.mark.parametrize(
    ("model", "known"),
    [
        (DEFAULT_MODEL, EFFORTS),
        ("@cf/qwen/qwen3-30b-a3b-fp8", EFFORTS),
        ("@cf/openai/gpt-oss-20b", EFFORTS[1:]),  # it cannot be switched off
        ("@cf/meta/llama-3.1-8b-instruct-fast", ("none",)),
        ("@cf/qwen/qwq-32b", ()),
        ("@cf/deepseek-ai/deepseek-r1-distill-qwen-32b", ()),
        ("@cf/some/newer-model", ()),
    ],
)
def test_how_much_a_model_can_be_asked_to_think(model: str, known: tuple[str, ...]) -> None:
    assert efforts(model) == known


@pytest.mark.parametrize(
    ("model", "seen"),
    [
        ("@cf/google/gemma-4-26b-a4b-it", True),
        ("@cf/meta/llama-4-scout-17b-16e-instruct", True),
        ("@cf/mistralai/mistral-small-3.1-24b-instruct", True),
        ("@cf/qwen/qwen3.8-27b", True),
        ("@cf/zai-org/glm-5.3-flash", True),
        ("@cf/moonshotai/kimi-k2.7-code", True),
        ("@cf/zai-org/glm-4.7-flash", False),
        ("@cf/meta/llama-3.1-8b-instruct-fast", False),
        ("@cf/openai/gpt-oss-120b", False),
        ("dynamic/vision", True),
    ],
)
def test_models_that_take_images(model: str, seen: bool) -> None:
    assert sees(model) is seen


@pytest.mark.parametrize("name", ["docs", "team/docs", "llama-2-/qwq", "mistral-7b", "x/my-thinking-blog", "gemma-2-b"])
def test_a_search_is_judged_by_no_pattern_of_a_model(name: str) -> None:
    """Its name is the operator's own, and it knows by itself what its model needs."""
    search = f"ai-search/{name}"
    assert is_search(search) and not is_model_name(search) and not is_search(name)
    assert not (thinks_first(search) or needs_turns(search) or sees(search) or takes(search, "tools"))
    assert efforts(search) == () and window_of(search) is None


@pytest.mark.parametrize("name", ["", "a/b/c", "../a", "A", "a b", "a\n", "d" * 65, "a/", "/a", "ä"])
def test_names_that_no_search_has(name: str) -> None:
    assert not is_search(f"ai-search/{name}")
