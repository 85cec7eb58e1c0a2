"""The site's database, made once and copied for every run."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ports import free_port

from . import nemeses
from .site import Site, set_up
from .stack import ROOT, Api, Postgres, Sqlite, environment, manage


@dataclass(frozen=True)
class Template:
    """A stopped database with the site in it; ``database`` is postgres or sqlite."""

    database: str
    folder: Path
    site: Site

    @contextmanager
    def copied(self, folder: Path) -> Iterator[Postgres | Sqlite]:
        """A running copy, with its files in a folder."""
        if self.database == "postgres":
            copy = Postgres.copied(self.folder / "postgres", folder / "postgres")
            try:
                yield copy
            finally:
                copy.stop()
            return
        disk = folder / "disk"
        disk.mkdir()
        is_small = nemeses.small_file_system(disk)
        try:
            for file in (self.folder / "sqlite").iterdir():
                shutil.copy(file, disk)
            yield Sqlite(disk / "licenses.db")
        finally:
            if is_small:
                subprocess.run(["umount", str(disk)], capture_output=True, check=False)


def make(database: str, folder: Path) -> Template:
    """Make an empty database, migrate it, and put the site into it."""
    made: Postgres | Sqlite
    if database == "postgres":
        made = Postgres.created(folder / "postgres")
        made.prepare()
    else:
        (folder / "sqlite").mkdir()
        made = Sqlite(folder / "sqlite" / "licenses.db")
    try:
        port = free_port()
        variables = environment(made, port)
        manage(ROOT, variables, "migrate", "--verbosity", "0")
        site = set_up(ROOT, variables)
        api = Api(ROOT, folder, variables, port)
        try:
            api.start()
            site.fill(port)
        finally:
            api.stop()
    finally:
        made.stop()
    return Template(database, folder, site)
