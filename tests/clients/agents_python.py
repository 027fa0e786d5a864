"""The Agents SDK for Python. It calls the Responses API."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

from agents import (  # type: ignore[import-not-found]
    Agent,
    ModelSettings,
    OpenAIResponsesModel,
    Runner,
    flush_traces,
    function_tool,
    set_tracing_disabled,
)
from jobs import Job, read_in_a_task, serve
from openai import AsyncOpenAI  # type: ignore[import-not-found]

# Without this it reports each run to OpenAI.
set_tracing_disabled(True)
elsewhere: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note every host that is looked up but ours."""
    if event == "socket.getaddrinfo" and arguments[0] != "127.0.0.1":
        elsewhere.append(str(arguments[0]))


sys.addaudithook(watch)


@function_tool  # type: ignore[untyped-decorator]
def get_weather(city: str) -> str:
    """The weather of a city."""
    return "rain"


def agent(job: Job, *tools: object) -> Any:
    client = AsyncOpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    # By its name alone it would look for a provider called `@cf`.
    model = OpenAIResponsesModel(model=job["model"], openai_client=client)
    settings = ModelSettings(max_tokens=job.get("options", {}).get("max_tokens"))
    return Agent(name="A", instructions="Be short.", model=model, tools=list(tools), model_settings=settings)


def stream(job: Job) -> object:
    usage = 0

    async def pieces() -> AsyncIterator[str]:
        nonlocal usage
        run = Runner.run_streamed(agent(job), job["messages"])
        try:
            async for event in run.stream_events():
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                    yield event.data.delta
        finally:
            run.cancel()
        usage = run.context_wrapper.usage.total_tokens

    return {"text": read_in_a_task(job, pieces), "usage": usage}


def whole(job: Job) -> object:
    run = asyncio.run(Runner.run(agent(job), job["messages"]))
    return {"text": run.final_output, "usage": run.context_wrapper.usage.total_tokens}


def turns(job: Job) -> object:
    """It calls the tool by itself, and goes on with the result."""
    run = asyncio.run(Runner.run(agent(job, get_weather), job["messages"]))
    calls = [item.raw_item for item in run.new_items if item.type == "tool_call_item"]
    flush_traces()
    return {"calls": [[c.name, c.arguments] for c in calls], "text": run.final_output, "elsewhere": elsewhere}


serve({"response_stream": stream, "response_whole": whole, "response_turns": turns})
