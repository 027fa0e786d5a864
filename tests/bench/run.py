"""cfchat beside what one would use instead: `python tests/bench/run.py [--quick | --smoke] [--only MODES]`.

Every contender relays the same replies of one TLS origin to the same clients, in rounds that take turns, each in an
environment of its own that is made here. Prints medians with the least and the most, ratios to cfchat, and how cfchat
stands to its goals: of a shared machine the absolute numbers say little. `--beside CHECKOUT` adds another checkout of
cfchat as the contender `before`.
"""

from __future__ import annotations

import argparse
import os
import pstats
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from arena import CA, CERTS, Arena, check, measure, open_arena, reply_of
from environments import BEFORE, CONTENDERS, FLOOR, ROOT, Contender, cfchat_of, prepare
from load import Result, Task, resident
from origin import SHAPES
from tables import CPU, FIGURES, FOLDER, FRESH, HTTPS, IDLE, RATE, START, STREAM, Figure, Numbers, show, show_goals

# What users do: 200 tokens in the default model's events.
CHAT = Task(0, "burst", clients=8, tokens=200, seconds=2.0, shape="gemma")
MODES = {
    "chat": CHAT,
    "chat few": replace(CHAT, mode="few"),
    "chat one": replace(CHAT, mode="one"),
    "burst": Task(0, "burst", clients=8, tokens=1000, seconds=2.0),
    "few": Task(0, "few", clients=8, tokens=1000, seconds=2.0),
    "one": Task(0, "one", clients=8, tokens=300, seconds=2.0),
    "short": Task(0, "burst", clients=8, tokens=3, seconds=2.0),
    "paced 100": replace(CHAT, mode="paced", clients=100, seconds=4.0, warm=1.0, pace=20),
    "paced 300": replace(CHAT, mode="paced", clients=300, seconds=4.0, warm=1.5, pace=20),
}
WRITES = {
    "burst": "a reply in one write", "few": "eight events a write", "one": "an event a TLS record",
    "paced": "an event every %d ms",
}  # fmt: skip
# At a fifth of a second a token a thousand streams are no work; here it is their memory that counts.
THOUSAND = Task(0, "paced", clients=1000, tokens=60, seconds=3.0, warm=3.0, pace=200)
HANDSHAKES = 500
STARTS = 5
FIRST = MODES["short"]  # the reply that ends a start
OTHERS = ("start", "fresh", "memory")


def compare(arena: Arena, contenders: dict[str, Contender], modes: dict[str, Task], rounds: int) -> dict[str, Numbers]:
    """Measure each mode in rounds, in each round every contender once; print a table for each mode, and return them."""
    measured = {}
    with ExitStack() as stack:
        running = {name: stack.enter_context(arena.run(contender.command)) for name, contender in contenders.items()}
        for mode, task in modes.items():
            results: dict[str, list[Result]] = defaultdict(list)
            for _ in range(rounds):
                for name, (child, port) in running.items():
                    check(name, port, task)
                    watch = {"it": child.pid, "origin": arena.origin.pid}
                    results[name].append(measure(replace(task, port=port, watch=watch)))
            figures = FIGURES.get(mode, (RATE, CPU))
            measured[mode] = {figure.name: _numbers(figure, results) for figure in figures}
            show(_title(mode, task), measured[mode])
            _show_room(arena, task, results)
    return measured


def _title(mode: str, task: Task) -> str:
    writes = WRITES[task.mode].replace("%d", str(task.pace))
    return f"{mode}: {task.tokens} tokens a reply, {task.shape} events, {writes}, {task.clients} clients"


def _numbers(figure: Figure, results: dict[str, list[Result]]) -> dict[str, list[float]]:
    return {name: [figure.of(result) for result in own] for name, own in results.items()}


