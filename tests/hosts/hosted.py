"""What the servers are told to run; settings come from the environment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Mount

import cfchat

plain = cfchat.asgi()
inner = cfchat.asgi()


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with inner:
        yield


mounted = Starlette(routes=[Mount("/chat", inner)], lifespan=lifespan)
