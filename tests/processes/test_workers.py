"""Several processes on one socket: streams under way at each kind of end and of reload."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from client import get, scrape, until
from command import command
from places import ROOT
from process import Gate, Process, ask, begun, gone, is_whole, ports_of, standin, started

from cfchat.cli.serve import _share
from cfchat.ops.systemd import Notifier
from cfchat.ops.workers import take_orders
from cfchat.settings.load import load

FLAGS = ("--workers", "2", "--fallback-models", "none", "--log-level", "info")


async def spread(process: Process) -> dict[int, list]:  # type: ignore[type-arg]
    """Begin streams until each of two workers has at least two. Return them by worker."""
    streams = []
    while True:
        streams.append(await begun(process.port))
        held = {pid: ports_of(pid, process.port) for pid in process.workers()}
        by_worker = {pid: [stream for stream in streams if stream.own_port in ports] for pid, ports in held.items()}
        if len(by_worker) == 2 and all(len(some) >= 2 for some in by_worker.values()):
            return by_worker


async def test_kill_9_of_a_worker_breaks_its_own_streams_alone() -> None:
    gate = Gate()
    async with standin(gate) as upstream, started(upstream.base_url, *FLAGS) as process:
        by_worker = await spread(process)
        killed, kept = sorted(by_worker)
        os.kill(killed, signal.SIGKILL)
        for stream in by_worker[killed]:
            broken = await stream.rest()
            assert (broken.body, broken.whole) == (b"Hel", False)
        await process.logged(f"WARNING worker {killed} was ended by SIGKILL; another one starts in 0.1 s")
        await process.logged("worker [0-9]+ accepts", 3)
        assert kept in process.workers() and len(process.workers()) == 2
        gate.open.set()
        assert all([is_whole(await stream.rest()) for stream in by_worker[kept]])
        assert is_whole(await (await ask(process.port)).rest())
        assert await process.stop() == 0


async def test_a_parent_whose_log_nobody_reads_replaces_a_worker() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"\n" * fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096))
    stuck = ["sh", "-c", f'exec "$@" 2>/proc/{os.getpid()}/fd/{writing}', "sh", *command()]
    async with standin() as upstream, started(upstream.base_url, *FLAGS, argv=stuck) as process:
        killed, kept = process.workers()
        os.kill(killed, signal.SIGKILL)
        await until(lambda: killed not in (pids := process.workers()) and kept in pids and len(pids) == 2)
        assert is_whole(await (await ask(process.port)).rest())
        process.send(signal.SIGTERM)
        os.close(writing)
        with os.fdopen(reading, "rb") as log:  # what waited is written as soon as it is read
            text = await asyncio.to_thread(log.read)
        assert await process.process.wait() == 0
    assert f"worker {killed} was ended by SIGKILL".encode() in text


@contextmanager
def no_more_files(pid: int) -> Iterator[None]:
    """Let a process open no further files within the block; it keeps those that it has."""
    _, most = limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, most))
    yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


async def test_a_parent_that_cannot_start_a_worker_tries_again() -> None:
    """As on a machine without memory: the reason that killed a worker prevents the next one."""
    failed = "a worker could not be started .Too many open files.; another one starts in "
    async with standin() as upstream, started(upstream.base_url, *FLAGS) as process:
        with no_more_files(process.pid):
            process.send(signal.SIGHUP)
            await process.logged("SIGHUP: a new worker could not be started .Too many open files.; the old ones stay")
            os.kill(process.workers()[0], signal.SIGKILL)
            await process.logged(f"WARNING {failed}0.2 s")
            await process.logged(f"WARNING {failed}0.4 s")
            assert len(process.workers()) == 1
            assert is_whole(await (await ask(process.port)).rest())
        await process.logged("worker [0-9]+ accepts", 3)
        assert len(process.workers()) == 2
        process.send(signal.SIGHUP)
        await process.logged("2 new workers accept")
        assert await process.stop() == 0
    assert "Traceback" not in "".join(process.log)


async def test_a_rolling_restart_under_load_loses_nothing() -> None:
    """Long streams from before each of two reloads, short ones during them; then the stop."""
    gate, done = Gate(), asyncio.Event()
    async with standin(gate) as upstream, started(upstream.base_url, *FLAGS) as process:
        answers = []

        async def keep_asking() -> None:
            while not done.is_set():
                answers.append(await (await ask(process.port)).rest())

        by_worker = await spread(process)
        long, old = [stream for streams in by_worker.values() for stream in streams], set(by_worker)
        short = [asyncio.create_task(keep_asking()) for _ in range(4)]
        for number in range(2):
            process.send(signal.SIGHUP)
            await process.logged("SIGHUP: 2 new workers accept", number + 1)
            fresh = await begun(process.port)  # of a new worker, while the old ones still have theirs
            long.append(fresh)
        assert old <= set(process.workers()), "they wait for their streams"
        gate.open.set()
        assert all([is_whole(await stream.rest()) for stream in long])
        await asyncio.gather(*(gone(pid) for pid in old if pid in process.workers()))
        done.set()
        await asyncio.gather(*short)
        gate.open.clear()
        last = [await begun(process.port) for _ in range(4)]
        process.send(signal.SIGTERM)
        await process.logged("SIGTERM: stopping")
        gate.open.set()
        assert all([is_whole(await stream.rest()) for stream in last])
        assert all(map(is_whole, answers)) and answers
        assert await process.process.wait() == 0


async def test_a_reload_reads_keys_and_broken_ones_keep_the_old_workers(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("laptop first-key-of-all\n")
    flags = (*FLAGS, "--api-keys-file", str(keys))
    async with standin() as upstream, started(upstream.base_url, *flags) as process:
        old = process.workers()
        keys.write_text("nonsense")
        process.send(signal.SIGHUP)
        await process.logged("ERROR SIGHUP: a new worker ended with code 2; the old ones stay")
        assert len(process.matching("^cfchat: --api-keys-file")) == 1
        assert process.workers() == old
        keys.write_text("laptop second-key-of-all\n")
        process.send(signal.SIGHUP)
        await process.logged("SIGHUP: 2 new workers accept")
        await asyncio.gather(*(gone(pid) for pid in old if pid in process.workers()))
        assert (await (await ask(process.port)).rest()).status == 401
        assert await process.stop() == 0


async def test_a_reload_reads_the_file_of_settings_but_for_what_the_parent_has(tmp_path: Path) -> None:
    """One that names another number of workers divides the daily tokens by the number that there is."""
    config = tmp_path / "cfchat.toml"
    config.write_text("workers = 2\ndaily-tokens = 1_000_000\n")
    async with standin() as upstream, started(upstream.base_url, CFCHAT_CONFIG=str(config)) as process:
        assert is_whole(await (await ask(process.port)).rest())
        old = process.workers()
        config.write_text("workers = 0\ndaily-tokens = 1_000_000\nmax-body = 9\n")
        process.send(signal.SIGHUP)
        await process.logged("SIGHUP: 2 new workers accept")
        await asyncio.gather(*(gone(pid) for pid in old if pid in process.workers()))
        assert (await (await ask(process.port)).rest()).status == 413
        config.write_text("max-body = many\n")
        process.send(signal.SIGHUP)
        await process.logged("ERROR SIGHUP: a new worker ended with code 2; the old ones stay")
        await process.logged(r"cfchat\.toml:1: this is no TOML")
        assert await process.stop() == 0


def test_daily_tokens_are_divided_among_workers() -> None:
    environ = {"CFCHAT_WORKERS": "4", "CFCHAT_DAILY_TOKENS": "1002"}
    for daily, each in (("1002", 250), ("3", 1)):
        config = load({}, {**environ, "CFCHAT_DAILY_TOKENS": daily}, demo=True)
        assert _share(config).guard.daily_tokens == each
    assert _share(load({}, {"CFCHAT_WORKERS": "4"}, demo=True)).guard.daily_tokens is None


async def test_a_second_signal_ends_all_at_once() -> None:
    async with standin(Gate()) as upstream, started(upstream.base_url, *FLAGS) as process:
        stream = await begun(process.port)
        process.send(signal.SIGINT)
        await process.logged("SIGTERM: stopping", 2)
        process.send(signal.SIGINT)
        assert not (await stream.rest()).whole
        assert await process.process.wait() == 0


async def test_one_signal_to_every_process_is_one_order() -> None:
    """As `systemctl stop` does by default: the workers get the parent's signal, too."""
    gate = Gate()
    async with standin(gate) as upstream, started(upstream.base_url, *FLAGS) as process:
        stream = await begun(process.port)
        for pid in (*process.workers(), process.pid):
            os.kill(pid, signal.SIGTERM)
        await process.logged("INFO SIGTERM: stopping", 3)
        gate.open.set()
        assert is_whole(await stream.rest())
        assert await process.process.wait() == 0


