"""A rolling restart under load: `python tests/bench/rolling.py [RESTARTS [STREAMS [WORKERS]]]`, 100, 200, 2 by default.

So many streams at once, each as long as some words at a person's pace, all the while as SIGHUP replaces the workers
again and again. Prints the counts; exits with 1 where a stream was refused, broken, or not whole.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from process import HEAD, Process, Stream, ask, started
from standin import Exchange, StandIn

WORDS, PAUSE = 20, 0.1


async def speak(exchange: Exchange) -> None:
    await exchange.send(HEAD)
    for number in range(WORDS):
        await exchange.send(b'data: {"response":"word %d "}\n\n' % number)
        await asyncio.sleep(PAUSE)
    await exchange.send(b"data: [DONE]\n\n")
    exchange.close()


WHOLE = "".join(f"word {number} " for number in range(WORDS)).encode()


async def what_became_of(stream: Stream) -> str:
    try:
        answer = await stream.rest()
    except IndexError:
        return "closed without a reply"
    if answer.status != 200:
        return f"status {answer.status}"
    return "whole" if answer.whole and answer.body == WHOLE else "broken"


async def keep_asking(
    process: Process, done: asyncio.Event, counts: Counter[str], forget: Callable[[], None]
) -> None:
    while not done.is_set():
        try:
            stream = await ask(process.port)
        except OSError as error:
            counts[f"not connected: {error.strerror}"] += 1
            continue
        counts[await what_became_of(stream)] += 1
        forget()


async def main(restarts: int, streams: int, workers: int) -> int:
    counts: Counter[str] = Counter()
    flags = ("--workers", str(workers), "--fallback-models", "none", "--log-level", "info")
    async with StandIn([speak], repeat=True, certificate=None) as standin, started(standin.base_url, *flags) as process:
        # What the stand-in remembers of every request would grow to gigabytes.
        done, begin, forget = asyncio.Event(), time.monotonic(), standin.requests.clear
        clients = [asyncio.create_task(keep_asking(process, done, counts, forget)) for _ in range(streams)]
        for number in range(1, restarts // workers + 1):
            process.send(signal.SIGHUP)
            await process.logged("SIGHUP: ([0-9]+ new workers accept|a new worker)", number)
        done.set()
        await asyncio.gather(*clients)
        code = await process.stop()
        ended = process.matching("worker [0-9]+ ended with code 0")
        strange = process.matching("WARNING|ERROR|was ended|ended with code [1-9]")
    seconds = time.monotonic() - begin
    print(f"{len(ended)} workers restarted in {seconds:.0f} s, {streams} streams at once: {dict(counts)}, exit {code}")
    expected = "list of models|loop has been busy|files may be open"
    print("".join(line for line in strange if not re.search(expected, line)), end="")
    return 0 if set(counts) == {"whole"} and code == 0 else 1


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    sys.exit(asyncio.run(main(*[*given, *(100, 200, 2)[len(given) :]])))
