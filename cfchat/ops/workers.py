"""Start, watch, replace and stop several processes on one listening socket.

A worker is not a fork of the parent. It is the same command run once more, with the sockets handed down, so it reads
code, settings, keys and certificates again and shares no memory with the others. If new settings are wrong, the first
new worker fails while all old ones still serve. Each worker has two socket pairs to the parent. One carries messages of
sd_notify(3); when it ends, the parent is gone, and the worker drains. The other carries metrics.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

from cfchat.net.listen import reason_of
from cfchat.ops.hangup import Hangup
from cfchat.ops.systemd import Notifier
from cfchat.ops.worker_metrics import WorkerMetrics

log = logging.getLogger("cfchat.workers")

VARIABLE = "CFCHAT_WORKER"  # a worker's file numbers: to the parent, to its metrics, then those that listen
# All in seconds.
START = 30.0  # until a worker is ready
SILENCE = 30.0  # without a sign of life, after which a worker is killed
BEAT = 5.0  # between two signs of life
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # before a worker that died is replaced; doubled for each in a row
HEALTHY = 30.0  # of life, after which a death does not count as one of a row
SPARE = 5.0  # that a worker may need beyond its drain


class Failed(Exception):
    """A worker that ended before it was ready, or could not be started. `code` is the exit code for the parent."""

    def __init__(self, how: str, code: int) -> None:
        super().__init__(how)
        self.code = code


@dataclass(eq=False, slots=True)
class _Worker:
    pid: int
    sock: socket.socket
    ready: asyncio.Future[None]
    since: float = field(default_factory=time.monotonic)
    last_sign: float = field(default_factory=time.monotonic)
    killer: asyncio.TimerHandle | None = None


def reap_children() -> Iterator[tuple[int, int]]:
    """Give pid and exit code of each child that has ended. Every orphan is a child of process 1."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended[0], os.waitstatus_to_exitcode(ended[1])


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


