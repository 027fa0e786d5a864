"""OpenAI's Python SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai  # type: ignore[import-not-found]
from jobs import Job, read, read_in_a_task, serve

usage: Any = None


def asked(job: Job) -> dict[str, Any]:
    """The last chunk brings the usage."""
    return {"stream": True, "stream_options": {"include_usage": True}, **whole_asked(job)}


def whole_asked(job: Job) -> dict[str, Any]:
    return {"model": job["model"], "messages": job["messages"], **job.get("options", {})}


def text_of(chunk: Any) -> str:
    global usage
    usage = chunk.usage or usage
    return chunk.choices[0].delta.content or "" if chunk.choices else ""


def sync(job: Job) -> object:
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    stream = client.chat.completions.create(**asked(job))

    def pieces() -> Iterator[str]:
        for chunk in stream:
            if text := text_of(chunk):
                yield text

    return {"text": read(job, pieces(), stream.close), "usage": usage and usage.total_tokens}


def in_a_task(job: Job) -> object:
    async def pieces() -> AsyncIterator[str]:
        client = openai.AsyncOpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
        async for chunk in await client.chat.completions.create(**asked(job)):
            if text := text_of(chunk):
                yield text

    return {"text": read_in_a_task(job, pieces), "usage": usage and usage.total_tokens}


def whole(job: Job) -> object:
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    reply = client.chat.completions.create(**whole_asked(job))
    choice = reply.choices[0]
    calls = [[call.function.name, call.function.arguments] for call in choice.message.tool_calls or []]
    told = {"text": choice.message.content, "usage": reply.usage and reply.usage.total_tokens}
    return {**told, "reason": choice.finish_reason, "calls": calls}


def tools(job: Job) -> object:
    """Calls as the SDK's own helper puts them together from a stream."""
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    with client.chat.completions.stream(**whole_asked(job)) as stream:
        reply = stream.get_final_completion()
    choice = reply.choices[0]
    calls = [[call.function.name, call.function.arguments] for call in choice.message.tool_calls or []]
    return {"reason": choice.finish_reason, "calls": calls}


def models(job: Job) -> object:
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    return [[model.id for model in client.models.list()], client.models.retrieve(job["model"]).id]


serve({"sync": sync, "task": in_a_task, "whole": whole, "tools": tools, "models": models})
