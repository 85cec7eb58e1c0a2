"""Check whether this server can work, and log each change of that.

The processes of a server share the last state, so that only one of them logs a change.
"""

import errno
import fcntl
import json
import logging
import os
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from . import database
from .database import Fault

logger = logging.getLogger(__name__)

# Bytes that a change may need.
ROOM = 1024 * 1024


@dataclass(frozen=True)
class Trouble:
    """The reason why the server can't do all of its work.

    ``reason`` is for the log and names hosts and roles. ``detail`` is for everybody.
    With ``serves`` the server still answers read-only calls.
    """

    reason: str
    detail: str
    serves: bool = False


class Memory:
    """State that the processes of this server share, in a file without a name.

    Record locks (``lockf``) belong to a process and end with it.
    """

    def __init__(self) -> None:
        self._threads = threading.Lock()
        self._file, path = tempfile.mkstemp()
        Path(path).unlink()

    def swap(self, **facts: Any) -> dict[str, Any]:
        """Set facts. Return all facts as they were before."""
        with self._threads:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                before: dict[str, Any] = json.loads(os.pread(self._file, 65536, 0) or b"{}")
                if before | facts != before:
                    content = json.dumps(before | facts).encode()
                    os.pwrite(self._file, content, 0)
                    os.ftruncate(self._file, len(content))
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
        return before


_memory: Memory | None = None


def share() -> None:
    """Let processes that are forked after this share their state."""
    global _memory
    _memory = Memory()


def _swap(**facts: Any) -> dict[str, Any]:
    if _memory is None:
        share()
    assert _memory is not None  # noqa: S101 - share() made it
    with suppress(OSError):
        return _memory.swap(**facts)
    return {}


def disk_is_full() -> None:
    """Remember that a change failed because the disk was full, until a trial succeeds."""
    _swap(full=True)


def check(*, at_start: bool = False) -> Trouble | None:
    """Ask the database whether the server can work. Log a change; at the start only trouble.

    Return the trouble, or None.
    """
    trouble = _trouble(at_start=at_start)
    said = trouble.reason if trouble else ""
    before = _swap(said=said).get("said", "")
    if said and said != before:
        logger.warning("%s: %s", "Read-only" if trouble and trouble.serves else "Not ready", said)
    elif before and not said:
        logger.info("Ready again: the database can be used.")
    return trouble


def _trouble(*, at_start: bool) -> Trouble | None:
    was_open = connection.connection is not None
    try:
        return _asked(at_start=at_start)
    except (DatabaseError, InterfaceError) as error:
        if was_open and not connection.in_atomic_block:
            # An old connection may have broken. Try a new one.
            connection.close()
            try:
                return _asked(at_start=at_start)
            except (DatabaseError, InterfaceError) as again:
                return _of_error(again)
        return _of_error(error)


def _of_error(error: DatabaseError | InterfaceError) -> Trouble:
    details = {Fault.FULL: "The database's disk is full.", Fault.READ_ONLY: "The database is read-only."}
    detail = details.get(database.fault(error) or Fault.AWAY, "The database does not answer.")
    return Trouble(database.reason(error), detail)


def _asked(*, at_start: bool) -> Trouble | None:
    executor = MigrationExecutor(connection)
    if pending := executor.migration_plan(executor.loader.graph.leaf_nodes()):
        first = pending[0][0]
        missing = f"{len(pending)} migration(s) are pending, first {first.app_label}.{first.name}."
        return Trouble(f"{missing} {Fault.NOT_MIGRATED.value}", "Migrations are pending.")
    if (at_start or _swap().get("full")) and not _has_room():
        return Trouble("The database's disk is full.", "The database's disk is full.")
    _swap(full=False)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('transaction_read_only') = 'on'")
            (is_read_only,) = cursor.fetchone()
    else:
        path = str(connection.settings_dict["NAME"])
        is_read_only = os.path.exists(path) and not os.access(path, os.W_OK)  # noqa: PTH110 - ":memory:" too
    if is_read_only:
        detail = "The database is read-only."
        return Trouble("The database is read-only: a standby, or set to read-only.", detail, serves=True)
    return None


def _has_room() -> bool:
    """Return whether the database can grow. Called only if that is in doubt."""
    try:
        if connection.vendor == "postgresql":
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(
                    "CREATE TEMPORARY TABLE room ON COMMIT DROP AS "
                    "SELECT repeat(md5(i::text), 32) AS kibibyte FROM generate_series(1, %s) AS i",
                    [ROOM // 1024],
                )
        else:
            folder = os.path.dirname(os.path.abspath(connection.settings_dict["NAME"]))  # noqa: PTH100, PTH120
            with tempfile.TemporaryFile(dir=folder) as trial:
                trial.write(bytes(ROOM))
                trial.flush()
    except DatabaseError as error:
        # A role without the right to temporary tables, or a standby, cannot test this.
        return database.fault(error) is not Fault.FULL
    except OSError as error:
        return error.errno not in {errno.ENOSPC, errno.EDQUOT}
    return True