class Parent:
    """The process that keeps `count` workers on the sockets. `drain` is the seconds that they may take to end."""

    def __init__(
        self, sockets: Sequence[socket.socket], count: int, drain: float, notifier: Notifier, hangup: Hangup
    ) -> None:
        self._sockets = sockets
        self._count = count
        self._drain = drain
        self._notifier = notifier
        self._hangup = hangup
        self.metrics = WorkerMetrics()
        self._loop = asyncio.get_running_loop()
        self._alive: dict[int, _Worker] = {}
        self._current: set[_Worker] = set()  # of those alive: all but the ones that start or drain
        self._pause = FIRST_PAUSE
        self._reload: asyncio.Task[None] | None = None
        self._reload_wanted = False
        self._started = False
        self._stopping = False
        self._ended = asyncio.Event()

    def fault(self) -> str:
        """Return why no client should be sent here, or an empty text if all is well."""
        if self._stopping:
            return "draining"
        return "" if self.metrics.ready() else "no worker is ready"

    async def run(self, welcome: Callable[[], None]) -> int:
        """Run until a signal ends it, and return the exit code. `welcome` is called when all workers are ready."""
        loop = self._loop
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._reap()  # process 1 may have inherited some before
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        self._hangup.take(self._request_reload, partial(self._stop, signal.SIGHUP))
        try:
            self._adopt(await self._start())
        except Failed as failure:
            code = 0 if self._stopping else failure.code
            if not self._stopping:
                log.error("a worker %s before it was ready", failure)
            self._stopping = True
            if self._alive:
                await self._ended.wait()
            return code
        if not self._stopping:
            welcome()
            self._notifier.ready()
        self._started = True
        if self._reload_wanted:
            self._request_reload()
        watch = loop.create_task(self._watch())
        await self._ended.wait()
        watch.cancel()
        log.info("stopped")
        return 0

    # --- workers come ---------------------------------------------------------------------------------

    async def _start(self) -> set[_Worker]:
        """Start `count` workers and return them when all are ready. The first one is awaited alone, as a trial.

        Raises:
            Failed: one did not become ready; those that were started are ended.
        """
        fresh: set[_Worker] = set()
        try:
            for count in (1, self._count - 1):
                if self._stopping:
                    raise Failed("is not needed any more", 0)
                for _ in range(count):
                    fresh.add(self._spawn())
                async with asyncio.timeout(START):
                    await asyncio.gather(*(worker.ready for worker in fresh))
        except (Failed, TimeoutError) as error:
            for worker in fresh:
                self._drain_worker(worker)
            raise error if isinstance(error, Failed) else Failed(f"took over {START:.0f} s", 1) from None
        return fresh

    def _adopt(self, fresh: set[_Worker]) -> None:
        """Make these the current workers, and replace each that has ended since it was ready."""
        self._current = {worker for worker in fresh if self._alive.get(worker.pid) is worker}
        for worker in fresh - self._current:
            self._replace_soon(f"worker {worker.pid} ended while others started")

    def _spawn(self) -> _Worker:
        """Start a worker, or raise Failed if the system allows no further process or file."""
        with ExitStack() as ours, ExitStack() as theirs:
            try:
                sock, their_sock = socket.socketpair()
                ours.enter_context(sock)
                theirs.enter_context(their_sock)
                metrics, their_metrics = socket.socketpair()
                ours.enter_context(metrics)
                theirs.enter_context(their_metrics)
                files = [their_sock, their_metrics, *self._sockets]
                for file in files:
                    file.set_inheritable(True)
                # A worker reads the file of settings again, but shares the budgets with as many as there are now.
                own = {VARIABLE: ",".join(str(file.fileno()) for file in files), "CFCHAT_WORKERS": str(self._count)}
                environ = {**os.environ, **own}
                argv = [sys.executable, *sys.orig_argv[1:]]
                # In a process group of its own: a terminal's Ctrl-C reaches the parent alone, which passes it on.
                # SIGHUP is held back until the worker can take it: a `pkill -HUP` reaches those that start, too.
                pid = os.posix_spawn(sys.executable, argv, environ, setpgroup=0, setsigmask=[signal.SIGHUP])
            except OSError as error:
                raise Failed(f"could not be started ({reason_of(error)})", 1) from error
            ours.pop_all()
        sock.setblocking(False)
        self.metrics.add(metrics)
        worker = _Worker(pid, sock, self._loop.create_future())
        # Retrieve the exception, so that asyncio does not log it where nothing awaits this worker any more.
        worker.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._alive[pid] = worker
        self._loop.add_reader(sock, self._read, worker)
        return worker

    def _read(self, worker: _Worker) -> None:
        try:
            data = worker.sock.recv(4096)
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(worker.sock)
            return
        worker.last_sign = time.monotonic()
        if b"READY=1" in data and not worker.ready.done():
            log.info("worker %d accepts", worker.pid)
            worker.ready.set_result(None)

    # --- workers go -----------------------------------------------------------------------------------

    def _reap(self) -> None:
        for pid, code in reap_children():
            worker = self._alive.pop(pid, None)
            if worker is not None:
                self._forget(worker, code)
        if self._stopping and not self._alive:
            self._ended.set()

    def _forget(self, worker: _Worker, code: int) -> None:
        """Let go of a worker that has ended, and replace it if it should have lived on."""
        self._loop.remove_reader(worker.sock)
        worker.sock.close()
        if worker.killer is not None:
            worker.killer.cancel()
        how = f"was ended by {_name_of(-code)}" if code < 0 else f"ended with code {code}"
        if not worker.ready.done():
            worker.ready.set_exception(Failed(how, code if code > 0 else 1))
        if worker not in self._current or self._stopping:
            log.info("worker %d %s", worker.pid, how)
            return
        self._current.remove(worker)
        if time.monotonic() - worker.since > HEALTHY:
            self._pause = FIRST_PAUSE
        self._replace_soon(f"worker {worker.pid} {how}")

    def _replace_soon(self, why: str) -> None:
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        log.warning("%s; another one starts in %.1f s", why, pause)
        self._loop.call_later(pause, self._replace)

    def _replace(self) -> None:
        """Start a worker if one is missing: a reload may have filled its place."""
        if self._stopping or len(self._current) >= self._count:
            return
        try:
            self._current.add(self._spawn())
        except Failed as failure:
            self._replace_soon(f"a worker {failure}")

    def _drain_worker(self, worker: _Worker) -> None:
        """Let a worker finish its replies, and kill it if that takes too long."""
        if worker.killer is None:  # once only: late in its exit a second signal would kill it
            self._signal(worker, signal.SIGTERM)
            worker.killer = self._loop.call_later(self._drain + SPARE, self._signal, worker, signal.SIGKILL)

    def _signal(self, worker: _Worker, number: signal.Signals) -> None:
        if worker.pid in self._alive:  # not yet reaped: the pid cannot be another process's
            os.kill(worker.pid, number)

    async def _watch(self) -> None:
        """Kill each worker without a sign of life: its loop stands still, and so does each of its replies."""
        while True:
            due = time.monotonic() + BEAT
            await asyncio.sleep(BEAT)
            now = time.monotonic()
            for worker in self._alive.values():
                worker.last_sign += max(0.0, now - due)  # this process stood still itself, and read nothing
                if now - worker.last_sign > SILENCE:
                    log.error("worker %d shows no sign of life for %.0f s: killed", worker.pid, SILENCE)
                    self._signal(worker, signal.SIGKILL)

    # --- signals --------------------------------------------------------------------------------------

    def _request_reload(self) -> None:
        """Replace all workers. A signal during that replaces them once more: the files may have changed again."""
        if self._stopping:
            return
        self._reload_wanted = True
        if self._started and (self._reload is None or self._reload.done()):
            self._reload = self._loop.create_task(self._replace_all())

    async def _replace_all(self) -> None:
        while self._reload_wanted and not self._stopping:
            self._reload_wanted = False
            log.info("SIGHUP: starting %d new workers", self._count)
            self._notifier.reloading()
            try:
                fresh = await self._start()
            except Failed as failure:
                if not self._stopping:
                    log.error("SIGHUP: a new worker %s; the old ones stay", failure)
            else:
                old = self._current
                self._adopt(fresh)
                for worker in old:
                    self._drain_worker(worker)
                log.info("SIGHUP: %d new workers accept, %d old ones finish their replies", len(fresh), len(old))
            if not self._stopping:
                self._notifier.ready()

    def _stop(self, number: signal.Signals) -> None:
        """Stop accepting. The first signal lets replies finish, the second ends them."""
        again, self._stopping = self._stopping, True
        for sock in self._sockets:
            sock.close()
        self._notifier.stopping()
        if again:
            for worker in self._alive.values():
                self._signal(worker, signal.SIGQUIT)
            return
        log.info("%s: stopping; replies under way may finish (again: end them now)", number.name)
        for worker in self._alive.values():
            self._drain_worker(worker)
        if not self._alive:
            self._ended.set()


