"""cfchat as an ASGI 3 application: the same rooms behind a server of others (asgi.readthedocs.io)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, aclosing
from typing import Any
from urllib.parse import quote

from cfchat.api import Rooms, open_rooms
from cfchat.app.hooks import Hooks
from cfchat.errors import BodyTooLarge, CfchatError, Incomplete, RequestTimeout
from cfchat.guard.addresses import Proxies
from cfchat.server.record import Exchange
from cfchat.server.server import Request, Response, new_id
from cfchat.settings.config import Config
from cfchat.settings.load import load_config
from cfchat.wire.fields import Fields
from cfchat.wire.messages import RequestHead

log = logging.getLogger("cfchat.asgi")

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class Application:
    """An ASGI 3 application. It begins and ends by the server's lifespan, or as a context manager in its host's.

    Where it is mounted in another application, its host's lifespan is the only one: without that it begins with the
    first request, and ends with the process.
    """

    def __init__(self, config: Config, hooks: Hooks) -> None:
        self._config = config
        self._hooks = hooks
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._rooms: Rooms | None = None

    async def __aenter__(self) -> Application:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections to the model. A further request opens them anew."""
        self._rooms = None
        await self._stack.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self._rooms or await self._open(), scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise ValueError(f"cfchat does not speak {scope['type']}")

    async def _open(self) -> Rooms:
        async with self._opening:
            if self._rooms is None:
                async with AsyncExitStack() as opened:
                    rooms = await opened.enter_async_context(open_rooms(self._config, self._hooks))
                    await rooms.start()
                    self._stack.push_async_exit(opened.pop_all())
                self._rooms = rooms
        return self._rooms

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        try:
            await self._open()
        except (CfchatError, OSError) as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def asgi(config: Config | None = None, hooks: Hooks = Hooks()) -> Application:
    """An ASGI 3 application that answers as the server does; without a Config by the environment's settings.

    >>> import asyncio, cfchat
    >>> app = cfchat.asgi(cfchat.load_config(demo=True))
    >>> async def get(path: str) -> None:  # what uvicorn and hypercorn do
    ...     async def receive() -> dict:
    ...         return {"type": "http.request"}
    ...     async def send(event: dict) -> None:
    ...         print(event.get("status") or event["body"][:14])
    ...     async with app:
    ...         await app({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
    >>> asyncio.run(get("/v1/models"))
    200
    b'{"object":"lis'
    """
    return Application(config or load_config(), hooks)


