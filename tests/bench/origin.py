"""The bench's model: `python tests/bench/origin.py`. A TLS origin in one loop over epoll; prints its port.

The user's message says what to send: `bench MODE TOKENS PACE SHAPE`. Modes: `burst` is a whole reply in one write,
`few` eight events a write, `one` an event a write, each a TLS record of its own; `paced` an event every PACE ms, each
with the moment it was sent in it (ns of the monotonic clock). Every token holds one `~`, and nothing else does.

Replies are made ahead, a few variants of each: their text is the same, their padding and usage differ, so that a
contender cannot gain by remembering the bytes of an earlier reply.
"""

from __future__ import annotations

import heapq
import itertools
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
PAD = "abdefghijklmnoprstuvxyz1234567890abdefghijklmnoprstuvxyz"
CATALOGUE = b'{"success":true,"result":[{"name":"@cf/bench/model","task":{"name":"Text Generation"}}]}'
USAGE = '"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d%s}'
DETAILS = ',"prompt_tokens_details":{"cached_tokens":0},"neurons":%.4f'
PROMPT, NEURONS = 147, 0.0272  # tokens of every request; price of a token
FEW = 8
VARIANTS = 8

SHAPES = ("classic", "padded", "openai", "gemma")
OPENAI = (
    '{"choices":[%s],"created":1790000000,"id":"%032x","model":"@cf/google/gemma-4-26b-a4b-it-external",'
    '"object":"chat.completion.chunk","p":"%s",%s}'
)
CHOICE = '{"delta":{%s"reasoning_content":null%s},"finish_reason":%s,"index":0,"logprobs":null,"matched_stop":%s}'


def chunk(data: str) -> bytes:
    raw = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(raw), raw)


class Reply:
    """The events of one reply, one after the other, in a shape that Cloudflare's models have.

    `classic` is the older dialect, `padded` the same with its padding. The others are that of the default model, with
    padding of a random length and a usage in each event: in `gemma` the usage grows from event to event, in `openai`
    it is the same for each token (tests/data/streams/openai_gemma_thinking_off.sse). `seed` decides padding and `id`.
    """

    def __init__(self, shape: str, seed: int) -> None:
        self.shape = shape
        self._openai = shape in ("openai", "gemma")
        self._random = random.Random(seed)
        self._id = self._random.getrandbits(128)
        self._tokens = 0

    def begin(self) -> bytes:
        if not self._openai:
            return b""
        return self._chunk(CHOICE % ('"content":"",', ',"role":"assistant"', "null", "null"))

    def event(self, word: str) -> bytes:
        """Return the event of one more token."""
        self._tokens += 1
        text = json.dumps(word, ensure_ascii=False)
        if self._openai:
            return self._chunk(CHOICE % (f'"content":{text},', "", "null", "null"))
        padding = f',"p":"{self._padding()}"' if self.shape == "padded" else ""
        return chunk(f'{{"response":{text}{padding}}}')

    def end(self) -> bytes:
        last = b""
        if self._openai:
            last = self._chunk(CHOICE % ("", "", '"stop"', "106")) + self._chunk("")
        total = USAGE % (PROMPT, self._tokens, PROMPT + self._tokens, "")
        return last + chunk(f'{{"response":"",{total}}}') + chunk("[DONE]") + b"0\r\n\r\n"

    def _chunk(self, choices: str) -> bytes:
        return chunk(OPENAI % (choices, self._id, self._padding(), self._usage()))

    def _padding(self) -> str:
        return PAD[: self._random.randint(1, len(PAD))]

    def _usage(self) -> str:
        tokens = self._tokens
        if self.shape == "openai" and tokens:
            return USAGE % (0, 1, 1, DETAILS % NEURONS)
        return USAGE % (PROMPT, tokens, PROMPT + tokens, DETAILS % (1.3363 + tokens * NEURONS))


def text(tokens: int) -> str:
    """Return the words of a reply that is not paced."""
    return "".join(itertools.islice(itertools.cycle(WORDS), tokens))


@cache
def writes(mode: str, tokens: int, shape: str, variant: int) -> list[bytes]:
    """Return a whole reply as the writes that it is sent in."""
    reply = Reply(shape, variant)
    begin = HEAD + reply.begin()
    events = [reply.event(word) for word in itertools.islice(itertools.cycle(WORDS), tokens)]
    if mode == "burst":
        return [begin + b"".join(events) + reply.end()]
    size = FEW if mode == "few" else 1
    together = [b"".join(events[start : start + size]) for start in range(0, tokens, size)]
    return [begin, *together, reply.end()]


class Peer:
    """A connection: requests in, writes out, in order and as fast as the peer takes them."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self.shaken = False
        self.inbound = b""
        self.outbound: list[bytes] = []
        self.left = 0  # tokens of a paced reply that are not sent yet
        self.pace = 0.0
        self.reply = Reply("classic", 0)  # the paced one

    def tick(self) -> None:
        """Add the next token of a paced reply, and after the last one its end."""
        self.left -= 1
        stamped = self.reply.event(f"~{time.monotonic_ns():016d}")
        self.outbound.append(stamped if self.left else stamped + self.reply.end())


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
        self.turn = itertools.count()  # replies so far

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
                sock, _ = self.listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                tls = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                self.peers[tls.fileno()] = Peer(tls)
                self.epoll.register(tls, select.EPOLLIN)
        except BlockingIOError:
            pass

    def serve(self, number: int, peer: Peer) -> None:
        try:
            if not peer.shaken:
                peer.sock.do_handshake()
                peer.shaken = True
            self.flush(number, peer)
            while data := peer.sock.recv(65536):
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
        peer.sock.close()

    def read(self, number: int, peer: Peer) -> None:
        head, separator, rest = peer.inbound.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not separator or (length and len(rest) < int(length[1])):
            return
        peer.inbound = b""
        wanted = ASKED.search(rest)
        if wanted is None:
            fields = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            peer.outbound = [fields % len(CATALOGUE) + CATALOGUE]
        elif wanted[1] == b"paced":
            peer.left, peer.pace = int(wanted[2]), int(wanted[3]) / 1000
            peer.reply = Reply(wanted[4].decode(), next(self.turn))
            peer.outbound = [HEAD + peer.reply.begin()]
            peer.tick()
            heapq.heappush(self.due, (time.monotonic() + peer.pace, number, peer))
        else:
            variant = next(self.turn) % VARIANTS
            peer.outbound = list(writes(wanted[1].decode(), int(wanted[2]), wanted[4].decode(), variant))
        self.flush(number, peer)

    def flush(self, number: int, peer: Peer) -> None:
        if not peer.outbound:
            return
        try:
            while peer.outbound:
                peer.sock.send(peer.outbound[0])
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
