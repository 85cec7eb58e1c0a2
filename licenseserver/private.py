"""Create and check files and folders that only the server's account can use."""

import os
import re
import stat
import tempfile
from pathlib import Path

# The metric files of prometheus_client.
COUNTERS = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_\d+\.db")
OWN_FOLDER = "licenseserver-metrics-"


class NotPrivate(Exception):
    """Other accounts can change the contents of a folder."""


def metrics_folder(given: str | None) -> Path:
    """Return a folder for this server's counters that only its account can write. Delete old counters.

    Create ``given`` if it is missing; without it create a folder with a random name.
    Raises NotPrivate or OSError. Other files in it stay, such as an SQLite database
    something.db.
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
        raise NotPrivate(f"Others can write to {folder}. Remove that permission, or name a new folder.")
    for entry in folder.iterdir():
        if COUNTERS.fullmatch(entry.name):
            entry.unlink()
    return folder


def is_own_folder(folder: Path) -> bool:
    """Return whether this process created the folder because none was given."""
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
    """Create an empty file that only its owner can read, whatever the umask. Raises FileExistsError.

    Do not open an existing one: closing it would drop SQLite's locks of this process,
    and other processes could write (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o600))
