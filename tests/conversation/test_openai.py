"""The parser of what clients of OpenAI POST."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.conversation.model import Conversation, Message, Options
from cfchat.conversation.openai import Completion, parse_completion
from cfchat.conversation.parse import Limits
from cfchat.conversation.passed import MOST_LEVELS
from cfchat.errors import BadChatRequest, BadOption, ModelNotFound

HI = {"role": "user", "content": "Hi"}
LIMITS = Limits(
    models=("@cf/a/b", "@cf/c/d"),
    aliases={"gpt-4o-mini": "@cf/c/d"},
    takes=lambda model, name: model != "@cf/c/d" or name == "tools",
)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def parse(**fields: object) -> Completion:
    return parse_completion(json.dumps({"messages": [HI], **fields}).encode(), LIMITS)


def test_the_smallest_request() -> None:
    assert parse() == Completion(Conversation((Message("user", "Hi"),)), False, False)


def test_unknown_keys_are_ignored() -> None:
    assert parse(metadata={"a": "b"}, chat_id="x", user="u", logit_bias={}, store=True, n=1, stop=None) == parse()


@pytest.mark.parametrize(
    ("fields", "stream", "usage"),
    [
        ({"stream": True}, True, False),
        ({"stream": None, "stream_options": None}, False, False),
        ({"stream": True, "stream_options": {}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
        ({"stream": True, "stream_options": {"include_usage": None}}, True, False),
    ],
)
def test_the_way_of_the_reply(fields: Mapping[str, object], stream: bool, usage: bool) -> None:
    asked = parse(**fields)
    assert (asked.stream, asked.include_usage) == (stream, usage)


def test_options() -> None:
    options = parse(model="@cf/a/b", max_tokens=5, max_completion_tokens=7, temperature=0.5).conversation.options
    assert options == Options(model="@cf/a/b", max_tokens=7, temperature=0.5)


def test_an_alias_is_a_model() -> None:
    assert parse(model="gpt-4o-mini").conversation.options.model == "@cf/c/d"


def test_a_model_that_is_not_offered_is_not_found() -> None:
    with pytest.raises(ModelNotFound) as caught:
        parse(model="gpt-5")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert "@cf/a/b" in caught.value.message and "gpt-4o-mini" in caught.value.message


def test_fields_are_passed_on() -> None:
    fields = {
        "stop": ["\n", "END"],
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
    }
    assert parse(**fields).conversation.passed == fields


def test_fields_without_effect_are_not_passed_on() -> None:
    """Some models refuse even the name of such a field."""
    asked = parse(stop=[], tools=[], tool_choice="auto", parallel_tool_calls=True, response_format={"type": "text"})
    assert asked.conversation.passed == {}


def test_a_field_that_the_model_does_not_take_is_refused() -> None:
    assert parse(model="@cf/c/d", tools=[TOOL]).conversation.passed == {"tools": [TOOL]}
    with pytest.raises(BadOption) as caught:
        parse(model="gpt-4o-mini", stop="x")
    assert caught.value.param == "stop"


DEEP: Any = 1
for _ in range(MOST_LEVELS + 1):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"n": "1"}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 1}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stop": 7}, "stop"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [{**TOOL, "more": DEEP}]}, "tools"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": 3}, "tool_choice"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"max_completion_tokens": "5"}, "max_completion_tokens"),
    ],
)
def test_a_wrong_option_is_named(fields: Mapping[str, object], param: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse(**fields)
    assert caught.value.param == param


NUMBERS = st.sampled_from([0, 1.5, -3, "x", None, inf, -inf])
SCHEMAS = st.recursive(
    NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b c"]), inner)
)


@given(SCHEMAS)
def test_a_number_that_cannot_be_sent_is_found_where_it_is(schema: object) -> None:
    """`1e999` is JSON, and infinity once it is read."""

    def first(value: object, place: str) -> str | None:
        if value in (inf, -inf):
            return place
        items = [(f"[{i}]", item) for i, item in enumerate(value)] if isinstance(value, list) else []
        if isinstance(value, dict):
            items = [(".a" if key == "a" else ".*", item) for key, item in value.items()]
        return next((found for key, item in items if (found := first(item, place + key))), None)

    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    choice = {"type": "json_schema", "json_schema": {"schema": {"a": schema}}}
    for name, value, place in (
        ("tools", [TOOL, tool], "tools[1].function.parameters"),
        ("tool_choice", tool, "tool_choice.function.parameters"),
        ("response_format", choice, "response_format.json_schema.schema.a"),
    ):
        body = json.dumps({"messages": [HI], "tools": [TOOL], name: value}).replace("Infinity", "1e999").encode()
        if (found := first(schema, place)) is None:
            assert parse_completion(body, LIMITS).conversation.passed == {"tools": [TOOL], name: value}
        else:
            with pytest.raises(BadOption) as caught:
                parse_completion(body, LIMITS)
            assert caught.value.param == found


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def test_a_turn_with_a_tool() -> None:
    asked = parse(
        messages=[
            {"role": "developer", "content": "Be brief."},
            HI,
            {"role": "assistant", "content": None, "tool_calls": [{**CALL, "extra": 1}]},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "rain"}]},
        ]
    )
    assert asked.conversation.messages == (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "rain", tool_call_id="c1"),
    )


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "rain"}, "messages[1].tool_call_id"),
        ({"role": "tool", "tool_call_id": "c1"}, "messages[1].content"),
        ({"role": "assistant", "tool_calls": {"a": 1}}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [7]}, "messages[1].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{**CALL, "id": None}]}, "messages[1].tool_calls[0].id"),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "n", "arguments": {}}}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        ({"role": "assistant", "content": None}, "messages[1].content"),
        ({"role": "king", "content": "x"}, "messages[1].role"),
    ],
)
def test_a_wrong_message_is_named(message: object, param: str) -> None:
    with pytest.raises(BadChatRequest) as caught:
        parse(messages=[HI, message])
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields", [{"tool_choice": "none"}, {"parallel_tool_calls": False}, {"tools": [], "tool_choice": "none"}]
)
def test_what_says_nothing_without_tools_is_left_out(fields: Mapping[str, object]) -> None:
    assert parse(model="gpt-4o-mini", **fields).conversation.passed == {}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_choice_of_tools_needs_tools(choice: object) -> None:
    with pytest.raises(BadOption) as caught:
        parse(tool_choice=choice)
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("content", [None, [{"type": "refusal", "refusal": "I cannot."}]])
def test_a_refusal_of_an_earlier_reply_is_passed_over(content: object) -> None:
    refused = {"role": "assistant", "content": content, "refusal": "I cannot."}
    assert parse(messages=[HI, refused, HI]).conversation.messages[1] == Message("assistant", "")


def test_a_bare_list_is_refused() -> None:
    with pytest.raises(BadChatRequest):
        parse_completion(json.dumps([HI]).encode())


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "function", "name"]), inner),
    max_leaves=8,
)
OPTIONS = ["stop", "tools", "tool_choice", "parallel_tool_calls", "response_format"]
KEYS = ["stream", "stream_options", "n", "model", *OPTIONS]


@given(
    st.dictionaries(st.sampled_from(KEYS), VALUES),
    st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "tool", "assistant"])}, optional={
        "content": VALUES, "tool_calls": VALUES, "tool_call_id": VALUES})),
)  # fmt: skip
def test_any_body_is_read_or_refused_with_its_place(fields: dict[str, object], messages: list[object]) -> None:
    body = json.dumps({"messages": [HI, *messages], **fields}).encode()
    try:
        parse_completion(body, LIMITS)
    except (BadChatRequest, ModelNotFound) as error:
        assert error.status in (400, 404) and error.param
