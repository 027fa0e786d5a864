"""The parser of what clients POST: every form that it understands, and refusals of everything else."""

from __future__ import annotations

import json

import pytest
from conversations import ROUND
from hypothesis import given
from hypothesis import strategies as st

from cfchat.conversation.model import Message, Options
from cfchat.conversation.parse import Limits, parse_conversation, without_surrogates
from cfchat.errors import BadChatRequest, BadOption, InvalidJSON

USER = {"role": "user", "content": "Hi"}
HI = (Message("user", "Hi"),)


def parse(document: object) -> tuple[Message, ...]:
    return parse_conversation(json.dumps(document).encode()).messages


@pytest.mark.parametrize(
    "document",
    [
        [USER],
        {"messages": [USER]},
        {"messages": [USER], "stream": True, "metadata": {"chat_id": 1}, "temperature": 99},
        [{**USER, "id": "m1", "name": None}],
        [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}],
        [{"role": "user", "parts": [{"type": "text", "text": "Hi"}]}],
        [{"role": "user", "content": [{"type": "input_text", "text": "H"}, {"type": "output_text", "text": "i"}]}],
        [{"role": "user", "content": "", "parts": [{"type": "text", "text": "Hi"}]}],
        [{"role": "user", "content": None, "text": "Hi"}],
        [{"role": "user", "text": "Hi"}],
        [{"role": "user", "content": "Hi", "parts": [{"type": "text", "text": "other"}]}],
        {
            "id": "c1",
            "trigger": "submit-message",
            "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "Hi"}]}],
        },
    ],
)
def test_every_form_of_one_message(document: object) -> None:
    assert parse(document) == HI


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("ai", "assistant"),
        ("developer", "system"),
        ("assistant", "assistant"),
        ("system", "system"),
        ("user", "user"),
    ],
)
def test_roles(sent: str, meant: str) -> None:
    assert parse([{"role": sent, "text": "x"}, USER])[0] == Message(meant, "x")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "step-start"},
        {"type": "reasoning", "text": "hm"},
        {"type": "reasoning-file", "mediaType": "image/png", "url": "data:"},
        {"type": "data-component", "id": "d1", "data": {"x": 1}, "text": "hm"},
        {"type": "source-url", "sourceId": "s1", "url": "https://a.example", "title": "t"},
        {"type": "source-document", "sourceId": "s1", "mediaType": "application/pdf", "title": "t"},
        {"type": "custom", "kind": "x.y"},
        {"type": "tool-weather", "toolCallId": "c1", "state": "output-available", "input": {}, "output": {"t": 1}},
        {"type": "dynamic-tool", "toolName": "weather", "toolCallId": "c1", "state": "input-available", "input": {}},
        {"type": "refusal", "refusal": "I cannot."},
        {"type": "something-new", "value": 7},
    ],
    ids=lambda part: str(part["type"]),
)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_parts_that_are_not_for_the_model_are_passed_over(part: object, role: str) -> None:
    parts = [part, {"type": "text", "text": "Yes", "state": "done"}]
    for key in ("parts", "content"):
        assert parse([USER, {"role": role, key: parts}])[1] == Message(role, "Yes")


def test_files_of_an_earlier_reply_are_passed_over() -> None:
    parts = [{"type": "text", "text": "Look:"}, {"type": "file", "mediaType": "image/png", "url": "data:"}]
    assert parse([USER, {"role": "assistant", "parts": parts}])[1] == Message("assistant", "Look:")


