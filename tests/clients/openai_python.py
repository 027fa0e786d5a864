"""OpenAI's Python SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai  # type: ignore[import-not-found]
from jobs import Job, read, read_in_a_task, serve, tell
from openai.types.responses import Response, ResponseStreamEvent  # type: ignore[import-not-found]
from pydantic import BaseModel, TypeAdapter  # type: ignore[import-not-found]

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


def sources(job: Job) -> object:
    """The sources of a whole reply, of a streamed one, of a response, of a streamed one, each as the SDK has them."""
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    [choice] = client.chat.completions.create(**whole_asked(job)).choices
    chunks = client.chat.completions.create(**asked(job))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    response = client.responses.create(**response_asked(job))
    events = client.responses.create(**response_asked(job), stream=True)
    added = [event.annotation for event in events if event.type == "response.output_text.annotation.added"]
    return [
        [[it.url_citation.title, it.url_citation.url] for it in choice.message.annotations],
        [[it["url_citation"]["title"], it["url_citation"]["url"]] for delta in deltas for it in annotations_of(delta)],
        [[it.title, it.url] for item in response.output for part in item.content for it in part.annotations],
        [[it.title, it.url] for it in added],
    ]


def annotations_of(delta: Any) -> Any:
    """What the SDK's type of a delta does not name."""
    return (delta.model_extra or {}).get("annotations", [])


# --- Responses ------------------------------------------------------------------------------------


def response_asked(job: Job) -> dict[str, Any]:
    options = dict(job.get("options", {}))
    if "max_tokens" in options:
        options["max_output_tokens"] = options.pop("max_tokens")
    return {"model": job["model"], "input": job["messages"], **options}


def words_of(event: Any) -> str:
    global usage
    if event.type in ("response.completed", "response.incomplete"):
        usage = event.response.usage
    return event.delta if event.type == "response.output_text.delta" else ""


def response_stream(job: Job) -> object:
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    stream = client.responses.create(**response_asked(job), stream=True)
    text = read(job, filter(None, map(words_of, stream)), stream.close)
    return {"text": text, "usage": usage and usage.total_tokens}


def response_task(job: Job) -> object:
    async def pieces() -> AsyncIterator[str]:
        client = openai.AsyncOpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
        async for event in await client.responses.create(**response_asked(job), stream=True):
            if text := words_of(event):
                yield text

    return {"text": read_in_a_task(job, pieces), "usage": usage and usage.total_tokens}


def response_helper(job: Job) -> object:
    """The helper follows each step, and raises where one does not fit the others."""
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    with client.responses.stream(**response_asked(job)) as stream:
        text = read(job, filter(None, map(words_of, stream)), stream.close)
        whole = text if job.get("leave") else stream.get_final_response().output_text
    assert whole == text
    return {"text": text, "usage": usage and usage.total_tokens}


def described(response: Any) -> dict[str, Any]:
    calls = [[item.name, item.arguments] for item in response.output if item.type == "function_call"]
    thoughts = [part.text for item in response.output if item.type == "reasoning" for part in item.content]
    details = response.incomplete_details
    told = {"text": response.output_text, "usage": response.usage.total_tokens, "calls": calls}
    return {**told, "thoughts": "".join(thoughts), "status": response.status, "reason": details and details.reason}


def response_whole(job: Job) -> object:
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    return described(client.responses.create(**response_asked(job)))


def response_last(job: Job) -> object:
    """The response of the last event."""
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    *_, last = client.responses.create(**response_asked(job), stream=True)
    return described(last.response)


def response_turns(job: Job) -> object:
    """The output goes back as it is, with the result of each call."""
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    asked = response_asked(job)
    with client.responses.stream(**asked) as stream:
        called = stream.get_final_response()
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "rain"}
        for item in called.output
        if item.type == "function_call"
    ]
    said = client.responses.create(**{**asked, "input": [*asked["input"], *called.output, *results]})
    return {"calls": described(called)["calls"], "text": said.output_text}


class Weather(BaseModel):  # type: ignore[misc]
    city: str
    degrees: int


def response_parsed(job: Job) -> object:
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    whole = client.responses.parse(**response_asked(job), text_format=Weather).output_parsed
    with client.responses.stream(**response_asked(job), text_format=Weather) as stream:
        streamed = stream.get_final_response().output_parsed
    return [whole.model_dump(), streamed.model_dump()]


def response_resumed(job: Job) -> object:
    """A stream that is lost goes on behind its last event. Where the job says so, it is cancelled there instead."""
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    seen: list[Any] = []

    def pieces(events: Iterator[Any]) -> Iterator[str]:
        for event in events:
            seen.append(event)
            yield words_of(event)

    text = ""
    try:
        for piece in filter(None, pieces(client.responses.create(**response_asked(job), stream=True))):
            text += piece
            tell(piece=piece)
    except openai.APIError as error:
        tell(lost=type(error).__name__)
    name = seen[0].response.id
    if job.get("cancel"):
        client.responses.cancel(name)
    rest = client.responses.retrieve(name, stream=True, starting_after=seen[-1].sequence_number)
    text += "".join(pieces(rest))
    numbers = [event.sequence_number for event in seen]
    return {"text": text, "last": seen[-1].type, "each_once": numbers == list(range(len(numbers)))}


def response_kept(job: Job) -> object:
    client = openai.OpenAI(base_url=job["url"] + "/v1", api_key=job["key"])
    return client.responses.retrieve("resp_1").output_text


def validate(job: Job) -> object:
    """Hold events and whole responses, given as JSON, against the SDK's types, which it does not do by itself."""
    one_of = TypeAdapter(ResponseStreamEvent)
    for event in job["events"]:
        one_of.validate_json(event, strict=True)
    for response in job["responses"]:
        Response.model_validate_json(response, strict=True)
    return len(job["events"])


responses = {
    "response_stream": response_stream, "response_task": response_task, "response_helper": response_helper,
    "response_whole": response_whole, "response_last": response_last, "response_turns": response_turns,
    "response_parsed": response_parsed, "response_kept": response_kept, "response_resumed": response_resumed,
    "validate": validate,
}  # fmt: skip
completions = {"sync": sync, "task": in_a_task, "whole": whole, "tools": tools, "models": models, "sources": sources}
serve({**completions, **responses})