class _Exchange:
    """One request and its reply. What cannot be ended well is ended by an error, so that the server cuts it."""

    def __init__(self, rooms: Rooms, scope: Scope, receive: Receive, send: Send) -> None:
        self._rooms = rooms
        self._limits = rooms.config.server
        self._scope = scope
        self._receive = receive
        self._server = send
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._beside: list[asyncio.Task[None]] = []
        self._gone = False  # the client is
        self._ended = False
        self._busy = False  # with a write
        self._written = self._loop.time()

    async def run(self) -> None:
        request = self._request()
        entry = Exchange(request.id, request.client, request.method, request.path, request.notes)
        assert self._task is not None
        try:
            await self._reply(request, entry)
        except asyncio.CancelledError:
            entry.status = 499 if self._gone else entry.status or 503
            entry.fault = "client gone" if self._gone else "ended by this server"
            if not self._gone or self._task.uncancel():
                raise
        except (Incomplete, OSError):
            entry.status, entry.fault = 499, "client gone"
        finally:
            for task in self._beside:
                task.cancel()
            if self._beside:
                await asyncio.wait(self._beside)
            self._rooms.app.note(entry)

    def _request(self) -> Request:
        scope = self._scope
        fields = Fields([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
        if scope.get("http_version", "1.1")[:1] in "23" and "content-length" not in fields:
            fields = Fields([*fields, ("transfer-encoding", "chunked")])  # as HTTP/1.1 would announce such a body
        peer = (scope.get("client") or ("",))[0]
        head = RequestHead(scope["method"], quote(_path(scope), "/@:", errors="replace"), 1, fields)
        client = Proxies(self._rooms.config.trusted_proxies).client(peer, fields)
        return Request(head, client, new_id(), self._read_body)

    async def _reply(self, request: Request, entry: Exchange) -> None:
        response = await self._handle(request)
        try:
            await self._send(request, response, entry)
        finally:
            if response.aclose is not None:
                await response.aclose()

    async def _handle(self, request: Request) -> Response:
        app = self._rooms.app
        try:
            return await app.handle(request)
        except Incomplete:
            raise
        except Exception:
            log.exception("%s handler failed", request.id)
            return app.refuse(CfchatError("Something went wrong in this server."), request.id, request.fields)

    # --- reading ------------------------------------------------------------------------------

    async def _read_body(self, limit: int) -> bytes:
        pieces: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self._limits.body):
                while more:
                    event = await self._receive()
                    if event["type"] == "http.disconnect":
                        raise Incomplete("The client left.")
                    pieces.append(event.get("body", b""))
                    size += len(pieces[-1])
                    if size > limit:
                        raise BodyTooLarge(f"The body is over {limit} bytes.")
                    more = event.get("more_body", False)
        except TimeoutError:
            raise RequestTimeout("The request's body did not arrive in time.") from None
        self._begin(self._watch())
        return b"".join(pieces)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._ended:
            self._lose()

    def _lose(self) -> None:
        """The client has gone: whatever is done for it ends now."""
        if self._task is not None:
            self._gone = True
            self._task.cancel()

    def _begin(self, chore: Any) -> None:
        self._beside.append(self._loop.create_task(chore))

    # --- writing ------------------------------------------------------------------------------

    async def _send(self, request: Request, response: Response, entry: Exchange) -> None:
        entry.status = response.status
        body = response.body
        fields = [*response.fields, ("X-Request-Id", entry.id), ("X-Content-Type-Options", "nosniff")]
        if isinstance(body, bytes) and response.status not in (204, 304):
            fields.append(("Content-Length", str(len(body))))
        if not isinstance(body, bytes):
            self._begin(self._keep_alive(response.heartbeat, entry))
        headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in fields]
        await self._give({"type": "http.response.start", "status": response.status, "headers": headers})
        if isinstance(body, bytes):
            entry.began()
            await self._end(b"" if request.method == "HEAD" else body, entry)
        else:
            async with aclosing(body):
                await self._stream(body, response, entry)

    async def _stream(self, body: AsyncGenerator[bytes, None], response: Response, entry: Exchange) -> None:
        try:
            async for piece in body:
                if piece:
                    if not entry.sent:
                        entry.began()
                    await self._write(piece, entry)
        except CfchatError as error:
            await self._fail(error, response, entry)
        except OSError:
            raise
        except Exception as error:
            log.exception("%s reply failed", entry.id)
            failure = CfchatError("Something went wrong in this server.")
            failure.__cause__ = error
            await self._fail(failure, response, entry)
        else:
            await self._end(b"", entry)

    async def _fail(self, error: CfchatError, response: Response, entry: Exchange) -> None:
        """What the form has words for ends well. All else must not: the server cuts what raises."""
        entry.fault = f"interrupted: {error}"
        words = response.fail(error)
        if not words:
            raise error
        await self._end(words, entry)

    async def _write(self, piece: bytes, entry: Exchange) -> None:
        entry.sent += len(piece)
        await self._give({"type": "http.response.body", "body": piece, "more_body": True})

    async def _end(self, piece: bytes, entry: Exchange) -> None:
        self._ended = True  # some servers say `http.disconnect` behind the last piece
        entry.sent += len(piece)
        await self._give({"type": "http.response.body", "body": piece})

    async def _give(self, event: Event) -> None:
        self._busy, self._written = True, self._loop.time()
        await self._server(event)
        self._busy = False

    async def _keep_alive(self, heartbeat: bytes, entry: Exchange) -> None:
        """Break the model's silence by a heartbeat, and a client's that takes no more by giving it up."""
        pause = self._limits.heartbeat if heartbeat else self._limits.write
        silent = 0.0
        while True:
            await asyncio.sleep(pause - silent if silent < pause else pause)
            silent = self._loop.time() - self._written
            if self._busy:
                if silent >= self._limits.write:
                    self._lose()
            elif heartbeat and entry.sent and silent >= pause:
                await self._write(heartbeat, entry)


def _path(scope: Scope) -> str:
    """The path below the one that this application is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and path.startswith(root) and path[len(root) :][:1] in ("", "/"):
        path = path[len(root) :]
    return path or "/"
