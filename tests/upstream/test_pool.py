"""The pool: its decisions against a model, then the class that carries them out."""

from __future__ import annotations

from itertools import takewhile

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cfchat.upstream.pool import Pool, PoolState, Settings


class Connection:
    """Counts its closings. All are equal: only identity may tell them apart."""

    def __init__(self, made: float = 0.0) -> None:
        self.made = made
        self.since = made
        self.usable = True
        self.closings = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Connection)

    __hash__ = None  # type: ignore[assignment]

    def close(self) -> None:
        self.closings += 1
        self.usable = False


def ids(connections: list[Connection]) -> list[int]:
    return [id(conn) for conn in connections]


class PoolMachine(RuleBasedStateMachine):
    """Every connection is in exactly one place: lent, idle (in order of return) or gone."""

    settings: Settings

    @initialize(idle=st.integers(0, 3), idle_timeout=st.integers(1, 4), max_age=st.integers(2, 6))
    def start(self, idle: int, idle_timeout: int, max_age: int) -> None:
        self.settings = Settings(idle, idle_timeout, max_age)
        self.state: PoolState[Connection] = PoolState(self.settings)
        self.now = 0.0
        self.lent: list[Connection] = []
        self.idle: list[Connection] = []
        self.gone: list[Connection] = []
        self.spoiled: list[Connection] = []  # given back as not reusable
        self.shut = False

    def expired(self, conn: Connection) -> bool:
        too_old = self.now - conn.made >= self.settings.max_age
        return too_old or self.now - conn.since >= self.settings.idle_timeout

    def leave(self, closed: list[Connection], expected: list[Connection]) -> None:
        assert ids(closed) == ids(expected)
        self.idle = [conn for conn in self.idle if id(conn) not in ids(closed)]
        for conn in closed:
            conn.close()
        self.gone += closed

    @rule(seconds=st.integers(0, 3))
    def lend(self, seconds: int) -> None:
        self.now += seconds
        conn, closed = self.state.lend(self.now)
        self.leave(closed, list(takewhile(self.expired, reversed(self.idle))))
        if conn is None:
            assert not self.idle
            return
        assert id(conn) not in ids(self.lent), "lent twice"
        assert not conn.closings, "closed and lent"
        assert not self.expired(conn), "expired and lent"
        assert id(conn) not in ids(self.spoiled), "not reusable and lent"
        assert conn is self.idle.pop(), "not the youngest"
        self.lent.append(conn)

    @rule()
    def connect(self) -> None:
        conn = Connection(self.now)
        self.state.lent(conn, self.now)
        self.lent.append(conn)

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), seconds=st.integers(0, 3), reusable=st.sampled_from([True, True, True, False]))
    def give_back(self, data: st.DataObject, seconds: int, reusable: bool) -> None:
        self.now += seconds
        conn = self.lent.pop(data.draw(st.integers(0, len(self.lent) - 1)))
        closed = self.state.give_back(conn, self.now, reusable)
        if not reusable:
            self.spoiled.append(conn)
        if self.shut or not reusable or self.now - conn.made >= self.settings.max_age:
            self.leave(closed, [conn])
            return
        conn.since = self.now
        self.idle.append(conn)
        self.leave(closed, self.idle[:1] if len(self.idle) > self.settings.idle else [])

    @rule(data=st.data())
    def give_back_what_is_not_lent(self, data: st.DataObject) -> None:
        conn = data.draw(st.sampled_from([*self.idle, *self.gone, Connection()]))
        with pytest.raises(ValueError, match="not lent"):
            self.state.give_back(conn, self.now, True)

    @precondition(lambda self: self.lent or self.idle)
    @rule(data=st.data())
    def enter_what_is_known(self, data: st.DataObject) -> None:
        with pytest.raises(ValueError, match="already"):
            self.state.lent(data.draw(st.sampled_from([*self.lent, *self.idle])), self.now)

    @rule(seconds=st.integers(0, 3))
    def expire(self, seconds: int) -> None:
        self.now += seconds
        self.leave(self.state.expire(self.now), [conn for conn in self.idle if self.expired(conn)])

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def idle_one_dies(self, data: st.DataObject) -> None:
        conn = data.draw(st.sampled_from(self.idle))
        self.state.forget(conn)
        self.leave([conn], [conn])

    @rule(data=st.data())
    def forget_what_is_not_idle(self, data: st.DataObject) -> None:
        self.state.forget(data.draw(st.sampled_from([*self.lent, *self.gone, Connection()])))

    @precondition(lambda self: len(self.gone) > 4)  # late, or there is little left to see
    @rule()
    def shut_down(self) -> None:
        self.shut = True
        self.leave(self.state.shut(), list(self.idle))

    @invariant()
    def idle_within_limit(self) -> None:
        assert self.state.idle <= self.settings.idle

    @invariant()
    def counts_are_true(self) -> None:
        assert (self.state.idle, self.state.lent_out) == (len(self.idle), len(self.lent))

    @invariant()
    def each_in_one_place(self) -> None:
        everywhere = ids([*self.lent, *self.idle, *self.gone])
        assert len(everywhere) == len(set(everywhere))

    @invariant()
    def closed_once_and_only_when_gone(self) -> None:
        assert all(conn.closings == 1 for conn in self.gone)
        assert not any(conn.closings for conn in [*self.lent, *self.idle])

    @invariant()
    def nothing_idle_after_shut(self) -> None:
        assert not (self.shut and self.state.idle)


