"""The faults: each is begun, lasts for a while, and is undone.

The numbers are those of the table of faults in docs/reliability.md.
"""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from . import rows
from .history import Recorder
from .proxy import CALM, Proxy, Weather
from .stack import MAX_CONNECTIONS, Api, Postgres, Sqlite, Sweeper


@dataclass
class Target:
    """What can be made to fail."""

    api: Api
    database: Postgres | Sqlite
    sweepers: list[Sweeper]
    proxy: Proxy
    chance: random.Random
    recorder: Recorder
    folder: Path
    # Backups that were taken: how much of the history each must have, and its rows.
    backups: list[tuple[int, Path]] = field(default_factory=list)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    @property
    def postgres(self) -> Postgres:
        assert isinstance(self.database, Postgres)
        return self.database

    @property
    def sqlite(self) -> Sqlite:
        assert isinstance(self.database, Sqlite)
        return self.database


Nemesis = Callable[[Target], None]


# --- Processes


def kill_worker(target: Target) -> None:
    """Kill one worker, with whatever it is doing."""
    if workers := target.api.workers():
        os.kill(target.chance.choice(workers), signal.SIGKILL)


def kill_master(target: Target) -> None:
    """Kill gunicorn's master; the supervisor starts another."""
    target.api.kill_master()
    target.wait(0.2)
    target.api.wait_until_ready()


def stop_worker(target: Target) -> None:
    """Freeze one worker for two seconds, in the middle of a transaction or not."""
    _freeze(target, 2)


def freeze_worker(target: Target) -> None:
    """Freeze one worker for longer than others wait for a lock (3 s)."""
    _freeze(target, 4)


def _freeze(target: Target, seconds: float) -> None:
    workers = target.api.workers()
    if not workers:
        return
    worker = target.chance.choice(workers)
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGSTOP)
        target.wait(seconds)
        os.kill(worker, signal.SIGCONT)


def reload(target: Target) -> None:
    """Reload gunicorn, as an operator does after a change of configuration."""
    if target.api.process is not None:
        target.api.process.send_signal(signal.SIGHUP)
    target.wait(1.5)


def stop_server(target: Target) -> None:
    """Stop the whole server under load, as an operator does (SIGTERM), and start it again."""
    target.api.restart()


def kill_sweeper(target: Target) -> None:
    """Kill one of two sweepers in the middle of its work, and start it again."""
    sweeper = target.chance.choice(target.sweepers)
    sweeper.kill()
    target.wait(0.5)
    sweeper.start()


def shift_clock(target: Target) -> None:
    """Run the server for some seconds with a clock that is an hour off, the
    database's clock being right."""
    target.api.extra = {"LD_PRELOAD": str(faketime()), "FAKETIME": target.chance.choice(["+3600s", "-3600s"])}
    target.api.kill_master()
    target.wait(0.3)
    target.api.wait_until_ready()
    target.wait(2)
    target.api.extra = {}
    target.api.kill_master()
    target.wait(0.3)
    target.api.wait_until_ready()


