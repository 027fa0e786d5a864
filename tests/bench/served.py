"""cfchat in a process of its own, watched from inside: settings from the environment, a line of JSON on each SIGUSR1.

The line holds tasks, client and upstream connections, file descriptors, bytes of requests that wait, kept replies, log
lines that were dropped, Python's blocks of memory, KiB that are resident, microseconds of the processor since the
start, and the longest time in ms for which the event loop ran nothing else since the line before. Tasks and blocks
cannot be seen from another process: this is why soak.py does not start the command.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from load import resident

from cfchat.api import Serving, serve
from cfchat.ops.logs import count_dropped_lines, set_up_logging
from cfchat.settings.load import load

TICK = 0.005


class Stalls:
    """How late a timer is, which is how long something else kept the loop."""

    longest = 0.0

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            self.longest = max(self.longest, loop.time() - due)


async def main() -> None:
    config = load({}, os.environ)
    set_up_logging(config.log_level)
    async with serve(config) as serving:
        await watched(serving)


async def watched(serving: Serving) -> None:
    loop, stopped, stalls = asyncio.get_running_loop(), asyncio.Event(), Stalls()

    def report() -> None:
        gc.collect()
        pool = serving.service.upstream.pool.state
        state = {
            "tasks": len(asyncio.all_tasks()),
            "clients": serving.server.connections,
            "lent": pool.lent_out,
            "idle": pool.idle,
            "files": len(os.listdir("/proc/self/fd")),
            "waiting": serving.service.app.waiting.size,
            "kept": sum(serving.service.app.kept[:2]),
            "dropped": count_dropped_lines(),
            "blocks": sys.getallocatedblocks(),
            "kib": resident(os.getpid()),
            "cpu_us": round(time.process_time() * 1e6),
            "stall_ms": round(stalls.longest * 1000, 1),
        }
        stalls.longest = 0.0
        print(json.dumps(state), flush=True)

    loop.add_signal_handler(signal.SIGUSR1, report)
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    watching = loop.create_task(stalls.watch())
    print(serving.port, flush=True)
    await stopped.wait()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


if __name__ == "__main__":
    asyncio.run(main())
