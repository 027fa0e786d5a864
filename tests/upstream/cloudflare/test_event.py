"""What one event says, and torn pairs over several; replies that were not streamed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import events, read_stream

from cfchat.conversation.model import Delta
from cfchat.errors import UpstreamProtocolError
from cfchat.upstream.cloudflare.reply import ReplyReader, read_json_reply


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
def test_shapes_of_a_whole_reply(reply: object) -> None:
    deltas = read_json_reply(json.dumps(reply).encode(), 9)
    assert "".join(delta.text for delta in deltas) == "Hi"
    assert deltas[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"\xff", b"{}", b'{"result":7}', b"[" * 100_000],
    ids=lambda body: repr(body[:20]),
)
def test_a_whole_reply_of_nonsense(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        read_json_reply(body, 9)


def test_a_whole_reply_with_a_torn_pair() -> None:
    assert read_json_reply(b'{"response":"a\\ud83d"}', 9) == [Delta("a"), Delta("\ufffd", "stop")]
