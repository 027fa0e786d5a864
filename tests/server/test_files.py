"""What the open files of a process carry."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from cfchat.server.files import SPARE, fit, share_of
from cfchat.server.request import Limits

COUNT = st.integers(1, 10_000)


@given(st.integers(SPARE + 12, 30_000), COUNT, COUNT, COUNT, st.integers(1, 2))
def test_the_files_are_enough_whoever_comes(files: int, connections: int, mine: int, replies: int, each: int) -> None:
    limits = Limits(connections=connections, connections_each=mine)
    fitted, running = fit(limits, replies, files, each)
    most = 2 * fitted.connections if fitted.most is None else fitted.most
    assert SPARE + most + each * min(running, fitted.connections) <= files
    assert 1 <= fitted.connections <= connections and 1 <= running <= replies and fitted.connections_each <= mine
    assert fitted.most is None or fitted.most > fitted.connections
    if fitted.connections < connections:
        assert fitted.connections_each <= share_of(fitted.connections) and running <= fitted.connections


def test_limits_that_fit_stay_as_they_are() -> None:
    for files in (inf, SPARE + 2 * 4096 + 1000):
        assert fit(Limits(), 1000, files, 1) == (Limits(), 1000)
    fitted, replies = fit(Limits(), 1000, 64, 1)
    assert (fitted.connections, fitted.connections_each, replies) == (16, 4, 16)
    fitted, replies = fit(Limits(), 4, 64, 1)  # few replies leave room for more who wait
    assert (fitted.connections, fitted.connections_each, replies) == (28, 7, 4)