def _show_room(arena: Arena, task: Task, results: dict[str, list[Result]]) -> None:
    """Print how busy the origin was, and what it gives without a contender: it must not be what is measured."""
    busy = max(result.cpu["origin"] / result.seconds for own in results.values() for result in own)
    line = f"origin: {busy:.0%} of a processor at most"
    if task.mode != "paced":
        straight = measure(replace(task, port=arena.port, tls=True, seconds=1.0, shape=task.shape))
        line += f"; without a contender between {straight.tokens / straight.seconds:,.0f} tokens/s"
    print(f"({line})\n", flush=True)


def starts(arena: Arena, contenders: dict[str, Contender], rounds: int) -> Numbers:
    """Measure from the start of the process to the end of a first reply, and the memory that it has then."""
    numbers: Numbers = {START: defaultdict(list), IDLE: defaultdict(list)}
    for turn in range(-1, rounds):
        for name, contender in contenders.items():
            ms, mib = _start(arena, contender.command)
            if turn >= 0:  # the turn before has compiled what is imported
                numbers[START][name].append(ms)
                numbers[IDLE][name].append(mib)
    return numbers


def _start(arena: Arena, command: list[str]) -> tuple[float, float]:
    """Return the ms from the start to the end of a first reply, and the MiB that are resident then."""
    began = time.monotonic()
    with arena.run(command) as (child, port):
        reply_of(port, FIRST)
        return (time.monotonic() - began) * 1000, resident(child.pid) / 1024


def fresh_starts(arena: Arena, contenders: dict[str, Contender], rounds: int) -> Numbers:
    """Measure the first start of a fresh copy: of each cfchat's one file, and of the folder, which is compiled then."""
    numbers: Numbers = {FRESH: defaultdict(list)}
    for _ in range(rounds):
        for name in [name for name in ("cfchat", BEFORE) if name in contenders]:
            python, script = contenders[name].command
            with tempfile.TemporaryDirectory() as place:
                pyz = Path(place) / "cfchat.pyz"
                pyz.write_bytes(subprocess.check_output([python, script, "deploy", "pyz"]))
                numbers[FRESH][name].append(_start(arena, [python, str(pyz)])[0])
        with tempfile.TemporaryDirectory() as place:
            shutil.copytree(ROOT / "cfchat", f"{place}/cfchat", ignore=shutil.ignore_patterns("__pycache__"))
            copy = shutil.copy(ROOT / "cfchat_server.py", place)
            numbers[FRESH][FOLDER].append(_start(arena, [sys.executable, copy])[0])
    return numbers


def memory(arena: Arena, contenders: dict[str, Contender]) -> Numbers:
    """Measure what a stream costs, and, of each cfchat, an HTTPS connection that has shaken hands and asks nothing."""
    numbers: Numbers = {STREAM: defaultdict(list), HTTPS: defaultdict(list)}
    for name, contender in contenders.items():
        with arena.run(contender.command) as (child, port):
            reply_of(port, FIRST)
            before = resident(child.pid)
            busy = measure(replace(THOUSAND, port=port, watch={"it": child.pid}))
            numbers[STREAM][name].append((busy.kib["it"] - before) / THOUSAND.clients)
        if name in ("cfchat", BEFORE):
            with arena.run(contender.command, CFCHAT_TLS_CERT=str(CERTS / "localhost.pem")) as (child, port):
                numbers[HTTPS][name].append(_idle_https(child.pid, port))
    return numbers


def _idle_https(pid: int, port: int) -> float:
    """Return the KiB that a connection costs the process."""
    context, sizes = ssl.create_default_context(cafile=str(CA)), []
    with ExitStack() as held:
        for count in (50, HANDSHAKES):  # the first ones grow what all share
            for _ in range(count):
                sock = held.enter_context(socket.create_connection(("127.0.0.1", port)))
                held.enter_context(context.wrap_socket(sock, server_hostname="localhost"))
            time.sleep(0.5)  # the server still has to read the end of the last handshakes
            sizes.append(resident(pid))
    return (sizes[1] - sizes[0]) / HANDSHAKES