async def test_workers_whose_parent_is_killed_finish_and_end() -> None:
    gate = Gate()
    async with standin(gate) as upstream, started(upstream.base_url, *FLAGS) as process:
        stream, workers = await begun(process.port), process.workers()
        process.send(signal.SIGKILL)
        await process.logged("the parent is gone: stopping", 2)
        gate.open.set()
        assert is_whole(await stream.rest())
        for pid in workers:
            with suppress(ProcessLookupError):
                await gone(pid)


def with_silence(seconds: float) -> list[str]:
    """Return the command with another SILENCE, in seconds."""
    code = f"import cfchat.ops.workers as w; w.BEAT, w.SILENCE = 0.1, {seconds}; from cfchat.cli.main import main"
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}; sys.exit(main())"]


async def test_a_parent_that_stood_still_kills_no_worker() -> None:
    """As after Ctrl-Z and fg: the parent has read no sign of life for that long."""
    async with standin() as upstream, started(upstream.base_url, *FLAGS, argv=with_silence(0.6)) as process:
        before = process.workers()
        for _ in range(2):
            process.send(signal.SIGSTOP)
            await asyncio.sleep(0.9)  # the stop itself is under test
            process.send(signal.SIGCONT)
            for pid in before:
                os.kill(pid, 0)
            assert is_whole(await (await ask(process.port)).rest())
        assert await process.stop() == 0
    assert not process.matching("no sign of life")


