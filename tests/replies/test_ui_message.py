"""The AI SDK's stream, to the byte."""

from __future__ import annotations

import pytest
from reply_forms import BROKEN, data_of, sent

from cfchat.conversation.model import Delta
from cfchat.replies.form import DONE
from cfchat.replies.ui_message import UIMessage


def test_ui_message() -> None:
    usage = '{"usage":{"inputTokens":5,"outputTokens":2,"totalTokens":7}}'
    assert sent(UIMessage()).decode() == (
        'data: {"type":"start","messageId":"msg_0a1b"}\n\n'
        'data: {"type":"start-step"}\n\n'
        'data: {"type":"text-start","id":"t1"}\n\n'
        'data: {"type":"text-delta","id":"t1","delta":"Hel"}\n\n'
        'data: {"type":"text-delta","id":"t1","delta":"lo"}\n\n'
        'data: {"type":"text-end","id":"t1"}\n\n'
        'data: {"type":"finish-step"}\n\n'
        f'data: {{"type":"finish","finishReason":"stop","messageMetadata":{usage}}}\n\n'
        "data: [DONE]\n\n"
    )


def test_an_interrupted_ui_message_ends_with_an_error_event() -> None:
    assert UIMessage().fail(BROKEN) == b'data: {"type":"error","errorText":"The reply was interrupted."}\n\n' + DONE


@pytest.mark.parametrize(
    ("ours", "theirs"), [("stop", "stop"), ("length", "length"), ("tool_calls", "tool-calls"), ("other", "other")]
)
def test_finish_reasons_of_a_ui_message(ours: str, theirs: str) -> None:
    finish = data_of(sent(UIMessage(), [[Delta("a", ours)]]))[-1]
    assert finish == {"type": "finish", "finishReason": theirs}


def test_the_usage_of_responses_has_the_sdks_names_too() -> None:
    usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
    finish = data_of(sent(UIMessage(), [[Delta("a", "stop", usage)]]))[-1]
    assert finish["messageMetadata"] == {"usage": {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7}}
