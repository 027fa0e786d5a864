"""cfchat in a process of its own, watched: settings from the environment, a line of JSON on each SIGUSR1.

What the line holds: tasks, client and upstream connections, file descriptors, Python's blocks of memory, KiB
that are resident, microseconds of the processor since the start, and the longest time in ms for which the event
loop ran nothing else, since the line before.
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

from cfchat.api import open_service
from cfchat.app.service import Service
from cfchat.guard.addresses import Proxies
from cfchat.ops.logs import set_up_logging
from cfchat.server.server import Server
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


def resident() -> int:
    """KiB of memory that is really there."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


async def main() -> None:
    config = load({}, os.environ)
    set_up_logging(config.log_level)
    async with open_service(config) as rooms:
        app, peers = rooms.app, Proxies(config.trusted_proxies)
        await watched(rooms, Server(app.handle, app.refuse, config.server, peers, app.note))


async def watched(rooms: Service, server: Server) -> None:
    loop, stopped, stalls = asyncio.get_running_loop(), asyncio.Event(), Stalls()

    def tell() -> None:
        gc.collect()
        state = rooms.upstream._pool.state
        told = {
            "tasks": len(asyncio.all_tasks()),
            "clients": len(server._connections),
            "lent": state.lent_out,
            "idle": state.idle,
            "files": len(os.listdir("/proc/self/fd")),
            "blocks": sys.getallocatedblocks(),
            "kib": resident(),
            "cpu_us": round(time.process_time() * 1e6),
            "stall_ms": round(stalls.longest * 1000, 1),
        }
        stalls.longest = 0.0
        print(json.dumps(told), flush=True)

    loop.add_signal_handler(signal.SIGUSR1, tell)
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    watching = loop.create_task(stalls.watch())
    _, port = await server.start("127.0.0.1", 0)
    print(port, flush=True)
    await stopped.wait()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    await server.drain(5.0)


if __name__ == "__main__":
    asyncio.run(main())