async def test_a_worker_that_dies_while_others_start_is_replaced() -> None:
    async with standin() as upstream, started(upstream.base_url, *FLAGS, "--workers", "3") as process:
        process.send(signal.SIGHUP)
        first = (await process.logged("worker [0-9]+ accepts", 4))[3].split()[-2]
        os.kill(int(first), signal.SIGRTMIN + 1)
        await process.logged(f"WARNING worker {first} .*another one starts")
        await process.logged("worker [0-9]+ accepts", 7)
        assert await process.stop() == 0


async def test_a_worker_that_stands_still_is_killed() -> None:
    argv = with_silence(1.2)
    async with standin() as upstream, started(upstream.base_url, "--workers", "1", argv=argv) as process:
        (pid,) = process.workers()
        os.kill(pid, signal.SIGSTOP)
        await process.logged(f"worker {pid} shows no sign of life")
        await process.logged("worker [0-9]+ accepts", 2)
        assert is_whole(await (await ask(process.port)).rest())


# --- metrics of all workers ------------------------------------------------------------------------

WHOLE, RUNNING = 'cfchat_replies_total{end="whole"}', 'cfchat_streams{state="running"}'


async def status(port: int, path: str) -> tuple[int, bytes]:
    answer = await get(port, path)
    return answer.status, answer.body


async def admin_of(process: Process) -> int:
    (line,) = await process.logged("admin: http://")
    match = re.search(r"admin: http://127\.0\.0\.1:(\d+)/", line)
    assert match, line
    return int(match[1])


async def test_each_worker_returns_the_metrics_of_all() -> None:
    gate = Gate()
    async with standin(gate) as upstream, started(upstream.base_url, *FLAGS) as process:
        streams = [stream for some in (await spread(process)).values() for stream in some]
        assert [(await scrape(process.port))[RUNNING] for _ in range(4)] == [len(streams)] * 4
        gate.open.set()
        assert all([is_whole(await stream.rest()) for stream in streams])
        scraped = [await scrape(process.port) for _ in range(4)]
    assert [numbers[WHOLE] for numbers in scraped] == [len(streams)] * 4
    assert [numbers["cfchat_ready"] for numbers in scraped] == [2] * 4
    assert [numbers['cfchat_requests_total{route="/metrics",status="200"}'] for numbers in scraped] == [4, 5, 6, 7]


