"""cfchat beside what one would use instead: `python tests/bench/run.py [--quick | --smoke] [--profile MODE]`.

Every contender relays the same replies of one TLS origin to the same clients, in rounds that take turns, each in a
throw-away environment that is made here. Medians with the least and the most, and ratios to cfchat: of a shared
machine the absolute numbers say little.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from math import nan
from pathlib import Path
from statistics import median
from typing import IO

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from environments import BYTES, CONTENDERS, FLOOR, Contender, prepare
from load import Result, Task, resident
from origin import SHAPES, text

CA = HERE.parent / "support" / "certs" / "ca.pem"
MODES = {
    "burst": Task(0, "burst", clients=8, tokens=1000, seconds=2.0),
    "few": Task(0, "few", clients=8, tokens=1000, seconds=2.0),
    "one": Task(0, "one", clients=8, tokens=300, seconds=2.0),
    "chat whole": Task(0, "burst", clients=8, tokens=200, seconds=2.0, shape="openai"),
    "chat few": Task(0, "few", clients=8, tokens=200, seconds=2.0, shape="openai"),
    "chat one": Task(0, "one", clients=8, tokens=200, seconds=2.0, shape="openai"),
    "short": Task(0, "burst", clients=8, tokens=3, seconds=2.0),
    "paced 100": Task(0, "paced", clients=100, tokens=150, seconds=4.0, warm=1.0, pace=20),
    "paced 300": Task(0, "paced", clients=300, tokens=150, seconds=4.0, warm=1.5, pace=20),
}
WRITES = {
    "burst": "a reply in one write", "few": "eight events a write", "one": "an event a TLS record",
    "paced": "an event every %d ms",
}  # fmt: skip
# At a fifth of a second a token a thousand streams are no work; here it is their memory that counts.
THOUSAND = Task(0, "paced", clients=1000, tokens=60, seconds=3.0, warm=3.0, pace=200)
STARTS = 5


@dataclass(frozen=True)
class Figure:
    """One number of a result, and whether more of it is better."""

    name: str
    of: Callable[[Result], float]  # nan where nothing of it fell into the time that was measured
    more: bool = False


CPU = Figure("CPU ms per 1,000 tokens", lambda result: result.cpu["it"] / max(1, result.tokens) * 1e6)
RATE = Figure("tokens/s", lambda result: result.tokens / result.seconds, more=True)
REPLIES = Figure("requests/s", lambda result: result.replies / result.seconds, more=True)
PACED = (
    CPU,
    Figure("added ms per token p50", lambda result: result.latency.get("p50", nan)),
    Figure("added ms per token p99", lambda result: result.latency.get("p99", nan)),
    Figure("added ms to the first p50", lambda result: result.first.get("p50", nan)),
    Figure("added ms to the first p99", lambda result: result.first.get("p99", nan)),
)
FIGURES = {"short": (REPLIES, CPU), "paced 100": PACED, "paced 300": PACED}

Numbers = dict[str, dict[str, list[float]]]  # of a figure, of each contender


# --- processes ------------------------------------------------------------------------------------


@contextmanager
def process(command: list[str], environ: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process whose first line of output ends with its port, perhaps with a path behind it."""
    # Frameworks log a traceback for each client that leaves when its time is over; ours must have nothing to say.
    errors = None if "cfchat" in " ".join(command) else subprocess.DEVNULL
    # What is installed has been compiled.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    child = subprocess.Popen(command, env={**own, **environ}, stdout=subprocess.PIPE, stderr=errors)
    try:
        yield child, _port(child.stdout)
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _port(output: IO[bytes] | None) -> int:
    assert output is not None
    line = output.readline().decode()
    if not line:
        raise SystemExit("a process did not start")
    return int(line.rpartition(":")[2].partition("/")[0])


def measure(task: Task) -> Result:
    """Run the clients. Exits where a reply was not what it should be: whoever loses tokens is quick."""
    command = [sys.executable, str(HERE / "load.py"), json.dumps(asdict(task))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=task.warm + task.seconds + 60)
    result = Result(**json.loads(done.stdout))
    if result.faults or not result.tokens:
        raise SystemExit(f"{task}: {result.faults or 'nothing came'}")
    return result


