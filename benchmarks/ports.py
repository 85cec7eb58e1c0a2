"""Ports for servers that start a moment after their port is chosen."""

import fcntl
import functools
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Systems give higher ports to connections, so none of these is taken by chance.
FIRST, LAST, BLOCK = 20_000, 30_000, 100


def free_port() -> int:
    """Return a port of this machine where nobody listens. Two processes never get the same one,
    and one process gets it again only after all others of its block."""
    ports = _ports_of(os.getpid())
    for port in itertools.islice(ports, BLOCK):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise RuntimeError("no port of this process is free")


@functools.cache
def _ports_of(process: int) -> Iterator[int]:
    """Reserve a block of ports for a process, until it ends. Raise RuntimeError if all are reserved."""
    folder = Path(tempfile.gettempdir()) / f"licenseserver-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for first in range(FIRST, LAST, BLOCK):
        lock = os.open(folder / str(first), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        # The lock ends with the process.
        return itertools.cycle(range(first, first + BLOCK))
    raise RuntimeError("other processes have reserved all ports")
