"""LangChain's ChatOpenAI, over both of OpenAI's APIs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

from jobs import Job, read, read_in_a_task, serve
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]

usage: Any = None


def chat(job: Job, **more: object) -> Any:
    given = {**job.get("options", {}), **more}
    return ChatOpenAI(base_url=job["url"] + "/v1", api_key=job["key"], model=job["model"], stream_usage=True, **given)


def text_of(chunk: Any) -> str:
    global usage
    usage = chunk.usage_metadata or usage
    return str(chunk.text)


def sync(job: Job, **more: object) -> object:
    stream = chat(job, **more).stream(job["messages"])

    def pieces() -> Iterator[str]:
        for chunk in stream:
            if text := text_of(chunk):
                yield text

    return {"text": read(job, pieces(), stream.close), "usage": usage and usage["total_tokens"]}


def in_a_task(job: Job, **more: object) -> object:
    async def pieces() -> AsyncIterator[str]:
        async for chunk in chat(job, **more).astream(job["messages"]):
            if text := text_of(chunk):
                yield text

    return {"text": read_in_a_task(job, pieces), "usage": usage and usage["total_tokens"]}


def described(reply: Any) -> dict[str, Any]:
    usage = reply.usage_metadata
    told = {"text": reply.text, "usage": usage and usage["total_tokens"]}
    told["calls"] = [[call["name"], call["args"]] for call in reply.tool_calls]
    details = reply.response_metadata.get("incomplete_details") or {}
    return {**told, "status": reply.response_metadata.get("status"), "reason": details.get("reason")}


def whole(job: Job, **more: object) -> object:
    return described(chat(job, **more).invoke(job["messages"]))


def added_up(stream: Iterator[Any]) -> Any:
    """The reply as the chunks of a stream add up."""
    reply = next(stream)
    for chunk in stream:
        reply += chunk
    return reply


def last(job: Job, **more: object) -> object:
    return described(added_up(chat(job, **more).stream(job["messages"])))


def tools(job: Job, **more: object) -> object:
    options = job.pop("options")
    reply = added_up(chat(job, **more).bind_tools(options["tools"]).stream(job["messages"]))
    return {"calls": described(reply)["calls"]}


def turns(job: Job, **more: object) -> object:
    """The reply goes back as it is, with the result of each call."""
    tools = job.pop("options")["tools"]
    bound = chat(job, **more).bind_tools(tools)
    called = added_up(bound.stream(job["messages"]))
    results = [{"role": "tool", "content": "rain", "tool_call_id": call["id"]} for call in called.tool_calls]
    said = bound.invoke([*job["messages"], called, *results])
    return {"calls": described(called)["calls"], "text": said.text}


def parsed(job: Job, **more: object) -> object:
    properties = {"city": {"type": "string"}, "degrees": {"type": "number"}}
    schema = {"title": "Weather", "type": "object", "properties": properties, "required": ["city", "degrees"]}
    bound = chat(job, **more).with_structured_output(schema, method="json_schema")
    return [bound.invoke(job["messages"]), list(bound.stream(job["messages"]))[-1]]


responses: dict[str, Callable[..., object]] = {
    "response_stream": sync, "response_task": in_a_task, "response_whole": whole, "response_last": last,
    "response_turns": turns, "response_parsed": parsed,
}  # fmt: skip
ways = {name: partial(way, use_responses_api=True) for name, way in responses.items()}
serve({"sync": sync, "task": in_a_task, "whole": whole, "tools": tools, **ways})
