"""The bench's model: `python tests/bench/origin.py`. A TLS origin in one loop over epoll; prints its port.

The user's message says what to send: `bench MODE TOKENS PACE SHAPE`. Modes: `burst` is a whole reply in one write,
`few` eight events a write, `one` an event a write, each a TLS record of its own; `paced` an event every PACE ms, each
with the moment it was sent in it (ns of the monotonic clock). Every token holds one `~`, and nothing else does.
"""

from __future__ import annotations

import heapq
import json
import random
import re
import select
import socket
import ssl
import sys
import time
from functools import cache
from pathlib import Path

CERTS = Path(__file__).parents[1] / "support" / "certs"
ASKED = re.compile(rb"bench (\w+) (\d+) (\d+) (\w+)")
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WORDS = ("~ the", "~ of", "~ streaming", "~ a", "~ model", "~,", "~ is", "~ now", "~ to", "~.", "~ is\u00fc", "~ word")
_random = random.Random(1)
PADS = ["".join(_random.choices("abdefghijklmnoprstuvxyz1234567890", k=_random.randint(1, 36))) for _ in range(101)]
CATALOGUE = b'{"success":true,"result":[{"name":"@cf/bench/model","task":{"name":"Text Generation"}}]}'
TOTAL = '"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}'
FEW = 8

# What Cloudflare's models send: the classic dialect, without and with its padding, and OpenAI's. `gemma` is what the
# default model sends: padding of random length and the usage so far in each event.
_CHUNK = (
    '{"choices":[{"delta":{"content":TEXT,"reasoning_content":null},"finish_reason":null,"index":0,"logprobs":null,'
    '"matched_stop":null}],"created":1790000000,"id":"0f962191d3d2f47418286b60056319eb",'
    '"model":"@cf/google/gemma-4-26b-a4b-it-external","object":"chat.completion.chunk","p":"PAD","usage":'
    '{"prompt_tokens":%s,"completion_tokens":%s,"total_tokens":%s,"prompt_tokens_details":{"cached_tokens":0},'
    '"neurons":0.0272}}'
)
SHAPES = {
    "classic": '{"response":TEXT}',
    "padded": '{"response":TEXT,"p":"PAD"}',
    "openai": _CHUNK % (0, 1, 1),
    "gemma": _CHUNK % (12, "SAID", "TOTAL"),
}
LAST = '{"response":"",%s}'


def chunk(data: str) -> bytes:
    raw = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(raw), raw)


def event(shape: str, word: str, number: int) -> bytes:
    data = SHAPES[shape].replace("PAD", PADS[number % len(PADS)])
    data = data.replace("SAID", str(number + 1)).replace("TOTAL", str(number + 13))
    return chunk(data.replace("TEXT", json.dumps(word, ensure_ascii=False)))


@cache
def end(shape: str) -> bytes:
    return chunk(LAST % TOTAL) + chunk("[DONE]") + b"0\r\n\r\n"


@cache
def writes(mode: str, tokens: int, shape: str) -> list[bytes]:
    """A whole reply as the writes it is sent in."""
    events = [event(shape, WORDS[number % len(WORDS)], number) for number in range(tokens)]
    if mode == "burst":
        return [HEAD + b"".join(events) + end(shape)]
    size = FEW if mode == "few" else 1
    together = [b"".join(events[start : start + size]) for start in range(0, tokens, size)]
    return [HEAD, *together, end(shape)]


class Peer:
    """A connection: requests in, writes out, in order and as fast as the peer takes them."""

    def __init__(self, plug: ssl.SSLSocket) -> None:
        self.plug = plug
        self.shaken = False
        self.inbound = b""
        self.outbound: list[bytes] = []
        self.left = 0  # tokens of a paced reply that are not sent yet
        self.pace = 0.0
        self.shape = "classic"

    def tick(self) -> None:
        """The next token of a paced reply, and its end behind the last."""
        self.left -= 1
        stamped = event(self.shape, f"~{time.monotonic_ns():016d}", self.left)
        self.outbound.append(stamped if self.left else stamped + end(self.shape))


class Origin:
    def __init__(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTS / "localhost.pem")
        context.set_alpn_protocols(["http/1.1"])
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)
        self.epoll = select.epoll()
        self.epoll.register(self.listener, select.EPOLLIN)
        self.peers: dict[int, Peer] = {}
        self.due: list[tuple[float, int, Peer]] = []

    def run(self) -> None:
        while True:
            wait = max(0.0, self.due[0][0] - time.monotonic()) if self.due else -1
            for number, _ in self.epoll.poll(wait):
                if number == self.listener.fileno():
                    self.accept()
                elif (peer := self.peers.get(number)) is not None:
                    self.serve(number, peer)
            self.tick()

    def accept(self) -> None:
        try:
            while True:
                plug, _ = self.listener.accept()
                plug.setblocking(False)
                plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                tls = self.context.wrap_socket(plug, server_side=True, do_handshake_on_connect=False)
                self.peers[tls.fileno()] = Peer(tls)
                self.epoll.register(tls, select.EPOLLIN)
        except BlockingIOError:
            pass

    def serve(self, number: int, peer: Peer) -> None:
        try:
            if not peer.shaken:
                peer.plug.do_handshake()
                peer.shaken = True
            self.flush(number, peer)
            while data := peer.plug.recv(65536):
                peer.inbound += data
                self.read(number, peer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            pass
        self.drop(number, peer)

    def drop(self, number: int, peer: Peer) -> None:
        self.peers.pop(number, None)
        peer.left = 0
        peer.plug.close()

    def read(self, number: int, peer: Peer) -> None:
        head, found, rest = peer.inbound.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not found or (length and len(rest) < int(length[1])):
            return
        peer.inbound = b""
        asked = ASKED.search(rest)
        if asked is None:
            fields = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            peer.outbound = [fields % len(CATALOGUE) + CATALOGUE]
        elif asked[1] == b"paced":
            peer.left, peer.pace, peer.shape = int(asked[2]), int(asked[3]) / 1000, asked[4].decode()
            peer.outbound = [HEAD]
            peer.tick()
            heapq.heappush(self.due, (time.monotonic() + peer.pace, number, peer))
        else:
            peer.outbound = list(writes(asked[1].decode(), int(asked[2]), asked[4].decode()))
        self.flush(number, peer)

    def flush(self, number: int, peer: Peer) -> None:
        if not peer.outbound:
            return
        try:
            while peer.outbound:
                peer.plug.send(peer.outbound[0])
                del peer.outbound[0]
        except ssl.SSLWantWriteError:
            self.epoll.modify(number, select.EPOLLIN | select.EPOLLOUT)
            return
        self.epoll.modify(number, select.EPOLLIN)

    def tick(self) -> None:
        now = time.monotonic()
        while self.due and self.due[0][0] <= now:
            when, number, peer = heapq.heappop(self.due)
            if not peer.left:
                continue
            peer.tick()
            try:
                self.flush(number, peer)
            except OSError:
                self.drop(number, peer)
            if peer.left:
                heapq.heappush(self.due, (when + peer.pace, number, peer))


if __name__ == "__main__":
    origin = Origin()
    print(origin.listener.getsockname()[1], flush=True)
    try:
        origin.run()
    except KeyboardInterrupt:
        sys.exit(0)
