"""Files and folders that only the server's own account may touch."""

import os
import re
import stat
import tempfile
from pathlib import Path

# What an earlier server counted, as prometheus_client names its files.
COUNTERS = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_\d+\.db")
OWN_FOLDER = "licenseserver-metrics-"


class NotPrivate(Exception):
    """Others could change what is in a folder."""


def metrics_folder(given: str | None) -> Path:
    """Return a folder for this server's counters that nobody else can write to, without old ones.

    ``given`` is made if it isn't there; without it the folder is a new one, with a name
    that nobody can guess. Raises NotPrivate or OSError. Other files in it stay: an
    SQLite database may well be called something.db too.
    """
    if not given:
        return Path(tempfile.mkdtemp(prefix=f"{OWN_FOLDER}{os.getpid()}-"))
    folder = Path(given)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise NotPrivate(f"{folder} belongs to user {found.st_uid}, not to this server's user {os.geteuid()}.")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotPrivate(f"Others can write to {folder}. Take that right away, or name a folder that isn't there yet.")
    for entry in folder.iterdir():
        if COUNTERS.fullmatch(entry.name):
            entry.unlink()
    return folder


def is_own_folder(folder: Path) -> bool:
    """Return whether this process made the folder itself, in place of a given one."""
    return folder.name.startswith(f"{OWN_FOLDER}{os.getpid()}-")


def open_to_others(path: Path) -> bool:
    """Return whether other accounts of this machine can read or write the file."""
    try:
        file, folder = path.stat().st_mode, path.absolute().parent.stat().st_mode
    except OSError:
        return False
    group = file & (stat.S_IRGRP | stat.S_IWGRP) and folder & stat.S_IXGRP
    other = file & (stat.S_IROTH | stat.S_IWOTH) and folder & stat.S_IXOTH
    return bool(group or other)


def create(path: Path) -> None:
    """Make an empty file that only its owner can read, whatever the umask; raise
    FileExistsError if it is there.

    One that is there is not opened: to close it again would drop all locks that
    SQLite has on it in this process, and other processes would write meanwhile
    (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o600))
