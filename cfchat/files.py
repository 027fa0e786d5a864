"""Read the files that the operator names: settings, keys, certificates.

Only regular files are read, and only up to a limit. A FIFO would wait for its writer, and a device may have no end.
"""

from __future__ import annotations

import os
import stat

MOST = 1 << 20  # bytes


def read_file(path: str) -> bytes:
    """Return what is in a regular file of at most 1 MiB.

    Raises:
        ValueError: it cannot be read, with the reason.
    """
    try:
        with open(path, "rb", opener=_open) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"cannot read {path}: it is not a regular file")
            data = file.read(MOST + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MOST:
        raise ValueError(f"cannot read {path}: it is larger than {MOST} bytes")
    return data


def _open(path: str, flags: int) -> int:
    # To open a FIFO would wait, too; and a terminal would become this process's own.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
