"""A client's side of its process: jobs come in, what the client shows goes out. Runs in a throw-away environment."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

Job = dict[str, Any]


def tell(**seen: object) -> None:
    print(json.dumps(seen), flush=True)


def serve(ways: dict[str, Callable[[Job], object]]) -> None:
    """A job's `way` says which of these does it; then its value is told, or the class of its exception."""
    for line in sys.stdin:
        job = json.loads(line)
        try:
            tell(end=ways[job["way"]](job))
        except Exception as error:
            tell(error=type(error).__name__, status=getattr(error, "status_code", None), message=str(error))


def read(job: Job, pieces: Iterator[str], leave: Callable[[], object]) -> str:
    """Tell each piece, and return all; leave behind the first where the job says so."""
    text = ""
    for piece in pieces:
        text += piece
        tell(piece=piece)
        if job.get("leave"):
            now = time.time()
            leave()
            tell(left=now)
            break
    return text


def read_in_a_task(job: Job, pieces: Callable[[], AsyncIterator[str]]) -> str:
    """The same; it leaves as programs do that await: the task is cancelled."""
    return asyncio.run(_read(job, pieces))


async def _read(job: Job, pieces: Callable[[], AsyncIterator[str]]) -> str:
    text, left = "", 0.0

    async def reading() -> None:
        nonlocal text, left
        async for piece in pieces():
            text += piece
            tell(piece=piece)
            if job.get("leave"):
                left = time.time()
                task.cancel()

    task = asyncio.create_task(reading())
    await asyncio.wait([task])
    if task.cancelled():
        tell(left=left)
        # As in a program that goes on: the end of the loop must not be what closes the connection.
        await asyncio.sleep(1)
    else:
        task.result()
    return text
