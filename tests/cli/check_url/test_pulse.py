"""What is judged of a pulse, from lists of what came and when: nobody waits here."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cfchat.cli.check_url.call import LONGEST, Answer
from cfchat.cli.check_url.pulse import Pulse, read_stream
from cfchat.cli.results import Status
from cfchat.wire.fields import Fields
from cfchat.wire.messages import ResponseHead

BEAT = b": still there\n\n"
ON_TIME = (5.0, 255.0, 505.0, 755.0, 1005.0)
UNBUFFERED = ("X-Accel-Buffering", "no")


def event(number: int) -> bytes:
    client = {"client": "192.0.2.1"} if number == 1 else {}
    return b"data: " + json.dumps({"n": number, "t": 0} | client).encode() + b"\n\n"


def answer(
    pieces: Sequence[tuple[float, bytes]], *fields: tuple[str, str], fault: str = "", ms: float | None = None
) -> Answer:
    made = Answer()
    made.head = ResponseHead(200, "OK", 1, Fields([("Content-Type", "text/event-stream"), *fields]))
    made.pieces = list(pieces)
    made.fault = fault
    made.ms = ms if ms is not None else pieces[-1][0] if pieces else 0.0
    return made


def pulse(times: Sequence[float], *fields: tuple[str, str], fault: str = "") -> Pulse:
    return Pulse(answer([(ms, event(n)) for n, ms in enumerate(times, 1)], *fields, fault=fault))


gaps = st.lists(st.sampled_from([0.0, 1.0, 49.9, 50.0, 250.0, 699.9, 700.0, 1000.0]), min_size=5, max_size=5)


@given(gaps)
@example([699.9, 0.0, 0.0, 0.0, 250.0])
@example([700.0, 0.0, 0.0, 0.0, 250.0])
@example([1000.0, 0.0, 0.0, 250.0, 250.0])
def test_held_back_is_three_gaps_of_four_behind_a_late_first_event(between: list[float]) -> None:
    times = list(accumulate(between))
    short = [later - earlier < 50 for earlier, later in pairwise(times)]
    status = pulse(times, UNBUFFERED).judge_buffering().status
    assert (status is Status.FAIL) is (sum(short) >= 3 and times[0] >= 700)
    assert (status is Status.OK) is (sum(short) < 3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ((("Server", "nginx/1.22.1"),), ["proxy_buffering off", "X-Accel-Buffering"]),
        ((("CF-Ray", "8f-AMS"), ("Server", "cloudflare"), UNBUFFERED), ["Compression Rules", "zone"]),
        ((("CF-Ray", "8f-AMS"),), ["Compression Rules", "nothing but an nginx", "proxy_buffering off"]),
        ((("Via", "1.1 Caddy"), UNBUFFERED), ["flush_interval -1"]),
        ((("Via", "1.1 varnish (Varnish/7.1)"), UNBUFFERED), ["vcl_recv"]),
        ((("Server", "Apache/2.4"), UNBUFFERED), ["flushpackets=on"]),
        ((("Via", "1.1 \u202esomething\x07"), UNBUFFERED), ["cfchat deploy nginx"]),
        ((UNBUFFERED,), ["cfchat deploy nginx"]),
        ((("Content-Encoding", "gzip"), UNBUFFERED), ["gzip_types"]),
    ],
)
def test_the_advice_names_the_culprit(fields: tuple[tuple[str, str], ...], words: list[str]) -> None:
    pieces = [(1000.0, b"".join(map(event, range(1, 6))))]
    if fields[0] == ("Content-Encoding", "gzip"):
        pieces = [(1000.0, zlib.compress(pieces[0][1], wbits=31))]
    result = Pulse(answer(pieces, *fields)).judge_buffering()
    assert result.status is Status.FAIL and not [word for word in words if word not in result.next], result
    assert (result.detail + result.next).isprintable()
    assert ("nothing but an nginx" in result.next) is (fields == (("CF-Ray", "8f-AMS"),))


@pytest.mark.parametrize(("first", "status"), [(5.0, Status.WARN), (1000.0, Status.FAIL)])
def test_a_coding_that_cannot_be_read_here(first: float, status: Status) -> None:
    read = Pulse(answer([(first, b"\x8b\x02\x80"), (1005.0, b"\x03")], ("Content-Encoding", "br")))
    result = read.judge_buffering()
    assert (result.status, 'compressed ("br")' in result.detail) == (status, True)
    assert read.judge_end().status is Status.OK and read.judge_client(True).status is Status.SKIP


@given(st.lists(st.integers(0, 400), max_size=6), st.booleans())
def test_a_body_is_read_alike_however_it_is_cut(cuts: list[int], packed: bool) -> None:
    body = event(1) + BEAT + BEAT + b"".join(map(event, range(2, 6)))
    wire = zlib.compress(body, wbits=31) if packed else body
    ends = [0, *sorted(cuts), len(wire)]
    pieces = [(float(number), wire[start:end]) for number, (start, end) in enumerate(pairwise(ends))]
    events, beats = read_stream(pieces, "gzip" if packed else "")
    assert ([data["n"] for _, data in events], len(beats)) == ([1, 2, 3, 4, 5], 2)


@given(st.binary(max_size=300), st.sampled_from(["", "gzip", "deflate", "br", "no such"]))
def test_any_bytes_can_be_judged(body: bytes, coding: str) -> None:
    read = Pulse(answer([(1.0, body)], ("Content-Encoding", coding) if coding else UNBUFFERED))
    for result in (read.judge_buffering(), read.judge_end(), read.judge_silence(), read.judge_client(True)):
        assert (result.detail + result.next).isprintable()


def test_few_bytes_that_unpack_to_many_are_read_up_to_a_limit() -> None:
    deflate = zlib.compressobj(wbits=31)
    comments = b": x\n\n" * (LONGEST // 5)
    bombs = [deflate.compress(comments * size) + deflate.flush(zlib.Z_SYNC_FLUSH) for size in (1, 1, 1, 100)]
    tracemalloc.start()
    events, beats = read_stream([(1.0, bomb) for bomb in bombs], "gzip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (events, len(beats)) == ([], LONGEST // 5 + 1) and peak < 40 * LONGEST


@pytest.mark.parametrize(
    ("times", "fault", "words"),
    [
        (ON_TIME, "", None),
        (ON_TIME, "the connection ended inside a message", "cut after 1005 ms, 5 of 5 events"),
        (ON_TIME[:3], "Connection reset by peer", "cut after 505 ms, 3 of 5 events"),
        (ON_TIME[:4], "", "ended after 755 ms, 4 of 5 events"),
        ((), "no end within 10 s", "0 of 5 events"),
    ],
)
def test_a_cut(times: Sequence[float], fault: str, words: str | None) -> None:
    result = pulse(times, UNBUFFERED, fault=fault).judge_end()
    assert result.status is (Status.OK if words is None else Status.FAIL)
    assert ("no field names a proxy" in result.detail) is (result.status is Status.FAIL)
    assert (words or "whole after 1005 ms") in result.detail and fault in result.detail


def test_the_servers_own_end_is_no_cut_of_a_proxy() -> None:
    last = b'event: error\ndata: {"error":{"message":"This server is stopping."},"text":""}\n\n'
    result = Pulse(answer([(5.0, event(1)), (200.0, last)])).judge_end()
    assert result.status is Status.FAIL and "cfchat ended the stream" in result.detail and "stopping" in result.detail


def silent(beats: Sequence[float], fault: str = "", ms: float = 66_005.0, first: float = 5.0) -> Pulse:
    pieces = [(first, event(1)), *((beat, BEAT) for beat in beats)]
    if not fault:
        pieces += [(65_005.0 + 250 * number, event(number + 2)) for number in range(4)]
    return Pulse(answer(pieces, ("Server", "nginx"), fault=fault, ms=ms))


@pytest.mark.parametrize(
    ("read", "status", "words"),
    [
        (silent([15_005, 30_010, 45_015, 60_020]), Status.OK, "4 of 4 heartbeats"),
        (silent([65_005] * 4), Status.WARN, "0 of 4 heartbeats in time: held back by nginx"),
        (silent([]), Status.WARN, "0 of 4 heartbeats"),
        (silent([65_755] * 4, first=65_755), Status.WARN, "0 of 4 heartbeats"),
        (silent([15_005, 30_010], "Connection reset by peer", 45_000), Status.FAIL, "cut after 45.0 s, with 2"),
        (silent([], "the connection ended", 60_000), Status.FAIL, "cut after 60.0 s, with 0 heartbeats"),
    ],
)
def test_a_silent_pulse(read: Pulse, status: Status, words: str) -> None:
    result = read.judge_silence()
    assert (result.status, words in result.detail) == (status, True), result
    assert ("proxy_read_timeout" in result.next) is (status is Status.FAIL)


@pytest.mark.parametrize(
    ("client", "public", "status"),
    [
        ("192.0.2.9", False, Status.OK),
        ("1.1.1.1", True, Status.OK),
        ("2606:4700::1111", True, Status.OK),
        ("127.0.0.1", False, Status.OK),
        ("127.0.0.1", True, Status.WARN),
        ("10.1.2.3", True, Status.WARN),
        ("fe80::1%eth0", True, Status.WARN),
        ("unix", False, Status.WARN),
        ("x\ny", False, Status.WARN),
        (7, True, Status.SKIP),
    ],
)
def test_the_address_that_the_server_sees(client: object, public: bool, status: Status) -> None:
    first = b"data: " + json.dumps({"n": 1, "t": 0, "client": client}).encode() + b"\n\n"
    result = Pulse(answer([(5.0, first)])).judge_client(public)
    assert result.status is status
    assert ("--trusted-proxies" in result.next) is (status is Status.WARN and public)