async def test_the_parent_serves_them_at_an_own_address_and_keeps_those_of_dead_workers() -> None:
    gate = Gate()
    flags = (*FLAGS, "--admin", "127.0.0.1:0")
    async with standin(gate) as upstream, started(upstream.base_url, *flags) as process:
        admin = await admin_of(process)
        assert await status(admin, "/readyz") == (200, b"ready\n")
        assert (await status(process.port, "/metrics"))[0] == 404
        by_worker = await spread(process)
        killed, kept = by_worker
        for _ in range(5):
            assert is_whole(await (await ask(process.port)).rest())
        before = await scrape(admin)
        os.kill(killed, signal.SIGKILL)
        await process.logged(f"worker {killed} was ended by SIGKILL")
        await process.logged("worker [0-9]+ accepts", 3)
        assert not any([(await stream.rest()).whole for stream in by_worker[killed]])
        after = await scrape(admin)
        assert before[WHOLE] == after[WHOLE] == 5
        assert (before[RUNNING], after[RUNNING]) == (sum(map(len, by_worker.values())), len(by_worker[kept]))
        old = process.workers()
        process.send(signal.SIGHUP)
        await process.logged("SIGHUP: 2 new workers accept")
        gate.open.set()
        assert all([is_whole(await stream.rest()) for stream in by_worker[kept]])
        await asyncio.gather(*(gone(pid) for pid in old if pid in process.workers()))
        last = await scrape(admin)
        gate.open.clear()
        stream = await begun(process.port)
        process.send(signal.SIGTERM)
        await process.logged("SIGTERM: stopping", 3)
        assert await status(admin, "/readyz") == (503, b"draining\n")
        assert (await status(admin, "/healthz"))[0] == 200
        gate.open.set()
        assert is_whole(await stream.rest())
        assert await process.process.wait() == 0
    assert last[WHOLE] == 5 + len(by_worker[kept])
    assert last["cfchat_ready"] == 2 and last[RUNNING] == 0
    # Two workers run, and what the others have used today is added up under one name.
    used = {name: number for name, number in last.items() if name.startswith("cfchat_tokens_today")}
    assert len(used) == 3 and used['cfchat_tokens_today{worker="ended"}'] > 0
    assert sum(used.values()) == sum(last[f'cfchat_tokens_total{{kind="{kind}"}}'] for kind in ("prompt", "completion"))


async def test_a_worker_that_stands_still_counts_with_its_last_report() -> None:
    gate = Gate()
    async with standin(gate) as upstream, started(upstream.base_url, *FLAGS, "--admin", "127.0.0.1:0") as process:
        admin = await admin_of(process)
        by_worker = await spread(process)
        streams = sum(map(len, by_worker.values()))
        assert (await scrape(admin))[RUNNING] == streams
        still, _ = by_worker
        os.kill(still, signal.SIGSTOP)
        assert (await scrape(admin))[RUNNING] == streams
        os.kill(still, signal.SIGCONT)
        gate.open.set()
        assert all([is_whole(await stream.rest()) for some in by_worker.values() for stream in some])


async def test_an_admin_address_in_use_ends_the_start() -> None:
    async with standin() as upstream:
        flags = ("--workers", "2", "--admin", f"127.0.0.1:{upstream.port}")
        async with started(upstream.base_url, *flags) as process:
            assert await process.process.wait() == 2
    assert process.matching(f"^cfchat: cannot listen on 127.0.0.1 port {upstream.port}: ") and not process.banner


async def test_a_worker_that_cannot_start_ends_the_start() -> None:
    # The parent reads the settings too, so only a fault that a worker alone has can get this far.
    code = (
        "import sys; sys.path.insert(0, {!r}); import os, cfchat.ops.workers as workers\n"
        "if workers.VARIABLE in os.environ: sys.exit(7)\n"
        "from cfchat.cli.main import main; sys.exit(main())"
    )
    argv = [sys.executable, "-c", code.format(str(ROOT))]
    async with standin() as upstream, started(upstream.base_url, "--workers", "3", argv=argv) as process:
        assert await process.process.wait() == 7
    assert process.matching("ERROR a worker ended with code 7 before it was ready") and not process.banner


@pytest.mark.parametrize("workers", ["0", "2"])
async def test_as_process_1_of_a_container_it_reaps_orphans(workers: str) -> None:
    unshare = shutil.which("unshare")
    if "CI" not in os.environ and (unshare is None or os.getuid() != 0):
        pytest.skip("needs root and unshare")
    assert unshare is not None
    # The shell leaves an orphan behind and then becomes the command.
    shell = ["sh", "-c", '(sleep 0.1 & echo orphan >&2) & exec "$@"', "sh", *command()]
    before = [unshare, "--pid", "--fork", "--kill-child=SIGKILL"]
    async with (
        standin() as upstream,
        started(upstream.base_url, "--workers", workers, before=before, argv=shell) as process,
    ):
        (first,) = process.workers()
        children = Path(f"/proc/{first}/task/{first}/children")
        await until(lambda: len(children.read_text().split()) == int(workers))
        assert is_whole(await (await ask(process.port)).rest())
        os.kill(first, signal.SIGTERM)
        assert await process.process.wait() == 0


async def test_two_signals_at_once_are_one_order_too() -> None:
    """The loop may get both in one turn, before anything is done about the first."""
    ours, theirs = socket.socketpair()
    notifier = Notifier(theirs, 1.0)
    orders = take_orders(notifier)
    try:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert await orders.get() == "SIGTERM"
        ours.close()
        for _ in range(10):
            await asyncio.sleep(0)
        assert orders.empty()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            asyncio.get_running_loop().remove_signal_handler(number)
        notifier.close()
