"""The body of a request: to the byte, and what each model gets of a client's options and fields."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import GIF, PNG

from cfchat.conversation.images import Image
from cfchat.conversation.model import Conversation, Message, Options
from cfchat.upstream.cloudflare.models import DEFAULT_MODEL, FALLBACK_MODELS
from cfchat.upstream.cloudflare.request import encode_messages, encode_question, encode_request

GEMMA, GLM, LLAMA = DEFAULT_MODEL, *FALLBACK_MODELS
CONVERSATION = Conversation((Message("system", "Be kind."), Message("user", "Grüß Gött 😀")))


def test_the_request_to_the_byte() -> None:
    plain = '"stream":true,"max_tokens":64,"messages":['
    plain += '{"role":"system","content":"Be kind."},{"role":"user","content":"Grüß Gött 😀"}]}'
    question = encode_question(CONVERSATION)
    assert encode_request(question, "@cf/meta/m", 64).decode() == "{" + plain
    for model in (GEMMA, GLM):
        thinking_off = '{"chat_template_kwargs":{"enable_thinking":false},' + plain
        assert encode_request(question, model, 64).decode() == thinking_off


@given(st.text(st.characters()))
def test_any_request_can_be_encoded(text: str) -> None:
    sent = json.loads(encode_request(encode_question(Conversation((Message("user", text),))), "@cf/meta/m", 1))
    assert len(sent["messages"][0]["content"]) <= len(text)


TEXTS = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text())
PICTURES = st.builds(
    lambda text, urls: Message("user", text, images=tuple(map(Image, urls))),
    st.text(),
    st.lists(st.sampled_from([PNG, GIF]), min_size=1, max_size=3),
)


@given(st.lists(TEXTS, max_size=5))
def test_a_conversation_without_images_is_sent_as_ever(messages: list[Message]) -> None:
    plain = [{"role": message.role, "content": message.content} for message in messages]
    expected = json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()
    assert encode_messages(messages) == expected
    assert encode_question(Conversation(tuple(messages))).images == 0


@given(st.lists(TEXTS | PICTURES, max_size=5))
def test_only_a_message_with_images_is_a_list_of_parts(messages: list[Message]) -> None:
    expected = []
    for message in messages:
        text: list[object] = [{"type": "text", "text": message.content}] if message.content else []
        images = [{"type": "image_url", "image_url": {"url": image.url}} for image in message.images]
        expected.append({"role": message.role, "content": [*text, *images] if images else message.content})
    question = encode_question(Conversation(tuple(messages)))
    assert json.loads(question.messages) == expected
    assert question.images == sum(len(message.images) for message in messages)
    if not any(message.images for message in messages[1:]):
        assert question.messages.endswith(encode_messages(messages[1:])[1:])


def sent(model: str, options: Options = Options(), **more: object) -> dict[str, object]:
    """What is in the body besides the messages."""
    body: dict[str, object] = json.loads(
        encode_request(encode_question(Conversation(CONVERSATION.messages, options)), model, 64, **more)  # type: ignore[arg-type]
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


@pytest.mark.parametrize(
    ("model", "effort", "fields"),
    [
        ("@cf/google/gemma-4-26b-a4b-it", "high", {"chat_template_kwargs": {"enable_thinking": True}}),
        ("@cf/zai-org/glm-4.7-flash", "none", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("@cf/moonshotai/kimi-k2.6", "low", {"chat_template_kwargs": {"thinking": True}}),
        ("@cf/openai/gpt-oss-20b", "minimal", {"reasoning_effort": "low"}),
        ("@cf/openai/gpt-oss-120b", "high", {"reasoning_effort": "high"}),
        ("@cf/openai/gpt-oss-120b", "none", {}),  # as a fallback, of which it was not asked
        ("@cf/meta/m", "high", {}),
    ],
)
def test_each_model_is_asked_to_think_in_its_own_way(model: str, effort: str, fields: dict[str, object]) -> None:
    assert sent(model, Options(reasoning_effort=effort)) == {"max_tokens": 64, **fields}


def test_the_other_arguments_of_the_chat_template_stay() -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False, "clear_thinking": True}}
    asked = sent("@cf/google/gemma-4-26b-a4b-it", Options(reasoning_effort="low"), extra=extra)
    assert asked["chat_template_kwargs"] == {"enable_thinking": True, "clear_thinking": True}


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


# --- what only some models take ------------------------------------------------------------------

SCHEMA = {"type": "object"}
WANTED = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}


def passed_on(model: str, **passed: object) -> dict[str, object]:
    conversation = Conversation(CONVERSATION.messages, passed=passed)
    body: dict[str, object] = json.loads(encode_request(encode_question(conversation), model, 64))
    return body


def test_what_is_passed_goes_to_the_models_that_take_it() -> None:
    passed = {"tools": [{"type": "function"}], "stop": ["x"], "tool_choice": "required", "parallel_tool_calls": False}
    assert passed.items() <= passed_on(GEMMA, **passed).items()
    assert passed_on(LLAMA, **passed) == passed_on(LLAMA, tools=passed["tools"])


def test_a_json_reply_is_not_streamed_and_has_the_schema_as_the_model_wants_it() -> None:
    newer, classic = passed_on(GEMMA, response_format=WANTED), passed_on(LLAMA, response_format=WANTED)
    assert (newer["stream"], newer["response_format"]) == (False, WANTED)
    assert (classic["stream"], classic["response_format"]) == (False, {"type": "json_schema", "json_schema": SCHEMA})
    assert passed_on(LLAMA, response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}
    assert passed_on(GEMMA)["stream"] is True


def test_a_call_and_its_result_go_with_the_messages() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = Conversation((Message("assistant", "", (call,)), Message("tool", "rain", tool_call_id="c")))
    assert json.loads(encode_request(encode_question(turn), GEMMA, 64))["messages"] == [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_call_id": "c"},
    ]
