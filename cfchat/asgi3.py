"""cfchat as an ASGI 3 application: the same service behind another server (asgi.readthedocs.io).

A handler's Reply puts events into a mailbox, and a task beside the handler awaits the server's `send` for each. A
client that takes less than is written fills the mailbox, which pauses the reply's source, as a full socket does in our
own server. An ASGI server cuts a reply whose application raises: that is how a reply that breaks off is ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

from cfchat.api import open_service
from cfchat.app.hooks import Hooks
from cfchat.app.service import Service
from cfchat.errors import CfchatError, Incomplete, RequestTimeout
from cfchat.net.deadline import Deadline
from cfchat.net.listen import UNIX
from cfchat.net.mailbox import Mailbox
from cfchat.server.record import Record
from cfchat.server.reply import Head, Reply, respond
from cfchat.server.request import ClientGone, Request, new_id
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
        self._service: Service | None = None

    async def __aenter__(self) -> Application:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let kept replies finish, and close the connections to the model. A further request opens new ones."""
        service, stack, self._stack, self._service = self._service, self._stack, AsyncExitStack(), None
        if service is not None:
            await service.app.drain(service.limits.drain)
        await stack.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self._service or await self._open(), scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise ValueError(f"cfchat does not speak {scope['type']}")

    async def _open(self) -> Service:
        async with self._opening:
            if self._service is None:
                async with AsyncExitStack() as opened:
                    service = await opened.enter_async_context(open_service(self._config, self._hooks))
                    await service.start()
                    self._stack = opened.pop_all()
                self._service = service
        return self._service

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
    """One request and its reply: the Out of a Reply, and what stands in for a connection."""

    def __init__(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self._service = service
        self._limits = service.limits
        self._scope = scope
        self._receive = receive
        self._server_send = send
        self._mailbox: Mailbox[Event] = Mailbox(self._press)
        self._gone = False  # the client is
        self._cut = False
        self._more = True  # of the body is to come
        self._handler: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._deadline = Deadline(self._leave)

    async def run(self) -> None:
        """Answer the request.

        Raises:
            CfchatError: the reply broke off, and its server must cut it.
        """
        app, request = self._service.app, self._request()
        record = Record(request.id, request.client, request.method, request.path, request.notes)
        self._reply = Reply(self, record, self._limits.heartbeat)
        self.beats = Deadline(self._reply.beat)
        loop = asyncio.get_running_loop()
        self._handler = loop.create_task(self._respond(request))
        self._sender = asyncio.current_task()
        try:
            while events := await self._mailbox.take():
                for event in events:
                    # Moved, not made: a deadline for each event costs an assignment.
                    self._deadline.move(self._limits.write)
                    await self._server_send(event)
                    self._deadline.pause()
            if self._cut:
                raise CfchatError(record.fault)
        except (ClientGone, OSError):
            record.fail(gone=True)
        except asyncio.CancelledError:
            record.fail(self._gone)
            assert self._sender is not None
            if not self._gone or self._sender.uncancel():
                raise
        finally:
            self._deadline.cancel()
            self.beats.cancel()
            beside = [task for task in (self._handler, self._watcher) if task is not None]
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
            app.note(record)

    async def _respond(self, request: Request) -> None:
        app = self._service.app
        try:
            await respond(app.handle, app.refuse, request, self._reply)
        except (ClientGone, OSError) as error:
            self._mailbox.close(error)
        else:
            self._mailbox.close()

    def _request(self) -> Request:
        scope = self._scope
        fields = Fields([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
        if scope.get("http_version", "1.1")[:1] in "23" and "content-length" not in fields:
            fields = Fields([*fields, ("transfer-encoding", "chunked")])  # as HTTP/1.1 would announce such a body
        client, server = scope.get("client"), scope.get("server")
        # A path without a port is a unix socket's: its peers have no address, and are trusted to name their clients.
        peer = client[0] if client else UNIX if server and server[1] is None else ""
        target = quote(_path(scope), "/@:", errors="replace") + "?" + scope.get("query_string", b"").decode("latin-1")
        head = RequestHead(scope["method"], target, 1, fields)
        secure = scope.get("scheme") == "https"
        return Request(head, self._service.peers.client(peer, fields), new_id(), self._read_body, secure)

    async def _read_body(self, take: Callable[[bytes], None]) -> None:
        try:
            async with asyncio.timeout(self._limits.body):
                while self._more:
                    event = await self._receive()
                    if event["type"] == "http.disconnect":
                        raise Incomplete("The client left.")
                    self._more = event.get("more_body", False)
                    take(event.get("body", b""))
        except TimeoutError:
            raise RequestTimeout("The request's body did not arrive in time.") from None
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._reply.ended:  # some servers say `http.disconnect` behind the last piece
            self._leave()

    def _leave(self) -> None:
        """The client has gone, or takes nothing more: all that is done for it ends now."""
        self._gone = self._reply.gone = True
        if self._sender is not None:
            self._sender.cancel()

    def _press(self, full: bool) -> None:
        self._reply.press(full)

    # --- the Out of a Reply -------------------------------------------------------------------

    def put(self, head: Head | None, piece: bytes, last: bool) -> None:
        """See Out."""
        if head is not None:
            fields = [*head.fields, ("X-Request-Id", self._reply.record.id), ("X-Content-Type-Options", "nosniff")]
            if head.length is not None and head.status not in (204, 304):
                fields.append(("Content-Length", str(head.length)))
            headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in fields]
            self._mailbox.put({"type": "http.response.start", "status": head.status, "headers": headers}, 0)
        self._mailbox.put({"type": "http.response.body", "body": piece, "more_body": not last}, len(piece))

    def cut(self) -> None:
        """See Out."""
        self._cut = True


def _path(scope: Scope) -> str:
    """The path below the one that this application is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and path.startswith(root) and path[len(root) :][:1] in ("", "/"):
        path = path[len(root) :]
    return path or "/"
