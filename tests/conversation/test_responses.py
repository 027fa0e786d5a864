"""The parser of what clients of OpenAI's Responses POST."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.conversation.model import Conversation, Message, Options
from cfchat.conversation.openai import MOST_TOOLS, parse_completion
from cfchat.conversation.parse import Limits
from cfchat.conversation.passed import MOST_LEVELS
from cfchat.conversation.responses import MOST_REPEATED, Asked, parse_response
from cfchat.errors import BadChatRequest, BadOption, InvalidJSON, ModelNotFound, UnsupportedState

HI = {"role": "user", "content": "Hi"}
LIMITS = Limits(
    models=("@cf/a/b", "@cf/c/d"),
    aliases={"gpt-4o-mini": "@cf/c/d"},
    caps={"max_tokens": 100},
    takes=lambda model, name: model != "@cf/c/d" or name == "tools",
)
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "rain"}
SCHEMA = {"type": "json_schema", "name": "n", "schema": {"a": 3.10}, "strict": True}


def parse(**fields: object) -> Asked:
    return parse_response(json.dumps({"input": "Hi", **fields}).encode(), LIMITS)


def messages_of(*items: object) -> tuple[Message, ...]:
    return parse(input=items).conversation.messages


def call_of(call_id: str = "c1") -> Mapping[str, object]:
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def test_the_smallest_request() -> None:
    asked = parse()
    assert (asked.conversation, asked.stream) == (Conversation((Message("user", "Hi"),)), False)


def test_unknown_keys_are_ignored() -> None:
    ignored = {"store": True, "include": ["x"], "metadata": {"a": "b"}, "user": "u", "truncation": "auto"}
    more = {"service_tier": "flex", "prompt_cache_key": "k", "max_tool_calls": 3, "max_tokens": "x", "seed": "x"}
    assert parse(**ignored, **more, text={"verbosity": "low"}, reasoning={"summary": "auto"}) == parse()


def test_a_null_is_as_good_as_nothing() -> None:
    """SDKs send one for each of their options that is not set."""
    none = dict.fromkeys(
        ["previous_response_id", "conversation", "background", "prompt", "instructions", "stream", "model", "text"]
        + ["max_output_tokens", "temperature", "top_p", "tools", "tool_choice", "parallel_tool_calls", "reasoning"]
    )
    assert parse(**none) == parse() == parse(background=False, text={"format": None}, reasoning={"effort": None})


def test_options() -> None:
    asked = parse(model="@cf/a/b", max_output_tokens=7, temperature=0.5, top_p=0.9, reasoning={"effort": "low"})
    options = Options("@cf/a/b", max_tokens=7, temperature=0.5, top_p=0.9, reasoning_effort="low")
    assert asked.conversation.options == options
    assert asked.repeated.items() >= {
        "max_output_tokens": 7, "temperature": 0.5, "top_p": 0.9, "reasoning": {"effort": "low", "summary": None},
    }.items()  # fmt: skip


def test_what_is_too_long_is_not_repeated() -> None:
    """Each running reply would keep it, and a stream sends it three times."""
    fits = "x" * (MOST_REPEATED - 2)
    assert parse(instructions=fits).repeated["instructions"] == fits
    long = fits + "x"
    asked = parse(instructions=long, tools=[{**TOOL, "description": long}], text={"format": SCHEMA, "x": long}, top_p=1)
    assert asked.repeated["top_p"] == 1 and not asked.repeated.keys() & {"instructions", "tools", "text"}
    assert asked.conversation.messages[0].content == long
    assert asked.conversation.passed.keys() == {"tools", "response_format"}


# --- items ----------------------------------------------------------------------------------------


def test_instructions_stand_before_the_messages_of_the_system() -> None:
    asked = parse(instructions="Be kind.", input=[{"role": "developer", "content": "Be brief."}, HI])
    assert asked.conversation.messages == (
        Message("system", "Be kind."),
        Message("system", "Be brief."),
        Message("user", "Hi"),
    )
    assert asked.repeated["instructions"] == "Be kind."


@pytest.mark.parametrize("kind", ["input_text", "output_text", "text"])
def test_parts_are_joined(kind: str) -> None:
    parts = [{"type": kind, "text": "Good"}, {"type": kind, "text": " morning", "annotations": []}]
    assert messages_of({"type": "message", "role": "user", "content": parts}) == (Message("user", "Good morning"),)


def test_an_earlier_reply_is_read_as_it_was_sent() -> None:
    part = {"type": "output_text", "text": "Ho", "annotations": [], "logprobs": []}
    said = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    thought = {"id": "rs_1", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
    assert messages_of(HI, thought, said) == (Message("user", "Hi"), Message("assistant", "Ho"))


def test_a_refusal_is_passed_over() -> None:
    refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}]}
    assert messages_of(HI, refused, HI)[1] == Message("assistant", "")


def test_calls_and_the_words_beside_them_are_one_message() -> None:
    """The parts of one reply came as items of their own, perhaps with reasoning between."""
    other = {**CALL, "call_id": "c2", "id": "fc_1", "status": "completed"}
    said, behind = {"role": "assistant", "content": "Let me see."}, {"role": "assistant", "content": "Done."}
    parts = [{"type": "input_text", "text": "r"}, {"type": "input_text", "text": "ain"}]
    results = [RESULT, {**RESULT, "call_id": "c2", "output": parts}]
    read = messages_of(HI, said, CALL, {"type": "reasoning", "summary": []}, other, behind, *results, CALL, RESULT)
    assert read == (
        Message("user", "Hi"),
        Message("assistant", "Let me see.\n\nDone.", (call_of(), call_of("c2"))),
        Message("tool", "rain", tool_call_id="c1"),
        Message("tool", "rain", tool_call_id="c2"),
        Message("assistant", "", (call_of(),)),
        Message("tool", "rain", tool_call_id="c1"),
    )


def test_neighbours_without_a_call_stay_apart() -> None:
    said = {"role": "assistant", "content": "Ho"}
    assert messages_of(HI, said, said)[1:] == (Message("assistant", "Ho"), Message("assistant", "Ho"))


@pytest.mark.parametrize(
    ("item", "place"),
    [
        (7, ""),
        ({"content": "x"}, ".role"),
        ({"role": "king", "content": "x"}, ".role"),
        ({"role": "tool", "content": "x", "tool_call_id": "c1"}, ".role"),
        ({"role": "user"}, ".content"),
        ({"role": "user", "content": 7}, ".content"),
        ({"role": "user", "content": [7]}, ".content[0]"),
        ({"role": "user", "content": [{"type": "input_text", "text": 7}]}, ".content[0].text"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}, ".content[0].type"),
        ({"type": "web_search_call"}, ".type"),
        ({"type": 7}, ".type"),
        ({**HI, "type": ""}, ".type"),
        ({**CALL, "call_id": None}, ".call_id"),
        ({**CALL, "name": 7}, ".name"),
        ({**CALL, "arguments": {}}, ".arguments"),
        ({**RESULT, "call_id": ""}, ".call_id"),
        ({**RESULT, "output": None}, ".output"),
    ],
)
def test_a_wrong_item_is_named(item: object, place: str) -> None:
    with pytest.raises(BadChatRequest) as caught:
        parse(input=[HI, item])
    assert (caught.value.param, caught.value.code) == (f"input[1]{place}", "invalid_messages")


@pytest.mark.parametrize("value", [None, 7, {}, [], [{"type": "reasoning", "summary": []}], [HI] * 1001])
def test_an_input_is_a_text_or_a_list(value: object) -> None:
    with pytest.raises(BadChatRequest) as caught:
        parse(input=value)
    assert caught.value.param == "input"


def test_a_bare_list_is_refused() -> None:
    with pytest.raises(BadChatRequest):
        parse_response(json.dumps([HI]).encode())


# --- what refers to an earlier request ------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "way_out"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "whole conversation as `input`"),
        ({"conversation": "conv_1"}, "conversation", "whole conversation as `input`"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "whole conversation as `input`"),
        ({"background": True}, "background", "stream"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "`instructions`"),
        ({"input": [HI, {"type": "item_reference", "id": "msg_1"}]}, "input[1].type", "`store: false`"),
    ],
)
def test_what_refers_to_an_earlier_request_is_refused(fields: dict[str, object], param: str, way_out: str) -> None:
    with pytest.raises(UnsupportedState) as caught:
        parse(**fields)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "unsupported_state", param)
    assert way_out in error.message


# --- options --------------------------------------------------------------------------------------


def test_tools_and_the_format_are_passed_on_as_a_completion_has_them() -> None:
    """And are repeated as the client has them."""
    choice = {"type": "function", "name": "weather"}
    asked = parse(tools=[{**TOOL, "more": 1}], tool_choice=choice, parallel_tool_calls=False, text={"format": SCHEMA})
    function = {name: value for name, value in TOOL.items() if name != "type"}
    completion = {
        "messages": [HI],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 3.1}, "strict": True}},
    }
    assert asked.conversation == parse_completion(json.dumps(completion).encode(), LIMITS).conversation
    assert asked.repeated.items() >= {
        "tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False, "text": {"format": SCHEMA},
    }.items()  # fmt: skip


def test_fields_without_effect_are_not_passed_on() -> None:
    """Some models refuse even the name of such a field."""
    for none in ({"tools": [], "tool_choice": "none"}, {"tool_choice": "auto"}, {"parallel_tool_calls": True}):
        assert parse(model="@cf/c/d", **none, text={"format": {"type": "text"}}).conversation.passed == {}


DEEP: Any = 1
for _ in range(MOST_LEVELS + 1):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": "yes"}, "stream"),
        ({"background": "yes"}, "background"),
        ({"max_output_tokens": "5"}, "max_output_tokens"),
        ({"max_output_tokens": 101}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"reasoning": "low"}, "reasoning"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort"),
        ({"tools": {}}, "tools"),
        ({"tools": [TOOL] * (MOST_TOOLS + 1)}, "tools"),
        ({"tools": [TOOL, 7]}, "tools[1]"),
        ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**TOOL, "parameters": []}]}, "tools[0].parameters"),
        ({"tools": [{**TOOL, "strict": 1}]}, "tools[0].strict"),
        ({"tools": [{**TOOL, "description": 1}]}, "tools[0].description"),
        ({"tools": [{**TOOL, "parameters": {"a": DEEP}}]}, "tools"),
        ({"tools": [{**TOOL, "parameters": {"a": float("inf")}}]}, "tools[0].parameters.a"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": 3}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": ""}, "tool_choice"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"text": "json"}, "text"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {**SCHEMA, "name": None}}}, "text.format.name"),
        ({"text": {"format": {**SCHEMA, "schema": {"a": float("inf")}}}}, "text.format.schema.a"),
        ({"model": "@cf/c/d", "text": {"format": SCHEMA}}, "text.format"),
    ],
)
def test_a_wrong_option_is_named(fields: Mapping[str, object], param: str) -> None:
    body = json.dumps({"input": "Hi", **fields}).replace("Infinity", "1e999").encode()
    with pytest.raises(BadOption) as caught:
        parse_response(body, LIMITS)
    assert (caught.value.param, caught.value.code) == (param, "invalid_option")


def test_instructions_are_a_text() -> None:
    with pytest.raises(BadChatRequest) as caught:
        parse(instructions=[HI])
    assert caught.value.param == "instructions"


def test_a_model_that_is_not_offered() -> None:
    assert parse(model="gpt-4o-mini").conversation.options.model == "@cf/c/d"
    with pytest.raises(ModelNotFound) as caught:
        parse(model="gpt-5")
    assert (caught.value.status, caught.value.param) == (404, "model")


def test_half_a_character_is_replaced() -> None:
    half = "\ud83d"
    asked = parse(input=[HI, {**CALL, "name": half}, {**RESULT, "output": half}], tools=[{**TOOL, "name": half}])
    assert asked.conversation.messages[2].content == "\ufffd"
    assert asked.conversation.passed["tools"] == [
        {"type": "function", "function": {"name": "\ufffd", "parameters": {"type": "object"}, "strict": True}}
    ]


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=3)
NAMES = ["type", "function", "name", "format", "role", "content", "text", "call_id", "output", "id"]
KINDS = ["message", "function_call", "function_call_output", "reasoning", "item_reference", "function", "json_schema"]
VALUES = st.recursive(
    SCALARS | st.sampled_from([*KINDS, "user", "assistant", "input_text"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=8,
)
KEYS = ["stream", "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning"]
STATE = ["previous_response_id", "conversation", "background", "prompt"]


@given(st.dictionaries(st.sampled_from([*KEYS, *STATE]), VALUES), st.lists(VALUES, max_size=3))
def test_any_body_is_read_or_refused_with_its_place(fields: dict[str, object], items: list[object]) -> None:
    body = json.dumps({"input": [HI, *items], **fields}).encode()
    try:
        asked = parse_response(body, LIMITS)
    except InvalidJSON:
        raise AssertionError(body) from None
    except (BadChatRequest, ModelNotFound) as error:
        assert error.status in (400, 404) and error.param
    else:
        assert json.dumps(asked.repeated)
