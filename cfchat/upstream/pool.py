"""Keep connections for the next request.

PoolState decides which connection to lend, keep and close. It does no I/O and has no clock: it returns the connections
that must be closed, and Pool closes them. Pool never awaits between a decision and the act, so no other task can come
between them. The youngest connection is lent first, and the others grow old and are closed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar


class Poolable(Protocol):
    """A connection, as far as a pool must know it."""

    @property
    def usable(self) -> bool:
        """Whether it is open and nothing is unread: unread bytes would be taken for the next reply."""

    def close(self) -> None:
        """Close at once. Raise nothing, also if it is closed already."""


C = TypeVar("C")
P = TypeVar("P", bound=Poolable)


class Settings(NamedTuple):
    """How many connections are kept, and how long; times in seconds."""

    idle: int = 128  # idle connections at most
    idle_timeout: float = 60.0  # less than Cloudflare's: we close first, and rarely use one that Cloudflare has closed
    max_age: float = 600.0  # limits how long a change of address or certificate goes unnoticed


class _Entry(NamedTuple, Generic[C]):
    conn: C  # held, so that its id() stays its own
    made: float  # when it was entered
    since: float  # when it was last lent or given back


class PoolState(Generic[C]):
    """Which connections are idle, and which are lent out. They are compared by identity, never by equality.

    `now` is the time in seconds, always by the same clock.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: dict[int, _Entry[C]] = {}  # in the order they came back: the last is the youngest
        self._lent: dict[int, _Entry[C]] = {}
        self._shut = False

    @property
    def idle(self) -> int:
        """How many connections are idle."""
        return len(self._idle)

    @property
    def lent_out(self) -> int:
        """How many connections are lent out."""
        return len(self._lent)

    def lend(self, now: float) -> tuple[C | None, list[C]]:
        """Return the connection to use, None if a new one must be made; and the connections to close.

        The youngest comes first, because it is the least likely to be stale, and so that those not needed expire.
        """
        expired: list[C] = []
        while self._idle:
            key, entry = self._idle.popitem()
            if not self._is_expired(entry, now):
                self._lent[key] = _Entry(entry.conn, entry.made, now)
                return entry.conn, expired
            expired.append(entry.conn)
        return None, expired

    def lent(self, conn: C, now: float) -> None:
        """Enter a new connection, made for a borrower.

        Raises:
            ValueError: it is in the pool already.
        """
        key = id(conn)
        if key in self._lent or key in self._idle:
            raise ValueError("this connection is in the pool already")
        self._lent[key] = _Entry(conn, now, now)

    def give_back(self, conn: C, now: float, reusable: bool) -> list[C]:
        """End a loan. Return the connections to close: this one if it cannot be kept, or the oldest idle one.

        Raises:
            ValueError: it is not lent out. Given back twice, it would be lent twice.
        """
        key = id(conn)
        entry = self._lent.pop(key, None)
        if entry is None:
            raise ValueError("this connection is not lent out")
        if self._shut or not reusable or now - entry.made >= self._settings.max_age:
            return [conn]
        self._idle[key] = _Entry(conn, entry.made, now)
        if len(self._idle) <= self._settings.idle:
            return []
        return [self._idle.pop(next(iter(self._idle))).conn]

    def expire(self, now: float) -> list[C]:
        """Remove the connections that are idle too long or too old. Return them; they must be closed."""
        expired = [key for key, entry in self._idle.items() if self._is_expired(entry, now)]
        return [self._idle.pop(key).conn for key in expired]

    def kept(self) -> list[C]:
        """Return all idle connections, the longest idle first."""
        return [entry.conn for entry in self._idle.values()]

    def shut(self) -> list[C]:
        """Remove and return all idle connections; they must be closed. From now on `give_back` keeps none."""
        self._shut = True
        idle = self.kept()
        self._idle.clear()
        return idle

    def forget(self, conn: C) -> None:
        """Remove a connection if it is idle. If it is lent out, its borrower must still give it back."""
        self._idle.pop(id(conn), None)

    def _is_expired(self, entry: _Entry[C], now: float) -> bool:
        settings = self._settings
        return now - entry.since >= settings.idle_timeout or now - entry.made >= settings.max_age


class Pool(Generic[P]):
    """Lends connections and makes new ones. Each loan must end with one `give_back`.

    `connect` makes a connection, `clock` returns the time in seconds.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[P]], settings: Settings, clock: Callable[[], float]
    ) -> None:
        self._connect = connect
        self._clock = clock
        self.state: PoolState[P] = PoolState(settings)

    async def borrow(self, fresh: bool = False) -> tuple[P, bool]:
        """Return a connection, and whether it was kept from an earlier loan; `fresh` demands a new one.

        Raises:
            UpstreamError: `connect` failed.
        """
        kept = None if fresh else self._take()
        if kept is not None:
            return kept, True
        conn = await self._connect()
        self.state.lent(conn, self._clock())
        return conn, False

    def give_back(self, conn: P) -> None:
        """End a loan: keep the connection if it is usable, else close it.

        Raises:
            ValueError: it is not lent out.
        """
        if closing := self.state.give_back(conn, self._clock(), conn.usable):
            _close(closing)

    def forget(self, conn: P) -> None:
        """Drop an idle connection that the other side has closed."""
        self.state.forget(conn)

    def expire(self) -> None:
        """Close idle connections that are too old, or that the other side has ended."""
        _close(self.state.expire(self._clock()))
        self._drop(conn for conn in self.state.kept() if not conn.usable)

    def clear(self) -> None:
        """Close all idle connections. The pool stays open."""
        self._drop(self.state.kept())

    async def warm(self, number: int) -> None:
        """Connect until `number` connections are idle.

        Raises:
            UpstreamError: `connect` failed.
        """
        for _ in range(number - self.state.idle):
            conn, _ = await self.borrow(fresh=True)
            self.give_back(conn)

    def close(self) -> None:
        """Close all idle connections now, and the others when they are given back."""
        _close(self.state.shut())

    def _drop(self, idle: Iterable[P]) -> None:
        for conn in idle:
            self.forget(conn)
            conn.close()

    def _take(self) -> P | None:
        while True:
            conn, expired = self.state.lend(self._clock())
            if expired:
                _close(expired)
            if conn is None or conn.usable:
                return conn
            self.give_back(conn)


def _close(connections: Iterable[Poolable]) -> None:
    for conn in connections:
        conn.close()
