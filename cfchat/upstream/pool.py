"""Which connection to lend, keep, close.

`PoolState` decides: no I/O and no clock, it returns what is to be closed. `Pool` does what it says.
Nothing here waits between a decision and its deed, so no other task can come between them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar


class Poolable(Protocol):
    """What a pool has to know of a connection."""

    @property
    def usable(self) -> bool:
        """Still open, and nothing unread: what came unasked would be taken for the next reply."""

    def close(self) -> None:
        """Close at once. Never raises; closing twice does no harm."""


C = TypeVar("C")
P = TypeVar("P", bound=Poolable)


class Settings(NamedTuple):
    """What is kept, and how long; times in seconds."""

    idle: int = 128  # connections kept without work
    idle_timeout: float = 60.0  # less than Cloudflare's, so that we close first and rarely meet a stale one
    max_age: float = 600.0  # so that a change of address or certificate is noticed


class _Entry(NamedTuple, Generic[C]):
    conn: C  # held, so that its id() stays its own
    made: float
    since: float  # when it was last lent or given back


class PoolState(Generic[C]):
    """Who has which connection. Connections are told apart by identity, never by equality."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: dict[int, _Entry[C]] = {}  # in the order they came back: the last is the youngest
        self._lent: dict[int, _Entry[C]] = {}
        self._shut = False

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def lent_out(self) -> int:
        return len(self._lent)

    def lend(self, now: float) -> tuple[C | None, list[C]]:
        """The connection to use, None when one must be made; and those to close.

        The youngest first: it is the least likely to be stale, and those not needed grow old and go.
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
        """Enter a connection just made for a borrower. Raises ValueError if it is known already."""
        key = id(conn)
        if key in self._lent or key in self._idle:
            raise ValueError("this connection is in the pool already")
        self._lent[key] = _Entry(conn, now, now)

    def give_back(self, conn: C, now: float, reusable: bool) -> list[C]:
        """Those to close: this one if it can't be kept, or the oldest idle one that it displaces.

        Raises ValueError for a connection that is not lent out: a second give_back would lend it twice.
        """
        entry = self._lent.pop(id(conn), None)
        if entry is None:
            raise ValueError("this connection is not lent out")
        if self._shut or not reusable or now - entry.made >= self._settings.max_age:
            return [conn]
        self._idle[id(conn)] = _Entry(conn, entry.made, now)
        if len(self._idle) <= self._settings.idle:
            return []
        return [self._idle.pop(next(iter(self._idle))).conn]

    def expire(self, now: float) -> list[C]:
        """Those idle too long or too old, to be closed."""
        expired = [key for key, entry in self._idle.items() if self._is_expired(entry, now)]
        return [self._idle.pop(key).conn for key in expired]

    def kept(self) -> list[C]:
        """All idle ones, the oldest first."""
        return [entry.conn for entry in self._idle.values()]

    def shut(self) -> list[C]:
        """All idle ones, to be closed. From now on nothing given back is kept."""
        self._shut = True
        idle = self.kept()
        self._idle.clear()
        return idle

    def forget(self, conn: C) -> None:
        """An idle connection died. One lent out is its borrower's to give back: nothing happens."""
        self._idle.pop(id(conn), None)

    def _is_expired(self, entry: _Entry[C], now: float) -> bool:
        settings = self._settings
        return now - entry.since >= settings.idle_timeout or now - entry.made >= settings.max_age


class Pool(Generic[P]):
    """Lends connections and makes new ones; each that is borrowed must be given back, once."""

    def __init__(
        self, connect: Callable[[], Awaitable[P]], settings: Settings, clock: Callable[[], float]
    ) -> None:
        self._connect = connect
        self._clock = clock
        self.state: PoolState[P] = PoolState(settings)

    async def borrow(self, fresh: bool = False) -> tuple[P, bool]:
        """A connection, and whether it came from the pool; `fresh` always makes one.

        Raises what `connect` raises.
        """
        kept = None if fresh else self._take()
        if kept is not None:
            return kept, True
        conn = await self._connect()
        self.state.lent(conn, self._clock())
        return conn, False

    def give_back(self, conn: P, reusable: bool) -> None:
        """End a loan: the connection is kept or closed. Raises ValueError if it is not lent out."""
        _close(self.state.give_back(conn, self._clock(), reusable and conn.usable))

    def forget(self, conn: P) -> None:
        """An idle connection died by itself."""
        self.state.forget(conn)

    def expire(self) -> None:
        """Close what grew old, or ended by itself, without being asked for. Borrowing looks at what it lends alone."""
        _close(self.state.expire(self._clock()))
        self._drop(conn for conn in self.state.kept() if not conn.usable)

    def clear(self) -> None:
        """Close all idle connections; the pool goes on."""
        self._drop(self.state.kept())

    async def warm(self, number: int) -> None:
        """Connect until so many lie idle. Raises what `connect` raises."""
        for _ in range(number - self.state.idle):
            conn, _ = await self.borrow(fresh=True)
            self.give_back(conn, reusable=True)

    def close(self) -> None:
        """Close all idle connections, and those lent out as they come back."""
        _close(self.state.shut())

    def _drop(self, idle: Iterable[P]) -> None:
        for conn in idle:
            self.forget(conn)
            conn.close()

    def _take(self) -> P | None:
        while True:
            conn, expired = self.state.lend(self._clock())
            _close(expired)
            if conn is None or conn.usable:
                return conn
            self.give_back(conn, reusable=False)


def _close(connections: Iterable[Poolable]) -> None:
    for conn in connections:
        conn.close()
