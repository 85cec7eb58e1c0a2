"""Runs side by side: each is a process with a database and a server of its own."""

import multiprocessing
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import template
from .run import Plan, Verdict, run
from .template import Template

Job = tuple[Plan, Path]


@contextmanager
def side_by_side(database: str, jobs: int) -> Iterator[Callable[[Iterable[Job]], Iterator[Verdict]]]:
    """What carries out plans in their folders, so many at once, and yields the verdicts
    as they come. Whatever ends it, the servers that it started end too."""
    _end_in_order()
    with tempfile.TemporaryDirectory(prefix="template-", ignore_cleanup_errors=True) as folder:
        made = template.make(database, Path(folder))
        # Not forked: threads and locks would be too. A new process for each run.
        with multiprocessing.get_context("spawn").Pool(jobs, _end_in_order, maxtasksperchild=1) as pool:
            yield lambda plans: pool.imap_unordered(_run, ((plan, made, place) for plan, place in plans), chunksize=1)


def _end_in_order() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _run(job: tuple[Plan, Template, Path]) -> Verdict:
    plan, made, folder = job
    try:
        return run(plan, made, folder)
    except Exception:  # noqa: BLE001 - one run that breaks off must not end the others
        return Verdict(plan, folder, failure=traceback.format_exc())
