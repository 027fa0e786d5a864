"""Judge a pulse by what came of it and when: whether it is held back or cut, and which client the server saw. Pure."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

from cfchat.app.pulse import EVENTS
from cfchat.cli.check_url.answers import excerpt, name_proxy
from cfchat.cli.check_url.call import LONGEST, Answer
from cfchat.cli.check_url.proxies import NGINX, identify
from cfchat.cli.results import Result, Status
from cfchat.errors import EventTooLarge
from cfchat.wire.sse import SSEParser

TOGETHER = 50.0  # ms between two events that something has held back
LATE = 700.0  # ms after which even the first event of a pulse is late
IDLE = 65  # seconds of a silent pulse
LAG = 3000.0  # ms that a heartbeat may be late
BEAT = 15_000.0  # ms from one heartbeat to the next
BEATS = 4  # in so many seconds
_UNPACKED = "leave text/event-stream out of what the proxy compresses (nginx: `gzip_types`, `brotli_types`)"


Events = list[tuple[float, dict[str, Any]]]  # when each came, and its data


def read_stream(pieces: Sequence[tuple[float, bytes]], coding: str) -> tuple[Events, list[float]]:
    """Return the events in the pieces of a body, and when heartbeats came. All times are as the pieces have them.

    Both are empty if the coding is not known here, such as br.
    """
    events: Events = []
    beats: list[float] = []
    decode, parser, text = _decoder(coding), SSEParser(4096, 4096), b""
    if decode is None:
        return events, beats
    for ms, piece in pieces:
        try:
            data = decode(piece)
            events += [(ms, _members(event.data)) for event in parser.feed(data)]
        except (zlib.error, EventTooLarge):
            break
        text = (text + data)[:LONGEST]
        beats += [ms] * (len(re.findall(rb"(?m)^:", text)) - len(beats))
    return events, beats


def _decoder(coding: str) -> Callable[[bytes], bytes] | None:
    if coding in ("", "identity"):
        return lambda piece: piece
    if coding in ("gzip", "x-gzip", "deflate"):
        inflate = zlib.decompressobj(47)  # gzip or zlib, by its first bytes
        return lambda piece: inflate.decompress(piece, LONGEST)
    return None


def _members(data: str) -> dict[str, Any]:
    try:
        members = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}


class Pulse:
    """A pulse that is over: the fields of its reply, what came and when, and why it broke off (`fault`), if it did."""

    def __init__(self, answer: Answer, secrets: Sequence[str] = ()) -> None:
        self.fields = answer.fields
        self.fault = answer.fault
        self.ms = answer.ms
        self.first_byte = answer.pieces[0][0] if answer.pieces else answer.ms
        coding = answer.fields.get("content-encoding", "").strip().lower()
        self.coding = "" if coding == "identity" else coding
        self.readable = _decoder(coding) is not None
        self.events, self.beats = read_stream(answer.pieces, coding)
        self._secrets = secrets

    @property
    def foreign(self) -> bool:
        """Whether the events are not cfchat's."""
        return bool(self.events) and not any("n" in data or "error" in data for _, data in self.events)

    @property
    def _held(self) -> str:
        return f"held back by {name_proxy(self.fields, self._secrets) or 'a proxy that no field names'}"

    @property
    def _way(self) -> str:
        name = name_proxy(self.fields, self._secrets)
        return f"through {name}" if name else "no field names a proxy"

    def judge_buffering(self) -> Result:
        """Judge whether the events came one by one, as they were sent, or all together."""
        times = [ms for ms, _ in self.events]
        first = times[0] if times else self.first_byte
        gaps = [later - earlier for earlier, later in pairwise(times)]
        together = sum(gap < TOGETHER for gap in gaps) >= EVENTS - 2
        packed = f" compressed ({excerpt(self.coding, self._secrets)})" if self.coding else ""
        ms = round(first, 1)
        if together and first < LATE:
            detail = (
                f"the first event after {first:.0f} ms, but most of them together{packed}, after {times[-1]:.0f} ms"
            )
            detail = f"{detail}: {self._held}"
            return Result("buffering", Status.WARN, detail, self._advise_on_buffering(), ms)
        if together or (not self.readable and first >= LATE):
            detail = f"the events come together{packed}, the first after {first:.0f} ms: {self._held}"
            return Result("buffering", Status.FAIL, detail, self._advise_on_buffering(), ms)
        if self.readable and len(times) < EVENTS - 1:
            return Result("buffering", Status.SKIP, f"too few events to judge: {len(times)}", ms=ms)
        detail = f"events come as they are sent{packed}: the first after {first:.0f} ms"
        if not packed:
            return Result("buffering", Status.OK, detail, ms=ms)
        if not self.readable:
            detail = f"the stream comes{packed}, so that its events cannot be read here: the first after {first:.0f} ms"
        return Result("buffering", Status.WARN, detail, f"{_UNPACKED}: what compresses may hold words back", ms)

    def _advise_on_buffering(self) -> str:
        proxy = identify(self.fields)
        steps = [_UNPACKED] if self.coding else []
        steps.append(proxy.streams)
        if "x-accel-buffering" not in self.fields and proxy.streams != NGINX.streams:
            steps.append(f"nothing but an nginx takes `X-Accel-Buffering` away, so there is one, too: {NGINX.streams}")
        return "; ".join(steps)

    def judge_end(self) -> Result:
        """Judge whether the pulse came whole."""
        end = round(self.ms, 1)
        told = next((data["error"] for _, data in self.events if data and "error" in data), None)
        if told is not None:
            detail = f"cfchat ended the stream after {end:.0f} ms: {excerpt(json.dumps(told), self._secrets)}"
            return Result("cut", Status.FAIL, detail, "try again: it was about to stop, perhaps", end)
        count = f"{len(self.events)} of {EVENTS} events" if self.readable else "its events unread"
        step = f"see the logs of the proxy and of cfchat for the reason; {identify(self.fields).silence}"
        if self.fault:
            detail = f"cut after {end:.0f} ms, {count}, without its end: {self.fault}; {self._way}"
            return Result("cut", Status.FAIL, detail, step, end)
        if self.readable and len(self.events) < EVENTS:
            return Result("cut", Status.FAIL, f"ended after {end:.0f} ms, {count}; {self._way}", step, end)
        return Result("cut", Status.OK, f"whole after {end:.0f} ms: {count}", ms=end)

    def judge_silence(self) -> Result:
        """Judge a pulse that was silent for IDLE seconds but for heartbeats, which come every 15 s."""
        end, seconds = round(self.ms, 1), f"{self.ms / 1000:.1f} s"
        late = [beat for number, beat in enumerate(self.beats, 1) if beat > number * BEAT + LAG]
        in_time = len(self.beats) - len(late)
        heard = f"{in_time} of {BEATS} heartbeats in time"
        if not self.readable and not self.fault:
            return Result("slow", Status.SKIP, "heartbeats of a compressed stream cannot be read here", ms=end)
        if self.fault or len(self.events) < EVENTS:
            detail = (
                f"cut after {seconds}, with {in_time} heartbeats in time: {self.fault or 'it ended'}; {self._way}"
            )
            return Result("slow", Status.FAIL, detail, identify(self.fields).silence, end)
        if in_time < BEATS:
            detail = f"whole after {seconds}, but {heard}: {self._held}"
            return Result("slow", Status.WARN, detail, self._advise_on_buffering(), end)
        return Result("slow", Status.OK, f"silent for {IDLE} s and whole, {heard}", ms=end)

    def judge_client(self, public: bool) -> Result:
        """Judge the address that cfchat takes this client for. `public` says whether strangers reach the server."""
        client = self.events[0][1].get("client") if self.events else None
        if not isinstance(client, str):
            return Result("client", Status.SKIP, "the first event, which has the client's address, cannot be read")
        try:
            address = ip_address(client.partition("%")[0])
        except ValueError:
            detail = f"cfchat takes this client for {excerpt(client, self._secrets)}: all clients count as one"
            return Result("client", Status.WARN, detail, "let the proxy before it set X-Forwarded-For")
        if public and not address.is_global:
            detail = f"cfchat takes this client for {address}, a proxy's address: all clients count as one"
            step = f"give cfchat --trusted-proxies {address}, and let that proxy set X-Forwarded-For"
            return Result("client", Status.WARN, detail, step)
        return Result("client", Status.OK, f"cfchat takes this client for {address}")
