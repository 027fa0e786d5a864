"""A strict client of OpenAI's Responses: it refuses what their SDKs would stumble over, and puts the steps together."""

from __future__ import annotations

import json
from typing import Any

from cfchat.wire.sse import SSEParser

RESPONSE = {
    *("id", "object", "created_at", "completed_at", "status", "error", "incomplete_details", "model", "output"),
    *("usage", "background", "instructions", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls"),
    *("previous_response_id", "prompt_cache_key", "reasoning", "safety_identifier", "service_tier", "store"),
    *("temperature", "text", "tool_choice", "tools", "top_p", "truncation", "user"),
}
USAGE = {"input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens"}
ITEMS = {
    "message": {"id", "type", "role", "content", "status"},
    "reasoning": {"id", "type", "summary", "content", "status"},
    "function_call": {"id", "type", "call_id", "name", "arguments", "status"},
}
PARTS: dict[str, dict[str, object]] = {
    "message": {"type": "output_text", "annotations": [], "logprobs": []},
    "reasoning": {"type": "reasoning_text"},
}
ANNOTATION = {"type", "url", "title", "start_index", "end_index"}
TEXTS = {
    "message": "response.output_text",
    "reasoning": "response.reasoning_text",
    "function_call": "response.function_call_arguments",
}
ENDS = {"response.completed", "response.incomplete", "response.failed"}
# Of the last event, what the others have no reason to say.
_NULL = ("completed_at", "error", "incomplete_details", "usage")


def read_response_events(raw: bytes) -> dict[str, Any]:
    """Return the response of the last event, which all events before it have announced step by step."""
    events = [(event.event, json.loads(event.data)) for event in SSEParser().feed(raw)]
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    assert all(name == event["type"] for name, event in events)
    names = [name for name, _ in events]
    assert names[:2] == ["response.created", "response.in_progress"]
    assert [name for name in names if name in ENDS] == names[-1:]
    (_, created), (_, in_progress), *steps, (name, end) = events
    check_response(end["response"])
    begun = end["response"] | dict.fromkeys(_NULL) | {"status": "in_progress", "output": []}
    assert created["response"] == in_progress["response"] == begun
    failed = name == "response.failed"
    assert ("error" in names[-2:-1]) == failed and "error" not in names[:-2]
    if failed:
        error = steps.pop()[1]
        assert error.keys() == {"type", "sequence_number", "code", "message", "param", "error"}
        assert error["message"] == error["error"]["message"] == end["response"]["error"]["message"]
    output = _follow(steps)
    if failed:
        output = [item | {"status": "incomplete"} if item["status"] == "in_progress" else item for item in output]
    assert output == end["response"]["output"]
    assert name == f"response.{end['response']['status']}"
    response: dict[str, Any] = end["response"]
    return response


def _follow(steps: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the items that the steps make."""
    output: list[dict[str, Any]] = []
    for name, event in steps:
        fields = {name: value for name, value in event.items() if name not in ("type", "sequence_number")}
        index = fields.pop("output_index")
        if name == "response.output_item.added":
            item = fields["item"]
            assert index == len(output) and item["status"] == "in_progress" and item.keys() == ITEMS[item["type"]]
            assert item.get("content", []) == [] and item.get("arguments", "") == "" and fields.keys() == {"item"}
            output.append(item)
            continue
        item, kind = output[index], output[index]["type"]
        assert item["status"] == "in_progress"
        if name == "response.output_item.done":
            done = fields["item"]
            assert item | {"status": done["status"]} == done and done["status"] in ("completed", "incomplete")
            output[index] = done
            continue
        assert fields.pop("item_id") == item["id"]
        if kind == "function_call":
            if name == "response.function_call_arguments.delta":
                item["arguments"] += fields.pop("delta")
                assert not fields
            else:
                assert name == "response.function_call_arguments.done"
                assert fields == {"arguments": item["arguments"], "name": item["name"]}
            continue
        assert fields.pop("content_index") == 0
        if name == "response.content_part.added":
            assert item["content"] == [] and fields == {"part": {**PARTS[kind], "text": ""}}
            item["content"].append(fields["part"])
        elif name == "response.content_part.done":
            assert fields == {"part": item["content"][0]}
        elif name == "response.output_text.annotation.added":
            annotations = item["content"][0]["annotations"]
            assert fields.pop("annotation_index") == len(annotations) and fields.keys() == {"annotation"}
            item["content"][0]["annotations"] = [*annotations, fields["annotation"]]
        else:
            assert fields.pop("logprobs", None) == ([] if kind == "message" else None)
            if name == f"{TEXTS[kind]}.delta":
                assert fields.keys() == {"delta"} and fields["delta"]
                item["content"][0]["text"] += fields["delta"]
            else:
                assert name == f"{TEXTS[kind]}.done" and fields == {"text": item["content"][0]["text"]}
    return output


def check_response(response: dict[str, Any]) -> None:
    """A response at its end, from a stream or whole."""
    assert response.keys() == RESPONSE
    assert response["id"].startswith("resp_") and response["object"] == "response"
    assert type(response["created_at"]) is int
    status = response["status"]
    assert (type(response["completed_at"]) is int) == (status == "completed")
    assert (response["error"] is not None) == (status == "failed")
    assert (response["incomplete_details"] is not None) == (status == "incomplete")
    if status != "failed":
        assert response["usage"].keys() == USAGE
    ids = [item["id"] for item in response["output"]]
    assert len(ids) == len(set(ids))
    for item in response["output"]:
        assert item.keys() == ITEMS[item["type"]]
        for part in item.get("content", []):
            assert part.keys() == {*PARTS[item["type"]], "text"} and part["type"] == PARTS[item["type"]]["type"]
            for annotation in part.get("annotations", []):
                assert annotation.keys() == ANNOTATION and annotation["type"] == "url_citation"
                assert 0 <= annotation["start_index"] <= annotation["end_index"] <= len(part["text"])
        assert len(item.get("content", [{}])) == 1


def text_of(response: dict[str, Any], kind: str = "message") -> str:
    """Return all the text of a response, or all its reasoning."""
    items = [item for item in response["output"] if item["type"] == kind]
    return "".join(part["text"] for item in items for part in item["content"])


def calls_of(response: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the id, name and arguments of each call of a tool."""
    return [
        (item["call_id"], item["name"], item["arguments"])
        for item in response["output"]
        if item["type"] == "function_call"
    ]