class Arena:
    """The origin, and the contenders as they are started against it."""

    def __init__(self, origin: subprocess.Popen[bytes], port: int) -> None:
        self.origin = origin
        self.port = port

    def environ(self) -> dict[str, str]:
        base = f"https://localhost:{self.port}/client/v4"
        return {
            "UPSTREAM": f"{base}/accounts/{'0' * 32}/ai/run/@cf/bench/model",
            "SSL_CERT_FILE": str(CA),
            "CLOUDFLARE_ACCOUNT_ID": "0" * 32,
            "CLOUDFLARE_API_TOKEN": "token",
            "CFCHAT_BASE_URL": base,
            "CFCHAT_MODEL": "@cf/bench/model",
            "CFCHAT_FALLBACK_MODELS": "none",
            "CFCHAT_PORT": "0",
            "CFCHAT_MAX_CONNECTIONS_EACH": "4096",
            "CFCHAT_LOG_LEVEL": "warning",  # no contender logs its requests
        }

    @contextmanager
    def run(self, command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        with process(command, self.environ()) as started:
            yield started


@contextmanager
def arena() -> Iterator[Arena]:
    with process([sys.executable, str(HERE / "origin.py")], {}) as (origin, port):
        yield Arena(origin, port)


# --- what is measured -----------------------------------------------------------------------------


def compare(arena: Arena, contenders: dict[str, Contender], modes: dict[str, Task], rounds: int) -> None:
    """Each mode in rounds, in each round every contender once; prints a table for each mode."""
    with ExitStack() as stack:
        running = {name: stack.enter_context(arena.run(found.command)) for name, found in contenders.items()}
        for mode, task in modes.items():
            results: dict[str, list[Result]] = defaultdict(list)
            for _ in range(rounds):
                for name, (child, port) in running.items():
                    check(name, port, task)
                    watch = {"it": child.pid, "origin": arena.origin.pid}
                    results[name].append(measure(replace(task, port=port, watch=watch)))
            figures = FIGURES.get(mode, (RATE, CPU))
            show(_title(mode, task), {figure.name: _numbers(figure, results) for figure in figures}, figures)
            _show_room(arena, task, results)


def _title(mode: str, task: Task) -> str:
    writes = WRITES[task.mode].replace("%d", str(task.pace))
    return f"{mode}: {task.tokens} tokens a reply, {task.shape} events, {writes}, {task.clients} clients"


def _numbers(figure: Figure, results: dict[str, list[Result]]) -> dict[str, list[float]]:
    return {name: [figure.of(result) for result in found] for name, found in results.items()}


def _show_room(arena: Arena, task: Task, results: dict[str, list[Result]]) -> None:
    """The origin must not be what is measured: how busy it was, and what it gives where nobody is between."""
    busy = max(result.cpu["origin"] / result.seconds for found in results.values() for result in found)
    told = f"origin: {busy:.0%} of a processor at most"
    if task.mode != "paced":
        straight = measure(replace(task, port=arena.port, tls=True, seconds=1.0, shape=task.shape))
        told += f"; without anybody between {straight.tokens / straight.seconds:,.0f} tokens/s"
    print(f"({told})\n", flush=True)


def starts(arena: Arena, contenders: dict[str, Contender], rounds: int) -> None:
    """From the start of the process to the end of a first reply; then memory: idle, and with a thousand streams."""
    figures = (Figure("ms to a first reply", _nothing), Figure("MiB idle", _nothing), Figure("KiB a stream", _nothing))
    numbers: Numbers = {figure.name: defaultdict(list) for figure in figures}
    for turn in range(-1, rounds):
        for name, found in contenders.items():
            began = time.monotonic()
            with arena.run(found.command) as (child, port):
                reply_of(port, MODES["short"])
                if turn < 0:  # to have it compiled
                    continue
                numbers["ms to a first reply"][name].append((time.monotonic() - began) * 1000)
                numbers["MiB idle"][name].append(resident(child.pid) / 1024)
                if turn == 0:
                    busy = measure(replace(THOUSAND, port=port, watch={"it": child.pid}))
                    kib = (busy.kib["it"] - numbers["MiB idle"][name][0] * 1024) / THOUSAND.clients
                    numbers["KiB a stream"][name].append(kib)
    show("start and memory (1,000 streams)", numbers, figures)


def _nothing(result: Result) -> float:
    raise AssertionError("this figure is not of a run of the clients")


def reply_of(port: int, task: Task) -> str:
    """Return the text of a whole reply, asked for on a connection of its own."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = f'[{{"role":"user","content":"bench {task.mode} {task.tokens} {task.pace} {task.shape}"}}]'
    client.request("POST", "/api/chatbot", body, {"Content-Type": "application/json"})
    with closing(client), client.getresponse() as reply:
        return reply.read().decode()


def check(name: str, port: int, task: Task) -> None:
    """Exit if a contender's text is not the model's. In paced modes, load.py counts the tokens."""
    if name != BYTES and task.mode != "paced" and (content := reply_of(port, task)) != text(task.tokens):
        raise SystemExit(f"{name} answers {task} with {content[:200]!r}")


def show(title: str, numbers: Numbers, figures: tuple[Figure, ...]) -> None:
    """A table as Markdown has it; ratios are to cfchat."""
    print(f"### {title}\n")
    print("| | " + " | ".join(figure.name for figure in figures) + " |")
    print("|---|" + "---|" * len(figures))
    for name in next(iter(numbers.values())):
        print(f"| {name} | " + " | ".join(_cell(numbers[figure.name], name) for figure in figures) + " |")
    print(flush=True)


def _cell(of: dict[str, list[float]], name: str) -> str:
    values, ours = of[name], median(of["cfchat"])
    middle = median(values)
    return f"{_short(middle)} ({_short(min(values))} to {_short(max(values))}), x {middle / ours if ours else 0:.2f}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def profile(arena: Arena, task: Task) -> None:
    """Where cfchat's time goes, by cProfile, which makes calls dearer than they are."""
    with tempfile.TemporaryDirectory() as folder:
        dumped = f"{folder}/profile"
        command = [sys.executable, "-m", "cProfile", "-o", dumped, "-m", "cfchat"]
        with arena.run(command) as (child, port):
            result = measure(replace(task, port=port, watch={"it": child.pid}))
        cpu = result.cpu["it"] / result.tokens * 1e6
        print(f"{_title('profile', task)}: {result.tokens:,} tokens, {cpu:.1f} us of CPU each under the profiler")
        for order in ("tottime", "cumtime"):
            pstats.Stats(dumped).sort_stats(order).print_stats(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about a minute: one short round")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, cfchat and the floor, nothing installed")
    parser.add_argument("--profile", metavar="MODE", choices=MODES, help="show where cfchat's time goes")
    parser.add_argument("--only", metavar="NAMES", help="contenders beside cfchat: " + ",".join(CONTENDERS))
    parser.add_argument("--modes", metavar="NAMES", help="modes, by commas: " + ", ".join([*MODES, "start"]))
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each mode (5)")
    parser.add_argument("--shape", choices=SHAPES, help="of the events (openai in chat, else classic)")
    given = parser.parse_args()
    os.chdir(HERE.parents[1])
    names = given.only.split(",") if given.only else [FLOOR] if given.smoke else list(CONTENDERS)
    rounds = given.rounds or (1 if given.quick or given.smoke else 5)
    shorter = 0.15 if given.smoke else 0.4 if given.quick else 1.0
    modes = {
        name: replace(
            task,
            seconds=task.seconds * shorter,
            warm=task.warm * max(shorter, 0.4),
            shape=given.shape or task.shape,
        )
        for name, task in MODES.items()
        if not given.modes or name in given.modes.split(",")
    }
    with arena() as ring, tempfile.TemporaryDirectory() as folder:
        if given.profile:
            profile(ring, modes[given.profile])
            return
        contenders = prepare(names, Path(folder))
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
        compare(ring, contenders, modes, rounds)
        if not given.smoke and (not given.modes or "start" in given.modes.split(",")):
            starts(ring, contenders, 1 if given.quick else STARTS)


if __name__ == "__main__":
    main()