def profile(arena: Arena, task: Task) -> None:
    """Print where cfchat's time goes, by cProfile, which makes calls dearer than they are."""
    with tempfile.TemporaryDirectory() as folder:
        dumped = f"{folder}/profile"
        command = [sys.executable, "-m", "cProfile", "-o", dumped, "-m", "cfchat"]
        with arena.run(command) as (child, port):
            result = measure(replace(task, port=port, watch={"it": child.pid}))
        cpu = result.cpu["it"] / result.tokens * 1e6
        print(f"{_title('profile', task)}: {result.tokens:,} tokens, {cpu:.1f} us of CPU each under the profiler")
        for order in ("tottime", "cumtime"):
            pstats.Stats(dumped).sort_stats(order).print_stats(60)


def chosen(names: str | None) -> list[str]:
    """Return the modes named, separated by commas; all by default. `chat` and `paced` name all that begin so."""
    known = [*MODES, *OTHERS]
    wanted = names.split(",") if names else known
    if strange := set(wanted) - {*known, *(mode.split()[0] for mode in known)}:
        raise SystemExit(f"--only: there is no mode {', '.join(sorted(strange))}")
    return [mode for mode in known if mode in wanted or mode.split()[0] in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some minutes: one short round")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, cfchat and the floor, nothing installed")
    parser.add_argument("--profile", metavar="MODE", choices=MODES, help="show where cfchat's time goes")
    parser.add_argument("--only", metavar="MODES", help="by commas: chat, paced, " + ", ".join([*MODES, *OTHERS]))
    parser.add_argument("--against", metavar="NAMES", help="contenders beside cfchat: " + ",".join(CONTENDERS))
    parser.add_argument("--beside", metavar="CHECKOUT", help="another checkout of cfchat, as the contender `before`")
    parser.add_argument("--environments", metavar="FOLDER", help="keep what is installed, for the next run")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each mode (5)")
    parser.add_argument("--shape", choices=SHAPES, help="of the events (gemma in chat and paced, else classic)")
    given = parser.parse_args()
    beside = Path(given.beside).resolve() if given.beside else None
    kept = Path(given.environments).resolve() if given.environments else None
    os.chdir(HERE.parents[1])
    names = given.against.split(",") if given.against else [FLOOR] if given.smoke else list(CONTENDERS)
    rounds = given.rounds or (1 if given.quick or given.smoke else 5)
    shorter = 0.15 if given.smoke else 0.4 if given.quick else 1.0
    picked = chosen(given.profile or given.only)
    modes = {
        name: replace(
            task,
            seconds=task.seconds * shorter,
            warm=task.warm * max(shorter, 0.4),
            shape=given.shape or task.shape,
        )
        for name, task in MODES.items()
        if name in picked
    }
    with open_arena() as arena, tempfile.TemporaryDirectory() as folder:
        if given.profile:
            profile(arena, modes[given.profile])
            return
        contenders = prepare(names, kept or Path(folder))
        if beside:
            contenders[BEFORE] = cfchat_of(beside)
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
        measured = compare(arena, contenders, modes, rounds)
        titles = {mode: f"{mode}, {task.tokens} tokens a reply" for mode, task in MODES.items()}
        titles["start"] = f"start, {FIRST.tokens} tokens a reply"
        titles["fresh"] = f"first start of a fresh .pyz, {FIRST.tokens} tokens a reply"
        titles["memory"] = f"memory, {THOUSAND.tokens} tokens a reply"
        if "start" in picked and not given.smoke:
            measured["start"] = starts(arena, contenders, 1 if given.quick else STARTS)
            show(titles["start"], measured["start"])
        if "fresh" in picked and not given.smoke:
            measured["fresh"] = fresh_starts(arena, contenders, 1 if given.quick else STARTS)
            show(titles["fresh"], measured["fresh"])
        if "memory" in picked and not given.smoke:
            measured["memory"] = memory(arena, contenders)
            show(titles["memory"], measured["memory"])
        show_goals(measured, titles)


if __name__ == "__main__":
    main()