# --- in a worker ----------------------------------------------------------------------------------


def take_worker(environ: MutableMapping[str, str]) -> tuple[Notifier, socket.socket, list[int]] | None:
    """Return a worker's way to its parent, its socket for metrics, and the file numbers that listen.

    None if this process is no worker. The variable that says so is removed from `environ`.
    """
    files = environ.pop(VARIABLE, "")
    if not files:
        return None
    parent, metrics, *listening = map(int, files.split(","))
    socks = socket.socket(fileno=parent), socket.socket(fileno=metrics)
    for sock in socks:
        sock.set_inheritable(False)
    return Notifier(socks[0], BEAT), socks[1], listening


def take_orders(notifier: Notifier) -> asyncio.Queue[str]:
    """Return a queue of orders to stop, each the reason. The first lets replies finish, the second ends them.

    Only the parent gives a second order.
    """
    loop = asyncio.get_running_loop()
    orders: asyncio.Queue[str] = asyncio.Queue()
    sock = notifier.sock
    assert sock is not None
    finishing = False

    def finish(why: str) -> None:
        # One order, whether it comes from the parent, from a signal to all processes of a service, or both.
        nonlocal finishing
        if not finishing:
            finishing = True
            loop.remove_reader(sock)
            orders.put_nowait(why)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, finish, number.name)
    loop.add_signal_handler(signal.SIGQUIT, orders.put_nowait, "SIGQUIT")
    sock.setblocking(False)
    loop.add_reader(sock, finish, "the parent is gone")  # it never writes: readable means that it has closed
    return orders
