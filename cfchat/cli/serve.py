"""Serve until a signal comes (`cfchat serve`, or no command at all).

One process is one of three: it serves alone, it is the parent of workers and serves nothing itself, or it is a worker.
Its sockets come from a parent, from systemd, or from the settings. The first signal to stop lets replies finish, the
second ends them. SIGHUP reads keys and certificate again; in a parent it replaces the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from cfchat import __version__, api
from cfchat.app.service import start_admin
from cfchat.cli.terminal import OK, print_aside
from cfchat.errors import ConfigError
from cfchat.guard.guard import Guard
from cfchat.net.listen import Certificate, adopted, listening, url_of
from cfchat.net.threads import in_thread
from cfchat.ops.hangup import Hangup
from cfchat.ops.loop_lag import log_stalls
from cfchat.ops.systemd import Notifier, take_files, take_notifier
from cfchat.ops.workers import Parent, reap_children, take_orders, take_worker
from cfchat.server.server import Server
from cfchat.settings.config import Config
from cfchat.settings.values import LOOPBACK, read_keys
from cfchat.upstream.cloudflare.models import is_search

log = logging.getLogger("cfchat")
OPEN_MAX = 10240  # files that macOS allows although it names no limit
SLOW_DISK = 10.0  # seconds until a file that is read again counts as unreadable
T = TypeVar("T")


async def serve(config: Config, demo: bool, hangup: Hangup) -> int:
    """Serve until a signal comes, here or in workers. Return the exit code.

    Raises:
        ConfigError: the address cannot be listened on, or the certificate is wrong.
    """
    if config.workers and not hasattr(os, "posix_spawn"):
        raise ConfigError("--workers must be 0: this system cannot share a socket between processes")
    worker = take_worker(os.environ)
    notifier, metrics, files = worker or (take_notifier(os.environ), None, take_files(os.environ))
    with contextlib.ExitStack() as stack:
        stack.callback(notifier.close)
        stack.callback(hangup.hold)
        where = config.where
        certificate = Certificate(where.cert, where.key) if where.cert else None
        sockets = stack.enter_context(adopted(files) if files else listening(where))
        welcome = partial(_welcome, sockets[0].getsockname(), demo, config)
        if worker is not None:
            take = partial(take_orders, notifier)
            serving = _serve_here(_share(config), sockets, certificate, notifier, hangup, take, metrics=metrics)
        elif config.workers:
            return await _keep_workers(config, sockets, notifier, hangup, welcome)
        else:
            serving = _serve_here(config, sockets, certificate, notifier, hangup, _take_signals, welcome)
        await serving
        if worker is not None:
            # A signal that meets a half closed loop would print a traceback, or kill.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT))
    return OK


async def _serve_here(
    config: Config,
    sockets: Sequence[socket.socket],
    certificate: Certificate | None,
    notifier: Notifier,
    hangup: Hangup,
    take: Callable[[], asyncio.Queue[str]],
    welcome: Callable[[], None] = lambda: None,
    metrics: socket.socket | None = None,
) -> None:
    """Serve in this process until an order to stop comes. `take` returns the queue of these orders."""
    orders = take()
    _allow_files()
    async with api.serve_on(sockets, config, tls=certificate, line=metrics) as serving:
        with log_stalls(serving.service.loop_lag):
            files = _Files(serving.service.guard, config.keys_file, certificate, notifier)
            hangup.take(files.ask, partial(orders.put_nowait, "SIGHUP, and the terminal is gone"))
            welcome()
            gc.freeze()  # all that is loaded stays, so no collection need look at it
            notifier.ready()
            reading = asyncio.get_running_loop().create_task(files.read_when_asked())
            try:
                await _stop_on_order(serving.server, orders, notifier)
            finally:
                reading.cancel()


async def _keep_workers(
    config: Config,
    sockets: Sequence[socket.socket],
    notifier: Notifier,
    hangup: Hangup,
    welcome: Callable[[], None],
) -> int:
    """Be the parent of workers until a signal comes. Return the exit code."""
    parent = Parent(sockets, config.workers, config.server.drain, notifier, hangup)
    admin = await start_admin(config.admin, parent.fault, parent.metrics.total) if config.admin else None
    code = await parent.run(welcome)
    if admin is not None:
        await admin.drain(1.0)
    return code


def _share(config: Config) -> Config:
    """Return the settings of one worker, with its part of the daily tokens of all."""
    tokens = config.guard.daily_tokens
    shared = tokens and max(1, tokens // config.workers)
    return replace(config, guard=config.guard._replace(daily_tokens=shared))


def _welcome(address: Any, demo: bool, config: Config) -> None:
    _print_banner(address, demo, config)
    _warn_if_open(address, config)


def _print_banner(address: Any, demo: bool, config: Config) -> None:
    base, way, behind = url_of(address, config.where.cert is not None), "", ""
    if not isinstance(address, tuple):
        import shlex  # here, because it is rarely needed

        path = os.fsdecode(address)
        way, behind = f"--unix-socket {shlex.quote(path)} ", f" behind {path}"
    key = "-H 'Authorization: Bearer YOUR-KEY' " if config.guard.keys else ""
    page = f"page: {base}/\n" if config.page else ""
    model, question = config.app.model, "I am unhappy"
    if demo and is_search(model):
        model, question = "DEMO: an AI Search of cfchat's own README files, not Cloudflare", "What is a rate?"
    elif demo:
        model = "DEMO: a stand-in model (ELIZA, 1966), not Cloudflare"
    print_aside(
        f"cfchat {__version__} listens on {base}/api/chatbot{behind}\n"
        f"model: {model}\n{page}"
        f"try: curl -N {way}{base}/api/chatbot -H 'Content-Type: application/json' {key}"
        f"""-d '[{{"role":"user","content":"{question}"}}]'\n"""
        "Ctrl-C stops it.\n"
    )


def _warn_if_open(address: Any, config: Config) -> None:
    """Warn of an open chat endpoint: every client that finds it spends the owner's money."""
    guarded = config.guard.keys or config.guard.rate or config.guard.daily_tokens
    if isinstance(address, tuple) and address[0] not in LOOPBACK and not guarded:
        log.warning(
            "everybody who can reach %s may ask, and you pay: set --rate-limit and --daily-tokens, or --api-keys-file",
            address[0],
        )


