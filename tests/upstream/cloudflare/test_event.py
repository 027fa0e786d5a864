"""What one event says, and torn pairs over several; replies that were not streamed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import events, read_stream

from cfchat.conversation.model import Delta, ToolCall
from cfchat.errors import UpstreamProtocolError, UpstreamUnavailable
from cfchat.upstream.cloudflare.reply import ReplyReader


def test_torn_pairs_are_joined_in_reasoning_too() -> None:
    halves = [{"choices": [{"delta": {"reasoning": half}}]} for half in ("\ud83d", "\ude00", "\ud83d")]
    reader = ReplyReader(9)
    assert [delta.reasoning for delta in reader.read(events(*halves, "[DONE]"))] == ["😀"]
    assert reader.close(None) == [Delta(finish_reason="stop", reasoning="\ufffd")]
    assert not reader.answered


@given(st.lists(st.text(st.characters() | st.sampled_from("\ud83d\ude00"), max_size=4)))
def test_text_survives_in_any_pieces(pieces: list[str]) -> None:
    outcome = read_stream(
        [f"data: {json.dumps({'response': piece})}\n\n".encode() for piece in pieces] + [b"data: [DONE]\n\n"]
    )
    joined = "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert outcome.text == joined
    outcome.text.encode()


@pytest.mark.parametrize(
    "reply",
    [
        {"result": {"response": "Hi"}, "success": True, "errors": []},
        {"result": {"choices": [{"message": {"content": "Hi", "reasoning": "hm"}, "finish_reason": "stop"}]}},
        {"choices": [{"message": {"content": "Hi"}}], "usage": {}},
        {"result": {"response": "Hi", "reasoning_content": "hm"}},
        {"result": {"response": "Hi", "reasoning": "hm"}},
        {"type": "response.completed", "response": {"status": "completed", "output": [{"content": [{"text": "Hi"}]}]}},
        {
            "result": {
                "output": [
                    {"type": "reasoning", "content": [{"text": "hm"}]},
                    {"content": [{"text": "H"}, {"text": "i"}]},
                ]
            }
        },
    ],
)
@pytest.mark.parametrize("thinks_first", [False, True])
def test_shapes_of_a_whole_reply(reply: object, thinks_first: bool) -> None:
    deltas = ReplyReader(9, thinks_first).read_json(json.dumps(reply).encode())
    assert "".join(delta.text for delta in deltas) == "Hi"
    assert deltas[-1].finish_reason == "stop"


def typed(kind: str, **more: object) -> dict[str, object]:
    return {"type": f"response.{kind}", **more}


ANSWER = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
THOUGHT = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"}
SECRET = {"id": "r1", "instructions": "SECRET", "output": []}
DONE = {**SECRET, "status": "completed", "output": [THOUGHT, ANSWER, CALL], "usage": {"total_tokens": 3}}
PIECES = [
    typed("created", response=SECRET),
    typed("output_item.added", item={"type": "message", "content": []}),
    typed("reasoning_text.delta", delta="h"),
    typed("reasoning_summary_text.delta", delta="m"),
    typed("output_text.delta", delta="H"),
    typed("output_text.delta", delta="i"),
    typed("output_text.done", text="Hi"),
    typed("function_call_arguments.delta", delta="{}"),
    typed("output_item.done", item=CALL, output_index=2),
]


@pytest.mark.parametrize("replies", [[*PIECES, typed("completed", response=DONE)], [typed("completed", response=DONE)]])
def test_events_of_the_responses_api_say_all_once(replies: list[object]) -> None:
    reader = ReplyReader(9, thinks_first=True, tools=True)
    deltas = reader.read(events(*replies)) + reader.close(None)
    assert "".join(delta.text for delta in deltas) == "Hi"
    assert "".join(delta.reasoning for delta in deltas) == "hm"
    assert [call for delta in deltas for call in delta.tool_calls] == [ToolCall(0, "c1", "f", "{}")]
    assert (reader.finish_reason, reader.usage, reader.passed_over) == ("tool_calls", {"total_tokens": 3}, 0)


@pytest.mark.parametrize(
    ("status", "details", "finish"),
    [
        ("completed", None, "stop"),
        ("incomplete", {"reason": "max_output_tokens"}, "length"),
        ("incomplete", {"reason": "content_filter"}, "content_filter"),
        ("incomplete", None, "other"),
    ],
)
def test_how_a_response_ends(status: str, details: object, finish: str) -> None:
    reader, response = ReplyReader(9), {"status": status, "incomplete_details": details}
    reader.read(events(typed("output_text.delta", delta="Hi"), typed(status, response=response)))
    assert reader.close(None)[-1].finish_reason == finish


@pytest.mark.parametrize("last", [typed("failed", response={"error": {"code": "x"}}), {"type": "error", "code": "x"}])
def test_a_response_that_fails(last: dict[str, object]) -> None:
    reader = ReplyReader(9)
    assert reader.read(events(typed("output_text.delta", delta="Hi"), last)) == [Delta("Hi")]
    with pytest.raises(UpstreamUnavailable):
        reader.close(None)


@pytest.mark.parametrize("kind", ["created", "in_progress", "queued", "completed", "audio.delta", "output_text.delta"])
@pytest.mark.parametrize("json_mode", [False, True])
def test_the_response_of_a_typed_event_is_never_text(kind: str, json_mode: bool) -> None:
    for reply in (typed(kind, response=SECRET), {"response": typed(kind, **SECRET)}):
        reader = ReplyReader(9, json_mode=json_mode)
        deltas = reader.read(events(reply, "[DONE]")) + reader.close(None)
        assert not reader.answered and not any(delta.text for delta in deltas)


@pytest.mark.parametrize("shape", [{"response": SECRET}, {"choices": [{"delta": {"content": SECRET}}]}])
def test_an_object_is_text_in_json_mode_alone(shape: dict[str, object]) -> None:
    assert ReplyReader(9).read(events(shape)) == []
    (delta,) = ReplyReader(9, json_mode=True).read(events(shape))
    assert json.loads(delta.text) == SECRET


@pytest.mark.parametrize("token", [{}, [], [1]])
def test_a_token_of_code_that_looks_like_json_is_text(token: object) -> None:
    assert ReplyReader(9).read(events({"response": token})) == [Delta(json.dumps(token))]


@pytest.mark.parametrize(
    "reply",
    [
        {"response_text": "Hi"},
        {"response": None, "response_text": "Hi"},
        {"response": "", "response_text": "Hi"},
        {"response": "Hi", "response_text": "Hi"},
        {"response": "Hi", "response_text": ""},
        {"response": "Hi", "choices": [{"delta": {"content": "Hi"}}]},
        {"response": "Hi", "choices": [{"delta": {"content": ""}}]},
        {"response": "Hi", "choices": [{"delta": {}}]},
        {"response": "", "choices": [{"delta": {"content": "Hi"}}]},
        {"response_text": "Hi", "choices": [{"delta": {"content": None}}]},
    ],
)
def test_the_names_of_the_text(reply: dict[str, object]) -> None:
    assert ReplyReader(9).read(events(reply, reply)) == [Delta("Hi"), Delta("Hi")]
    whole = json.loads(json.dumps(reply).replace("delta", "message"))
    assert "".join(delta.text for delta in ReplyReader(9).read_json(json.dumps({"result": whole}).encode())) == "Hi"


@pytest.mark.parametrize("literal", ["0", "false"])
def test_a_falsy_token_is_text_under_any_name(literal: str) -> None:
    for name in ("response", "response_text"):
        assert ReplyReader(9).read(events(f'{{"{name}":{literal},"x":""}}')) == [Delta(literal)]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"\xff", b"{}", b'{"result":7}', b"[" * 100_000],
    ids=lambda body: repr(body[:20]),
)
def test_a_whole_reply_of_nonsense(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        ReplyReader(9).read_json(body)


def test_a_whole_reply_with_a_torn_pair() -> None:
    assert ReplyReader(9).read_json(b'{"response":"a\\ud83d"}') == [Delta("a"), Delta("\ufffd", "stop")]
