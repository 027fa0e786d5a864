"""Workers AI's requests: names, paths, the body to the byte, the list of models."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.conversation.model import Conversation, Message, Options
from cfchat.errors import UpstreamProtocolError
from cfchat.upstream.cloudflare.account import is_account_id, is_token, run_path
from cfchat.upstream.cloudflare.catalogue import Model, read_models
from cfchat.upstream.cloudflare.models import (
    DEFAULT_MODEL,
    FALLBACK_MODELS,
    is_model_name,
    ranges,
    takes,
    thinks_first,
    window_of,
)
from cfchat.upstream.cloudflare.request import encode_request

GEMMA, GLM, LLAMA = DEFAULT_MODEL, *FALLBACK_MODELS
CONVERSATION = Conversation((Message("system", "Be kind."), Message("user", "Grüß Gött 😀")))


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
        ("", False),
    ],
)
def test_model_names(name: str, good: bool) -> None:
    assert is_model_name(name) is good


def test_account_ids_and_tokens() -> None:
    assert is_account_id("0123456789abcdefABCDEF0123456789")
    assert not any(
        map(is_account_id, ("", "0" * 31, "0" * 33, "g" * 32, "0" * 32 + "\n", "٠" * 32))
    )
    assert is_token("aB-_9~!")
    assert not any(map(is_token, ("", "a b", "a\n", '"a"', "'a'", "ä", "\x7f")))


def test_the_path_has_the_model_as_it_is() -> None:
    path = "/client/v4/accounts/0a/ai/run/@cf/meta/m"
    assert run_path("/client/v4", "0a", "@cf/meta/m") == run_path("/client/v4/", "0a", "@cf/meta/m") == path


def test_the_request_to_the_byte() -> None:
    messages = '"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"Grüß Gött 😀"}]'
    plain = messages + ',"stream":true,"max_tokens":64}'
    assert encode_request(CONVERSATION, "@cf/meta/m", 64).decode() == "{" + plain
    for model in (GEMMA, GLM):
        thinking_off = '{"chat_template_kwargs":{"enable_thinking":false},' + plain
        assert encode_request(CONVERSATION, model, 64).decode() == thinking_off


@given(st.text(st.characters()))
def test_any_request_can_be_encoded(text: str) -> None:
    sent = json.loads(encode_request(Conversation((Message("user", text),)), "@cf/meta/m", 1))
    assert len(sent["messages"][0]["content"]) <= len(text)


def sent(model: str, options: Options = Options(), **more: object) -> dict[str, object]:
    """What is in the body besides the messages."""
    body: dict[str, object] = json.loads(
        encode_request(Conversation(CONVERSATION.messages, options), model, 64, **more)  # type: ignore[arg-type]
    )
    assert len(body.pop("messages")) == 2  # type: ignore[arg-type]
    assert body.pop("stream") is True
    return body


def test_options_are_sent_where_they_are_named() -> None:
    options = Options("@cf/meta/m", 9, 1.5, 0.5, 40, 7, 1.1, 0.25, 0.75)
    assert sent("@cf/meta/m", options) == {
        "max_tokens": 64,
        "temperature": 1.5,
        "top_p": 0.5,
        "top_k": 40,
        "seed": 7,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.25,
        "presence_penalty": 0.75,
    }
    assert sent("@cf/meta/m", Options(temperature=0)) == {"max_tokens": 64, "temperature": 0}


def test_a_fallback_gets_what_it_takes_of_the_options() -> None:
    asked = Options(temperature=4.0, top_k=40, repetition_penalty=1.1, presence_penalty=-1.0)
    assert sent(LLAMA, asked) == {
        "max_tokens": 64,
        "temperature": 4.0,
        "top_k": 40,
        "repetition_penalty": 1.1,
        "presence_penalty": 0,
    }
    thinking_off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert sent(GLM, asked) == {"max_tokens": 64, "temperature": 2, "presence_penalty": -1.0, **thinking_off}


def test_extra_fields_never_touch_what_is_ours() -> None:
    extra = {"messages": 1, "stream": False, "max_tokens": 1, "temperature": 1, "lora": "x", "options": {"a": 1}}
    assert sent(GEMMA, Options(temperature=2), extra=extra, reject_if_busy=True) == {
        "max_tokens": 64,
        "temperature": 2,
        "lora": "x",
        "options": {"a": 1, "rejectIfBusy": True},
    }
    assert sent(GEMMA, extra={}) == {"max_tokens": 64}
    assert extra["options"] == {"a": 1}


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
    found = ranges(model)
    assert (found["temperature"], found["presence_penalty"], found.get("top_k")) == (temperature, penalty, top_k)


def test_what_is_known_of_models() -> None:
    assert (window_of(GEMMA), window_of(LLAMA)) == (256_000, None)
    assert thinks_first("@cf/deepseek-ai/deepseek-r1-distill-qwen-32b")
    assert thinks_first("@cf/qwen/qwq-32b")
    assert not thinks_first(GEMMA)


# --- the list of models --------------------------------------------------------------------------


def listed(*entries: object) -> bytes:
    return json.dumps({"result": entries, "success": True, "errors": [], "messages": []}).encode()


def entry(name: str, task: str = "Text Generation", **properties: object) -> dict[str, object]:
    told = [{"property_id": key, "value": value} for key, value in properties.items()]
    return {"id": "1", "name": name, "description": "", "task": {"id": "2", "name": task}, "properties": told}


def test_the_list_of_models() -> None:
    prices = [
        {"unit": "per M input tokens", "price": 0.1, "currency": "USD"},
        {"unit": "per M output tokens", "price": 3, "currency": "USD"},
    ]
    whole = entry(
        "@cf/a/b",
        context_window="256000",
        price=prices,
        planned_deprecation_date="2026-12-24T00:00:00Z",
        require_workers_paid="true",
        reasoning="true",
        function_calling="true",
        vision="false",
    )
    bare = entry("@cf/a/c", context_window="many", price=[{"unit": "per M input tokens", "price": "free"}])
    body = listed(whole, entry("@cf/a/image", "Text-to-Image"), bare)
    assert read_models(body) == [
        Model("@cf/a/b", 256_000, 0.1, 3.0, "2026-12-24", True, True, True),
        Model("@cf/a/c"),
    ]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"result":null}', b'{"result":{}}x', b'{"result":[{"name":"@cf/a/b"}]}', b"\xff"]
)
def test_a_list_of_something_else(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError, match="list of models"):
        read_models(body)


@given(st.binary(max_size=60) | st.recursive(st.none() | st.text(), lambda inner: st.lists(inner, max_size=2) | (
    st.dictionaries(st.sampled_from(("result", "task", "name", "properties", "property_id", "value")), inner)
)).map(lambda reply: json.dumps(reply).encode()))  # fmt: skip
def test_only_protocol_errors_come_of_any_list(body: bytes) -> None:
    try:
        assert all(type(model) is Model for model in read_models(body))
    except UpstreamProtocolError as error:
        assert error.detail


# --- what only some models take ------------------------------------------------------------------

SCHEMA = {"type": "object"}
WANTED = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}


def passed_on(model: str, **passed: object) -> dict[str, object]:
    conversation = Conversation(CONVERSATION.messages, passed=passed)
    body: dict[str, object] = json.loads(encode_request(conversation, model, 64))
    return body


def test_what_is_passed_goes_to_the_models_that_take_it() -> None:
    passed = {"tools": [{"type": "function"}], "stop": ["x"], "tool_choice": "required", "parallel_tool_calls": False}
    assert passed.items() <= passed_on(GEMMA, **passed).items()
    assert passed_on(LLAMA, **passed) == passed_on(LLAMA, tools=passed["tools"])
    assert takes(None, "stop") and not takes(LLAMA, "stop")


def test_a_json_reply_is_not_streamed_and_has_the_schema_as_the_model_wants_it() -> None:
    newer, classic = passed_on(GEMMA, response_format=WANTED), passed_on(LLAMA, response_format=WANTED)
    assert (newer["stream"], newer["response_format"]) == (False, WANTED)
    assert (classic["stream"], classic["response_format"]) == (False, {"type": "json_schema", "json_schema": SCHEMA})
    assert passed_on(LLAMA, response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}
    assert passed_on(GEMMA)["stream"] is True


def test_a_call_and_its_result_go_with_the_messages() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = Conversation((Message("assistant", "", (call,)), Message("tool", "rain", tool_call_id="c")))
    assert json.loads(encode_request(turn, GEMMA, 64))["messages"] == [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_call_id": "c"},
    ]
