"""The bench's clients: `python tests/bench/load.py JSON`, where JSON is a Task. One loop over epoll; prints a Result.

Each client asks again as soon as its reply is whole. Tokens are counted by the `~` that each holds. The processes
named are watched over the same time: their CPU seconds come from /proc, which the kernel counts in ns.
"""

from __future__ import annotations

import json
import re
import select
import socket
import ssl
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

STAMP = re.compile(rb"~(\d{16})")
LAST_CHUNK = b"0\r\n\r\n"
PATIENCE = 30.0


@dataclass
class Task:
    """The port to ask, the reply to ask for, how many clients ask, and for how many seconds after the first `warm`."""

    port: int
    mode: str
    clients: int
    tokens: int
    seconds: float
    warm: float = 0.5
    pace: int = 0
    shape: str = "classic"
    tls: bool = False  # straight to the origin, no contender between
    watch: dict[str, int] = field(default_factory=dict)  # pids


@dataclass
class Result:
    """What came in `seconds`, the CPU seconds of each process, latencies in ms, and faults with their counts."""

    seconds: float
    tokens: int
    replies: int
    cpu: dict[str, float]
    latency: dict[str, float]
    first: dict[str, float]
    kib: dict[str, int]
    faults: dict[str, int]


def cpu_of(pid: int) -> float:
    """Return the seconds that all threads of a process were on a processor."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def resident(pid: int) -> int:
    """Return the KiB of a process that are resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    values.sort()
    return {"p50": values[len(values) // 2] * 1e3, "p99": values[len(values) * 99 // 100] * 1e3}


class Client:
    """One connection and the reply it waits for."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asked = 0.0
        self.begun = False
        self.tokens = 0
        self.tail = b""  # what could be cut: a stamp, the last chunk


class Clients:
    def __init__(self, task: Task) -> None:
        self.task = task
        words = f"bench {task.mode} {task.tokens} {task.pace} {task.shape}"
        body = json.dumps([{"role": "user", "content": words}]).encode()
        head = "POST /api/chatbot HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self.request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self.epoll = select.epoll()
        self.clients: dict[int, Client] = {}
        self.faults: dict[str, int] = {}
        self.begin_counting()

    def begin_counting(self) -> None:
        self.tokens = self.replies = 0
        self.latency: list[float] = []
        self.first: list[float] = []
        self.began = time.monotonic()
        self.used = {name: cpu_of(pid) for name, pid in self.task.watch.items()}

    def run(self) -> Result:
        task = self.task
        for number in range(task.clients):
            self.connect()
            if task.mode == "paced":  # spread over a reply, so that they do not march together
                self.poll_for(task.tokens * task.pace / 1000 / task.clients if number else 0.0)
        patience = time.monotonic() + PATIENCE
        while not all(client.begun for client in self.clients.values()) and time.monotonic() < patience:
            self.poll_for(0.05)  # until each has its connection, and its handshake is done
        self.poll_for(task.warm)
        self.begin_counting()
        self.poll_for(task.seconds)
        lasted = time.monotonic() - self.began
        cpu = {name: cpu_of(pid) - self.used[name] for name, pid in task.watch.items()}
        kib = {name: resident(pid) for name, pid in task.watch.items()}
        for client in self.clients.values():
            client.sock.close()
        latency, first = percentiles(self.latency), percentiles(self.first)
        return Result(lasted, self.tokens, self.replies, cpu, latency, first, kib, self.faults)

    def connect(self) -> None:
        sock = socket.create_connection(("127.0.0.1", self.task.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.task.tls:
            sock = ssl._create_unverified_context().wrap_socket(sock)
        sock.setblocking(False)
        client = self.clients[sock.fileno()] = Client(sock)
        self.epoll.register(sock, select.EPOLLIN)
        self.ask(client)

    def ask(self, client: Client) -> None:
        client.tokens, client.tail = 0, b""
        client.asked = time.monotonic()
        client.sock.send(self.request)

    def poll_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for number, _ in self.epoll.poll(left):
                self.read(number, self.clients[number])

    def read(self, number: int, client: Client) -> None:
        try:
            while True:
                data = client.sock.recv(65536)
                if not data:
                    break
                self.take(client, data)
                if not self.task.tls:
                    return
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        except OSError as error:
            self.fault(str(error))
        else:
            self.fault("connection closed")
        self.epoll.unregister(number)
        client.sock.close()
        del self.clients[number]

    def take(self, client: Client, data: bytes) -> None:
        now = time.monotonic()
        if not client.tail and not data.startswith(b"HTTP/1.1 200 "):
            self.fault(f"answered {data[:40]!r}")
        if not client.tokens and b"~" in data:
            client.begun = True
            self.first.append(now - client.asked)
        new = data.count(b"~")
        self.tokens += new
        client.tokens += new
        data = client.tail + data
        if self.task.pace:
            stamps = STAMP.findall(data)
            self.latency += [now - int(stamp) / 1e9 for stamp in stamps]
        if data.endswith(LAST_CHUNK):
            self.replies += 1
            if client.tokens != self.task.tokens:
                self.fault(f"{client.tokens} tokens of {self.task.tokens}")
            self.ask(client)
        else:
            cut = data.rfind(b"~")
            client.tail = data[cut if 0 <= len(data) - cut <= 16 and cut >= 0 else -4 :]

    def fault(self, what: str) -> None:
        self.faults[what] = self.faults.get(what, 0) + 1


if __name__ == "__main__":
    print(json.dumps(asdict(Clients(Task(**json.loads(sys.argv[1]))).run())))
