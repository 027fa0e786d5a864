"""LangChain's ChatOpenAI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from jobs import Job, read, read_in_a_task, serve
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]

usage: Any = None


def chat(job: Job) -> Any:
    return ChatOpenAI(
        base_url=job["url"] + "/v1", api_key=job["key"], model=job["model"], stream_usage=True, **job.get("options", {})
    )


def text_of(chunk: Any) -> str:
    global usage
    usage = chunk.usage_metadata or usage
    return str(chunk.content)


def sync(job: Job) -> object:
    stream = chat(job).stream(job["messages"])

    def pieces() -> Iterator[str]:
        for chunk in stream:
            if text := text_of(chunk):
                yield text

    return {"text": read(job, pieces(), stream.close), "usage": usage and usage["total_tokens"]}


def in_a_task(job: Job) -> object:
    async def pieces() -> AsyncIterator[str]:
        async for chunk in chat(job).astream(job["messages"]):
            if text := text_of(chunk):
                yield text

    return {"text": read_in_a_task(job, pieces), "usage": usage and usage["total_tokens"]}


def whole(job: Job) -> object:
    reply = chat(job).invoke(job["messages"])
    return {"text": reply.content, "usage": reply.usage_metadata["total_tokens"]}


def tools(job: Job) -> object:
    """Calls as the chunks of a stream add up."""
    options = job.pop("options")
    reply: Any = None
    for chunk in chat(job).bind_tools(options["tools"]).stream(job["messages"]):
        reply = chunk if reply is None else reply + chunk
    return {"calls": [[call["name"], call["args"]] for call in reply.tool_calls]}


serve({"sync": sync, "task": in_a_task, "whole": whole, "tools": tools})