def _allow_files() -> None:
    """Allow this process as many open files as the system permits."""
    try:
        import resource  # here, because Windows lacks it
    except ImportError:
        return
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != most:
        for wanted in (most, max(allowed, OPEN_MAX)):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
                break


class _Files:
    """The files that are read again on SIGHUP, keys and certificate. A file that is wrong changes nothing."""

    def __init__(
        self, guard: Guard, keys_file: str | None, certificate: Certificate | None, notifier: Notifier
    ) -> None:
        self._guard = guard
        self._keys_file = keys_file
        self._certificate = certificate
        self._notifier = notifier
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Ask for them to be read, once more if they are just being read: they may have changed again."""
        self._asked.set()

    async def read_when_asked(self) -> None:
        """Read them each time that `ask` was called, in threads, because a disk may be slow."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._notifier.reloading()
            if self._keys_file is None and self._certificate is None:
                log.info("SIGHUP: there is no --api-keys-file or --tls-cert to read")
            if self._keys_file is not None:
                await self._read_keys(self._keys_file)
            if self._certificate is not None:
                await self._read_certificate(self._certificate)
            self._notifier.ready()

    async def _read_keys(self, path: str) -> None:
        try:
            keys = self._guard.keys = await _read_soon(path, partial(read_keys, path))
        except (OSError, ValueError) as error:
            log.error("SIGHUP: --api-keys-file %s; the keys stay as they were", error)
        else:
            log.info("SIGHUP: %d keys read", len(keys))

    async def _read_certificate(self, certificate: Certificate) -> None:
        try:
            certificate.context = await _read_soon("--tls-cert", certificate.read)
        except (OSError, ConfigError) as error:
            log.error("SIGHUP: %s; the certificate stays as it was", error)
        else:
            log.info("SIGHUP: certificate read")


async def _read_soon(name: str, read: Callable[[], T]) -> T:
    try:
        async with asyncio.timeout(SLOW_DISK):
            return await in_thread(read)
    except TimeoutError:
        raise TimeoutError(f"{name} takes over {SLOW_DISK:g} s to read") from None


def _take_signals() -> asyncio.Queue[str]:
    """Return a queue of orders to stop, the name of the signal for each SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    orders: asyncio.Queue[str] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        order = partial(orders.put_nowait, number.name)
        try:
            loop.add_signal_handler(number, order)
        except NotImplementedError:  # by the loops of Windows
            signal.signal(number, partial(_call_soon, loop, order))
    if os.getpid() == 1:
        # In a container every orphan is a child of the first process.
        loop.add_signal_handler(signal.SIGCHLD, lambda: [*reap_children()])
        list(reap_children())
    return orders


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None], *_: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
        loop.call_soon_threadsafe(call)


async def _stop_on_order(server: Server, orders: asyncio.Queue[str], notifier: Notifier) -> None:
    """Wait for an order, then drain the server. A second order cuts the replies that are still under way."""
    loop = asyncio.get_running_loop()
    why = await orders.get()
    notifier.stopping()
    log.info("%s: stopping; replies under way may finish (again: end them now)", why)
    draining = loop.create_task(server.drain())
    second = loop.create_task(orders.get())
    await asyncio.wait([draining, second], return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    if not draining.done():
        await server.abort()
    await draining
    log.info("stopped")
