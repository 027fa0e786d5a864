"""How many clients the open files of a process carry.

A reply needs two files: the client's connection and the one to the model. If the last file went to a client that only
waits, no reply could begin. So the limits of connections and replies are lowered at the start to what the system lets
a process open. Some files are left for connections that are being refused; other clients wait to be accepted.
"""

from __future__ import annotations

from math import inf

from cfchat.server.request import Limits

SPARE = 24  # files for standard streams, the loop, sockets that listen, names that are looked up


def open_files() -> float:
    """Return how many files this process may have open at once."""
    try:
        import resource  # here, because Windows lacks it
    except ImportError:
        return inf
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return inf if allowed == resource.RLIM_INFINITY else allowed


def share_of(number: int) -> int:
    """Return what one client may have of a number, if nothing else is set: a quarter, rounded up."""
    return -(-number // 4)


def fit(limits: Limits, replies: int, files: float, each: int) -> tuple[Limits, int]:
    """Return the limits, and how many replies at once, that so many files carry: the given ones, or less.

    `each` is how many files a reply needs beside its client's connection.
    """
    room = files - SPARE
    if room >= 2 * limits.connections + each * min(replies, limits.connections):
        return limits, replies
    served = int(room - max(room // 8, 8))  # the rest is for connections that are being refused
    connections = min(limits.connections, max(1, served // (1 + each), served - each * replies))
    replies, mine = min(replies, connections), limits.connections_each
    if connections < limits.connections:
        mine = min(mine, share_of(connections))
    most = max(connections + 1, int(room) - each * replies)
    return limits._replace(connections=connections, connections_each=mine, most=most), replies