def test_empty_text_is_text() -> None:
    assert parse([{"role": "assistant", "content": ""}, {"role": "assistant", "parts": []}, USER])[:2] == (
        Message("assistant", ""),
        Message("assistant", ""),
    )


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": USER}, "messages"),
        ("Hi", "messages"),
        (7, "messages"),
        (None, "messages"),
        ([], "messages"),
        ({"messages": []}, "messages"),
        ([USER] * 4, "messages"),
        (["Hi"], "messages[0]"),
        ([USER, None], "messages[1]"),
        ([USER, USER, {"content": "x"}], "messages[2].role"),
        ([USER, {"role": "tool", "content": "x"}], "messages[1].tool_call_id"),
        ([USER, {"role": "function", "content": "x"}], "messages[1].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"role": "User", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": 0}], "messages[0].content"),
        ([{"role": "user", "content": {"type": "text"}}], "messages[0].content"),
        ([{"role": "user", "parts": "Hi"}], "messages[0].parts"),
        ([{"role": "user", "text": ["Hi"]}], "messages[0].text"),
        ([{"role": "user", "content": ["Hi"]}], "messages[0].content[0]"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio"}]}],
            "messages[0].content[1].type",
        ),
        ([{"role": "user", "content": [{"type": "x"}] * 61}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "x"}] * 30}, {"role": "ai", "parts": [{}] * 31}], "messages[1].parts"),
        ([{"role": "user", "parts": [{"type": "file", "url": "data:"}]}], "messages[0].parts[0].type"),
        ([{"role": "user", "content": [{"type": "markdown", "text": "x"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "input_video"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": {}}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "messages[0].content[0].text"),
    ],
)
def test_a_refusal_names_the_place(document: object, param: str) -> None:
    with pytest.raises(BadChatRequest) as caught:
        parse_conversation(json.dumps(document).encode(), Limits(messages=3))
    assert caught.value.param == param
    assert (caught.value.status, caught.value.code) == (400, "invalid_messages")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"not json",
        b'[{"role":"user","content":"Hi"}',
        b'[{"role":"user","content":"Hi"}] x',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b'{"n":' + b"9" * 5_000 + b"}",
        b'{"n":-' + b"9" * 200_000 + b"}",
        b'{"messages":[],"n":NaN}',
        b"[Infinity]",
        b"[-Infinity]",
        json.dumps([USER]).encode("utf-16"),
        json.dumps([USER]).encode("utf-16-le"),
        json.dumps([USER]).encode("utf-16-be"),
        json.dumps([USER]).encode("utf-32"),
        json.dumps([USER]).encode("utf-32-be"),
        b'[{"role":"user","content":"\xff"}]',
        b'[{"role":"user","content":"\xed\xa0\xbd"}]',
        b'[{"role":"user","content":"\xc3"}]',
        b'[{"role":"user","content":"a\nb"}]',
        b"\xef\xbb\xbf\xef\xbb\xbf[]",
        b"model=x&messages=y",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_only_json_in_utf_8_is_accepted(body: bytes) -> None:
    with pytest.raises(InvalidJSON) as caught:
        parse_conversation(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert len(caught.value.message) < 100


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_a_refused_encoding_is_named(encoding: str) -> None:
    with pytest.raises(InvalidJSON, match="UTF-8"):
        parse_conversation(json.dumps([USER]).encode(encoding))


def test_a_leading_bom_is_skipped() -> None:
    assert parse_conversation(b"\xef\xbb\xbf" + json.dumps([USER]).encode()).messages == HI


def test_infinity_by_overflow_is_no_text() -> None:
    assert parse_conversation(b'{"messages":[{"role":"user","content":"Hi"}],"x":1e999}').messages == HI
    with pytest.raises(BadChatRequest):
        parse_conversation(b'[{"role":"user","content":1e999}]')


def test_of_duplicate_keys_the_last_counts() -> None:
    assert (
        parse_conversation(b'[{"role":"system","role":"user","content":"x","content":"Hi"}]').messages == HI
    )


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (rb"\ud83d", "\ufffd"),
        (rb"a\ude00b", "a\ufffdb"),
        (rb"\ude00\ud83d", "\ufffd\ufffd"),
        (rb"\ud83d\ude00", "😀"),
        (rb"\ud83d\ud83d\ude00", "\ufffd😀"),
    ],
)
def test_lone_surrogates_are_replaced(escaped: bytes, text: str) -> None:
    body = (
        b'[{"role":"user","content":"'
        + escaped
        + b'"},{"role":"user","parts":[{"type":"text","text":"'
        + escaped
        + b'"}]}]'
    )
    messages = parse_conversation(body).messages
    assert messages == (Message("user", text), Message("user", text))


def test_refusals_repeat_nothing_of_the_body() -> None:
    for body in (
        b'["<script>"]',
        b'[{"role":"<script>","content":"x"}]',
        b"<script>",
        b'[{"role":"user","content":{"<script>":1}}]',
    ):
        with pytest.raises(BadChatRequest) as caught:
            parse_conversation(body)
        assert "script" not in str(caught.value) + str(caught.value.param)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["user", "ai", "text", "image"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "role", "content", "parts", "text", "type"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)

CONTENTS = JSON | st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "reasoning", "file"]), "text": JSON})
)