TestPoolState = PoolMachine.TestCase


class Bench:
    """A pool whose clock is `now`, and whose connections are all in `made`."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.now = 0.0
        self.made: list[Connection] = []
        self.pool = Pool(self.connect, settings or Settings(), lambda: self.now)

    async def connect(self) -> Connection:
        self.made.append(Connection(self.now))
        return self.made[-1]


async def test_borrow_connects_then_reuses() -> None:
    bench = Bench()
    first, from_pool = await bench.pool.borrow()
    assert not from_pool
    bench.pool.give_back(first)
    again, from_pool = await bench.pool.borrow()
    assert from_pool
    assert again is first
    assert len(bench.made) == 1


async def test_two_borrowers_never_share() -> None:
    bench = Bench()
    one, _ = await bench.pool.borrow()
    other, _ = await bench.pool.borrow()
    assert one is not other
    assert bench.pool.state.lent_out == 2


async def test_fresh_always_connects() -> None:
    bench = Bench()
    kept, _ = await bench.pool.borrow()
    bench.pool.give_back(kept)
    conn, from_pool = await bench.pool.borrow(fresh=True)
    assert not from_pool
    assert conn is not kept
    assert not kept.closings


async def test_those_not_usable_are_skipped_and_closed() -> None:
    bench = Bench()
    oldest, stale, dead = [(await bench.pool.borrow())[0] for _ in range(3)]
    for conn in (oldest, stale, dead):
        bench.pool.give_back(conn)
    stale.usable = dead.usable = False
    conn, from_pool = await bench.pool.borrow()
    assert from_pool
    assert conn is oldest
    assert (oldest.closings, stale.closings, dead.closings) == (0, 1, 1)
    assert (bench.pool.state.idle, bench.pool.state.lent_out) == (0, 1)


async def test_what_cannot_be_reused_is_closed() -> None:
    bench = Bench()
    conn, _ = await bench.pool.borrow()
    conn.usable = False
    bench.pool.give_back(conn)
    assert conn.closings == 1
    assert bench.pool.state.idle == 0


async def test_giving_back_twice_is_an_error_and_closes_nothing() -> None:
    bench = Bench()
    conn, _ = await bench.pool.borrow()
    bench.pool.give_back(conn)
    with pytest.raises(ValueError, match="not lent"):
        bench.pool.give_back(conn)
    assert not conn.closings
    assert bench.pool.state.idle == 1


async def test_idle_limit_closes_the_oldest() -> None:
    bench = Bench(Settings(idle=1))
    first, second = [(await bench.pool.borrow())[0] for _ in range(2)]
    bench.pool.give_back(first)
    bench.pool.give_back(second)
    assert (first.closings, second.closings) == (1, 0)


@pytest.mark.parametrize(("seconds", "reused"), [(59.9, True), (60.0, False)])
async def test_idle_timeout(seconds: float, reused: bool) -> None:
    bench = Bench()
    conn, _ = await bench.pool.borrow()
    bench.now = 100.0  # a long reply: only idle time counts
    bench.pool.give_back(conn)
    bench.now += seconds
    assert (await bench.pool.borrow())[1] is reused
    assert conn.closings == (not reused)


@pytest.mark.parametrize(("seconds", "reused"), [(19.9, True), (20.0, False)])
async def test_age_counts_from_the_connect_through_all_loans(seconds: float, reused: bool) -> None:
    bench = Bench(Settings(max_age=20.0))
    conn, _ = await bench.pool.borrow()
    for bench.now in (5.0, 10.0):
        bench.pool.give_back(conn)
        assert (await bench.pool.borrow())[0] is conn
    bench.pool.give_back(conn)
    bench.now = seconds
    assert (await bench.pool.borrow())[1] is reused
    assert conn.closings == (not reused)


async def test_expire_closes_without_a_borrower() -> None:
    bench = Bench()
    conn, _ = await bench.pool.borrow()
    bench.pool.give_back(conn)
    bench.now = 60.0
    bench.pool.expire()
    assert conn.closings == 1


async def test_expire_closes_those_that_ended_by_themselves() -> None:
    bench = Bench()
    dead, good = [(await bench.pool.borrow())[0] for _ in range(2)]
    for conn in (dead, good):
        bench.pool.give_back(conn)
    dead.usable = False
    bench.pool.expire()
    assert (dead.closings, good.closings, bench.pool.state.idle) == (1, 0, 1)


async def test_clear_closes_the_idle_and_goes_on() -> None:
    bench = Bench()
    lent, idle = [(await bench.pool.borrow())[0] for _ in range(2)]
    bench.pool.give_back(idle)
    bench.pool.clear()
    assert (idle.closings, lent.closings) == (1, 0)
    bench.pool.give_back(lent)
    assert (await bench.pool.borrow()) == (lent, True)


async def test_warm_connects_what_is_missing_and_no_more() -> None:
    bench = Bench()
    await bench.pool.warm(2)
    await bench.pool.warm(2)
    assert (len(bench.made), bench.pool.state.idle, bench.pool.state.lent_out) == (2, 2, 0)
    conn, from_pool = await bench.pool.borrow()
    assert from_pool
    await bench.pool.warm(2)  # idle ones alone count
    assert (len(bench.made), bench.pool.state.idle) == (3, 2)
    await bench.pool.warm(0)
    assert not conn.closings


async def test_warm_keeps_nothing_in_a_pool_that_is_closed() -> None:
    bench = Bench()
    bench.pool.close()
    await bench.pool.warm(1)
    assert (bench.made[0].closings, bench.pool.state.idle) == (1, 0)


async def test_forgotten_is_not_lent() -> None:
    bench = Bench()
    conn, _ = await bench.pool.borrow()
    bench.pool.give_back(conn)
    bench.pool.forget(conn)
    assert (await bench.pool.borrow())[0] is not conn


async def test_close_closes_the_idle_now_and_the_lent_when_they_come_back() -> None:
    bench = Bench()
    lent, idle = [(await bench.pool.borrow())[0] for _ in range(2)]
    bench.pool.give_back(idle)
    bench.pool.close()
    assert (idle.closings, lent.closings) == (1, 0)
    bench.pool.give_back(lent)
    assert lent.closings == 1


async def test_a_failed_connect_lends_nothing() -> None:
    async def refuse() -> Connection:
        raise ConnectionRefusedError

    pool = Pool(refuse, Settings(), lambda: 0.0)
    with pytest.raises(ConnectionRefusedError):
        await pool.borrow()
    assert pool.state.lent_out == 0
