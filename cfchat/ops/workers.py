"""One listening socket, several processes: the parent that starts, watches, replaces and ends them.

A worker is the same command run once more, with the sockets handed down, and not a fork of the parent: it reads code,
settings, keys and certificates anew, shares no memory with the others, and one that cannot start proves its settings
wrong before any of the old has gone. Each talks to the parent in sd_notify's words, over a socket of its own; where
that ends, the parent is gone, and the worker drains. By another it tells what it has counted.
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

from cfchat.net.listen import reason_of
from cfchat.ops.systemd import Notifier
from cfchat.ops.worker_metrics import Tally

log = logging.getLogger("cfchat.workers")

VARIABLE = "CFCHAT_WORKER"  # in a worker: the numbers of its files, those to the parent and its tally first
START = 30.0  # seconds until a worker is ready
SILENCE = 30.0  # seconds without a sign of life, after which one is killed
BEAT = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds before one that died is replaced
HEALTHY = 30.0  # seconds alive, after which an end is not counted as one of a row
SPARE = 5.0  # seconds that a worker may need beyond its drain


class Failed(Exception):
    """A worker ended before it was ready; `code` is its exit code."""

    def __init__(self, how: str, code: int) -> None:
        super().__init__(how)
        self.code = code


@dataclass(eq=False, slots=True)
class _Worker:
    pid: int
    plug: socket.socket
    ready: asyncio.Future[None]
    since: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    killer: asyncio.TimerHandle | None = None


def ended_children() -> Iterator[tuple[int, int]]:
    """The number and exit code of each child that has ended; of process 1 every orphan is a child."""
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


class Parent:
    """Keeps `count` workers on the sockets. `drain` is how many seconds they may take to end."""

    def __init__(self, sockets: Sequence[socket.socket], count: int, drain: float, notifier: Notifier) -> None:
        self._sockets = sockets
        self._count = count
        self._drain = drain
        self._notifier = notifier
        self.tally = Tally()
        self._loop = asyncio.get_running_loop()
        self._alive: dict[int, _Worker] = {}
        self._current: set[_Worker] = set()
        self._pause = FIRST_PAUSE
        self._reload: asyncio.Task[None] | None = None
        self._again = False
        self._started = False
        self._stopping = False
        self._ended = asyncio.Event()

    def fault(self) -> str:
        """Why nobody should be sent here; nothing where all is well."""
        if self._stopping:
            return "draining"
        return "" if self.tally.ready() else "no worker is ready"

    async def run(self, welcome: Callable[[], None]) -> int:
        """Until a signal ends all of it; returns the exit code. `welcome` is called when all are ready."""
        loop = self._loop
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._reap()  # as process 1 it may have inherited some before
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        try:
            self._take(await self._start())
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
        if self._again:
            self._hang_up()
        watch = loop.create_task(self._watch())
        await self._ended.wait()
        watch.cancel()
        log.info("stopped")
        return 0

    # --- workers come ---------------------------------------------------------------------------------

    async def _start(self) -> set[_Worker]:
        """As many as there should be, all ready, the first one before the others. Raises Failed, and keeps none."""
        fresh: set[_Worker] = set()
        try:
            for count in (1, self._count - 1):
                if self._stopping:
                    raise Failed("is not wanted any more", 0)
                for _ in range(count):
                    fresh.add(self._spawn())
                async with asyncio.timeout(START):
                    await asyncio.gather(*(worker.ready for worker in fresh))
        except (Failed, TimeoutError) as error:
            for worker in fresh:
                self._leave(worker)
            raise error if isinstance(error, Failed) else Failed(f"took over {START:.0f} s", 1) from None
        return fresh

    def _take(self, fresh: set[_Worker]) -> None:
        """These serve from now on; one that has ended since it was ready is replaced."""
        self._current = {worker for worker in fresh if self._alive.get(worker.pid) is worker}
        for worker in fresh - self._current:
            self._replace_soon(f"worker {worker.pid} ended while others started")

    def _spawn(self) -> _Worker:
        """Raises Failed where there is no room for one more process, or file."""
        with ExitStack() as ours, ExitStack() as theirs:
            try:
                plug, passed_on = socket.socketpair()
                ours.enter_context(plug)
                theirs.enter_context(passed_on)
                tally, counts = socket.socketpair()
                ours.enter_context(tally)
                theirs.enter_context(counts)
                files = [passed_on, counts, *self._sockets]
                for file in files:
                    file.set_inheritable(True)
                environ = {**os.environ, VARIABLE: ",".join(str(file.fileno()) for file in files)}
                # A group of its own: the terminal's Ctrl-C is for the parent to pass on.
                pid = os.posix_spawn(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ, setpgroup=0)
            except OSError as error:
                raise Failed(f"could not be started ({reason_of(error)})", 1) from error
            ours.pop_all()
        plug.setblocking(False)
        self.tally.join(tally)
        worker = _Worker(pid, plug, self._loop.create_future())
        # Where nobody waits for it any more, its failure is no news.
        worker.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._alive[pid] = worker
        self._loop.add_reader(plug, self._hear, worker)
        return worker

    def _hear(self, worker: _Worker) -> None:
        try:
            data = worker.plug.recv(4096)
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(worker.plug)
            return
        worker.heard = time.monotonic()
        if b"READY=1" in data and not worker.ready.done():
            log.info("worker %d accepts", worker.pid)
            worker.ready.set_result(None)

    # --- workers go -----------------------------------------------------------------------------------

    def _reap(self) -> None:
        for pid, code in ended_children():
            worker = self._alive.pop(pid, None)
            if worker is not None:
                self._bury(worker, code)
        if self._stopping and not self._alive:
            self._ended.set()

    def _bury(self, worker: _Worker, code: int) -> None:
        self._loop.remove_reader(worker.plug)
        worker.plug.close()
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
        """Start one where one is missing: those of a reload may have filled its place."""
        if self._stopping or len(self._current) >= self._count:
            return
        try:
            self._current.add(self._spawn())
        except Failed as failure:
            self._replace_soon(f"a worker {failure}")

    def _leave(self, worker: _Worker) -> None:
        """Let its replies finish, for a while."""
        if worker.killer is None:  # told once: at the very end of its exit a second signal would kill it
            self._signal(worker, signal.SIGTERM)
            worker.killer = self._loop.call_later(self._drain + SPARE, self._signal, worker, signal.SIGKILL)

    def _signal(self, worker: _Worker, number: signal.Signals) -> None:
        if worker.pid in self._alive:  # not yet reaped: the number cannot be another's
            os.kill(worker.pid, number)

    async def _watch(self) -> None:
        """Kill those that show no sign of life: their loop stands still, and so does every reply of theirs."""
        while True:
            due = time.monotonic() + BEAT
            await asyncio.sleep(BEAT)
            now = time.monotonic()
            for worker in self._alive.values():
                worker.heard += max(0.0, now - due)  # this process stood still, and has not heard what was said
                if now - worker.heard > SILENCE:
                    log.error("worker %d shows no sign of life for %.0f s: killed", worker.pid, SILENCE)
                    self._signal(worker, signal.SIGKILL)

    # --- signals --------------------------------------------------------------------------------------

    def _hang_up(self) -> None:
        """Replace all. A signal that comes meanwhile is not lost: the files may have changed again."""
        if self._stopping:
            return
        self._again = True
        if self._started and (self._reload is None or self._reload.done()):
            self._reload = self._loop.create_task(self._replace_all())

    async def _replace_all(self) -> None:
        while self._again and not self._stopping:
            self._again = False
            log.info("SIGHUP: starting %d new workers", self._count)
            self._notifier.reloading()
            try:
                fresh = await self._start()
            except Failed as failure:
                if not self._stopping:
                    log.error("SIGHUP: a new worker %s; the old ones stay", failure)
            else:
                old = self._current
                self._take(fresh)
                for worker in old:
                    self._leave(worker)
                log.info("SIGHUP: %d new workers accept, %d old ones finish their replies", len(fresh), len(old))
            if not self._stopping:
                self._notifier.ready()

    def _stop(self, number: signal.Signals) -> None:
        """The first signal lets replies finish, the second ends them."""
        again, self._stopping = self._stopping, True
        for plug in self._sockets:
            plug.close()
        self._notifier.stopping()
        if again:
            for worker in self._alive.values():
                self._signal(worker, signal.SIGQUIT)
            return
        log.info("%s: stopping; replies under way may finish (again: end them now)", number.name)
        for worker in self._alive.values():
            self._leave(worker)
        if not self._alive:
            self._ended.set()


# --- in a worker ----------------------------------------------------------------------------------


def take_worker(environ: MutableMapping[str, str]) -> tuple[Notifier, socket.socket, list[int]] | None:
    """In a worker: the way to the parent and to its tally, and the files that listen. None where this is no worker."""
    files = environ.pop(VARIABLE, "")
    if not files:
        return None
    parent, tally, *listening = map(int, files.split(","))
    plugs = socket.socket(fileno=parent), socket.socket(fileno=tally)
    for plug in plugs:
        plug.set_inheritable(False)
    return Notifier(plugs[0], BEAT), plugs[1], listening


def orders(notifier: Notifier) -> asyncio.Queue[str]:
    """Why to stop: the first order lets replies finish, the second ends them now, and only the parent gives that."""
    loop = asyncio.get_running_loop()
    given: asyncio.Queue[str] = asyncio.Queue()
    plug = notifier.plug
    assert plug is not None

    finishing = False

    def finish(why: str) -> None:
        # Told by the parent, by whoever signals all processes of a service, and by the parent's end: it is one order.
        nonlocal finishing
        if not finishing:
            finishing = True
            loop.remove_reader(plug)
            given.put_nowait(why)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, finish, number.name)
    loop.add_signal_handler(signal.SIGQUIT, given.put_nowait, "SIGQUIT")
    plug.setblocking(False)
    loop.add_reader(plug, finish, "the parent is gone")  # it says nothing: what can be read is the end
    return given