MESSAGES = st.fixed_dictionaries(
    {"role": JSON | st.just("user")}, optional={"content": CONTENTS, "parts": CONTENTS, "text": JSON}
)


def only_our_errors(body: bytes) -> None:
    try:
        conversation = parse_conversation(body)
    except BadChatRequest as error:
        error.message.encode()
        assert len(error.message) < 100
        assert isinstance(error, InvalidJSON) or str(error.param).startswith("messages")
        return
    assert any(message.role == "user" for message in conversation.messages)
    for message in conversation.messages:
        message.content.encode()


@given(st.lists(MESSAGES, max_size=4) | JSON)
def test_only_our_errors_on_any_json(document: object) -> None:
    only_our_errors(json.dumps(document).encode())


@given(st.binary(max_size=100))
def test_only_our_errors_on_any_bytes(body: bytes) -> None:
    only_our_errors(body)


@given(ROUND, st.booleans())
def test_encoded_messages_come_back(messages: list[Message], as_object: bool) -> None:
    messages = [*messages, Message("user", "last")]
    items = [{"role": message.role, "content": message.content} for message in messages]
    assert parse({"messages": items} if as_object else items) == tuple(messages)


@given(st.text(st.characters(), max_size=20))
def test_text_without_surrogates_can_be_encoded(text: str) -> None:
    clean = without_surrogates(text)
    clean.encode()
    assert len(clean) == len(text)
    assert without_surrogates(clean) == clean


RANGES = {"max_tokens": (1, 1000), "temperature": (0, 2), "seed": (1, 9_999_999_999), "presence_penalty": (-2, 2)}
LIMITS = Limits(
    models=("@cf/a/one", "@cf/a/two"),
    ranges=lambda model: {"temperature": (0, 5)} if model == "@cf/a/two" else RANGES,
    caps={"max_tokens": 500, "temperature": 1.5},
    efforts=lambda model: () if model == "@cf/a/two" else ("none", "low", "high"),
)


def options(sent: dict[str, object], limits: Limits = LIMITS) -> Options:
    return parse_conversation(json.dumps({"messages": [USER], **sent}).encode(), limits).options


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ({}, Options()),
        ({"temperature": None, "model": None, "seed": None}, Options()),
        ({"model": ""}, Options()),
        ({"model": "@cf/a/one"}, Options("@cf/a/one")),
        ({"reasoning_effort": "low"}, Options(reasoning_effort="low")),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, Options(reasoning_effort="high")),
        ({"reasoning": {"effort": "high"}, "reasoning_effort": "none"}, Options(reasoning_effort="none")),
        ({"reasoning": True, "reasoning_effort": None}, Options()),
        ({"max_tokens": 1}, Options(max_tokens=1)),
        ({"max_tokens": 500}, Options(max_tokens=500)),
        ({"max_tokens": 100.0}, Options(max_tokens=100)),
        ({"max_completion_tokens": 7}, Options(max_tokens=7)),
        ({"max_completion_tokens": 7, "max_tokens": 8}, Options(max_tokens=7)),
        ({"max_completion_tokens": None, "max_tokens": 8}, Options(max_tokens=8)),
        ({"temperature": 0}, Options(temperature=0)),
        ({"temperature": 1.5}, Options(temperature=1.5)),
        ({"temperature": 1.5, "model": "@cf/a/two"}, Options("@cf/a/two", temperature=1.5)),
        ({"seed": 9_999_999_999, "presence_penalty": -2}, Options(seed=9_999_999_999, presence_penalty=-2)),
        ({"stream": False, "stop": 1, "n": 5}, Options()),
    ],
)
def test_options(sent: dict[str, object], meant: Options) -> None:
    parsed = options(sent)
    assert parsed == meant
    assert parsed.max_tokens is None or type(parsed.max_tokens) is int