def faketime() -> Path | None:
    """The library that shifts a program's clock (Debian's ``faketime``), if it is installed."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def back_up(target: Target) -> None:
    """Take a backup while everybody works, and restore it beside; its rows are checked in the end."""
    acknowledged = target.recorder.flush()
    folder = target.folder / f"backup-{len(target.backups) + 1}"
    with target.database.restored(folder) as copy:
        found = rows.read(copy)
    (folder / "rows.json").write_text(json.dumps(found))
    target.backups.append((acknowledged, folder / "rows.json"))


# --- Network


def cut_connections(target: Target) -> None:
    """Cut connections before, within and after messages."""
    target.proxy.weather = Weather(cut=0.15)
    target.wait(2)
    target.proxy.weather = CALM


def delay_and_repeat(target: Target) -> None:
    """Delay messages, and let keyed borrows arrive twice."""
    target.proxy.weather = Weather(delay_seconds=0.6, repeat=0.5)
    target.wait(2)
    target.proxy.weather = CALM


# --- PostgreSQL


def terminate_sessions(target: Target) -> None:
    """End half of the server's sessions."""
    with target.postgres.session() as connection:
        pids = [
            pid
            for (pid,) in connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE usename = 'licenses' AND backend_type = 'client backend'"
            )
        ]
        for pid in target.chance.sample(pids, (len(pids) + 1) // 2):
            connection.execute("SELECT pg_terminate_backend(%s)", [pid])


def crash_database(target: Target) -> None:
    """End PostgreSQL at once and let it recover."""
    target.postgres.crash()


def exhaust_connections(target: Target) -> None:
    """Take every free session, and kill a worker so that new ones are needed."""
    with contextlib.ExitStack() as taken:
        for _ in range(MAX_CONNECTIONS):
            try:
                url = target.postgres.variables["DATABASE_URL"]
                taken.enter_context(contextlib.closing(psycopg.connect(url, connect_timeout=5)))
            except psycopg.OperationalError:
                break
        kill_worker(target)
        target.wait(1.5)


def hold_a_lock(target: Target) -> None:
    """Lock a busy tool for longer than the server waits (3 s), as somebody at psql."""
    with target.postgres.session() as connection, contextlib.suppress(psycopg.Error), connection.transaction():
        connection.execute("SELECT 1 FROM licenses_tool WHERE name = 'cad' FOR UPDATE")
        target.wait(3.5)


def lock_in_another_order(target: Target) -> None:
    """Lock two tools against the server's order again and again, so that PostgreSQL
    has to end one of those who wait for each other."""
    end = time.monotonic() + 2
    while time.monotonic() < end:
        with target.postgres.session() as connection, contextlib.suppress(psycopg.Error), connection.transaction():
            connection.execute("SELECT 1 FROM licenses_tool WHERE name = 'duo' FOR UPDATE")
            target.wait(0.1)
            connection.execute("SELECT 1 FROM licenses_tool WHERE name = 'cad' FOR UPDATE")


def make_read_only(target: Target) -> None:
    """Let the database refuse writes, as a standby does."""
    with target.postgres.session() as connection:
        connection.execute("ALTER ROLE licenses SET default_transaction_read_only = on")
    terminate_sessions(target)
    terminate_sessions(target)
    target.wait(1.5)
    with target.postgres.session() as connection:
        connection.execute("ALTER ROLE licenses RESET default_transaction_read_only")
    for _ in range(3):
        terminate_sessions(target)


# --- SQLite


def hold_the_write_lock(target: Target) -> None:
    """Write for two seconds without an end, as somebody at the sqlite3 prompt."""
    with target.sqlite.session() as connection, contextlib.suppress(sqlite3.OperationalError):
        connection.execute("BEGIN IMMEDIATE")
        target.wait(2)
        connection.execute("ROLLBACK")


def fill_the_disk(target: Target) -> None:
    """Fill the file system of the database for two seconds."""
    with target.sqlite.session() as connection, contextlib.suppress(sqlite3.OperationalError):
        # Or there is room in the log that it has.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    filler = target.sqlite.path.parent / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"\0" * 64 * 1024):
            pass
    target.wait(2)
    filler.unlink(missing_ok=True)


EVERYWHERE: dict[str, Nemesis] = {
    "kill_worker": kill_worker,
    "kill_master": kill_master,
    "stop_worker": stop_worker,
    "reload": reload,
    "stop_server": stop_server,
    "kill_sweeper": kill_sweeper,
    "back_up": back_up,
    "cut_connections": cut_connections,
    "delay_and_repeat": delay_and_repeat,
}
ON_POSTGRES: dict[str, Nemesis] = EVERYWHERE | {
    "freeze_worker": freeze_worker,
    "shift_clock": shift_clock,
    "terminate_sessions": terminate_sessions,
    "crash_database": crash_database,
    "exhaust_connections": exhaust_connections,
    "hold_a_lock": hold_a_lock,
    "lock_in_another_order": lock_in_another_order,
    "make_read_only": make_read_only,
}
ON_SQLITE: dict[str, Nemesis] = EVERYWHERE | {
    "hold_the_write_lock": hold_the_write_lock,
    "fill_the_disk": fill_the_disk,
}


def small_file_system(folder: Path) -> bool:
    """Mount a file system of 24 MiB at a folder; whether that was possible."""
    if os.geteuid() != 0:
        return False
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True)
    return done.returncode == 0