@pytest.mark.parametrize(
    ("sent", "param", "message"),
    [
        ({"temperature": "1"}, "temperature", "`temperature` must be a number."),
        ({"temperature": True}, "temperature", "`temperature` must be a number."),
        ({"temperature": [1]}, "temperature", "`temperature` must be a number."),
        ({"temperature": -0.1}, "temperature", "`temperature` must be from 0 to 2."),
        ({"temperature": 2.1}, "temperature", "`temperature` must be from 0 to 2."),
        ({"temperature": 1.6}, "temperature", "The most that this server allows for `temperature` is 1.5."),
        ({"presence_penalty": -2.1}, "presence_penalty", "`presence_penalty` must be from -2 to 2."),
        ({"max_tokens": 0}, "max_tokens", "`max_tokens` must be from 1 to 1000."),
        ({"max_tokens": 1.5}, "max_tokens", "`max_tokens` must be a whole number."),
        ({"max_tokens": 501}, "max_tokens", "The most that this server allows for `max_tokens` is 500."),
        ({"max_completion_tokens": 501}, "max_completion_tokens", "for `max_completion_tokens` is 500."),
        ({"max_completion_tokens": 0, "max_tokens": 8}, "max_completion_tokens", "from 1 to 1000"),
        ({"seed": 10**400}, "seed", "`seed` must be from 1 to 9999999999."),
        ({"top_k": 5}, "top_k", "This model does not take `top_k`."),
        ({"model": "@cf/a/two", "seed": 5}, "seed", "This model does not take `seed`."),
        ({"model": "@cf/a/three"}, "model", "This model is not offered here. These are: @cf/a/one, @cf/a/two."),
        ({"model": 5}, "model", "not offered"),
        ({"model": ["@cf/a/one"]}, "model", "not offered"),
        ({"reasoning_effort": "max"}, "reasoning_effort", "`reasoning_effort` can only be none, low, high for"),
        ({"reasoning_effort": ["low"]}, "reasoning_effort", "can only be none, low"),
        ({"reasoning": {"effort": 1}}, "reasoning.effort", "`reasoning.effort` can only be none, low"),
        ({"model": "@cf/a/two", "reasoning_effort": "none"}, "reasoning_effort", "This model does not take"),
    ],
)
def test_a_refused_option_is_explained(sent: dict[str, object], param: str, message: str) -> None:
    with pytest.raises(BadOption) as caught:
        options(sent)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_option", param)
    assert message in caught.value.message


def test_no_number_is_infinite() -> None:
    for number in (b"1e999", b"-1e999"):
        with pytest.raises(BadOption):
            parse_conversation(b'{"messages":[{"role":"user","content":"Hi"}],"temperature":%b}' % number)


@pytest.mark.parametrize("models", [(), tuple(f"@cf/a/{number}" for number in range(11))])
def test_a_long_list_of_models_is_not_recited(models: tuple[str, ...]) -> None:
    with pytest.raises(BadOption, match="Leave `model` out"):
        options({"model": "other"}, Limits(models=models))


def test_a_bare_list_has_no_options() -> None:
    assert parse_conversation(json.dumps([{**USER, "temperature": 99}]).encode(), LIMITS).options == Options()
