"""Run management commands without a start of Python for each: the server's modules take a second to load.

A process loads them once and forks for each command. Tests of how a command starts, ends or counts run
``manage.py`` itself.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from tests.support import suite
from tests.support.paths import ROOT

_one_at_a_time = threading.Lock()


def run(*arguments: str, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command with these variables, one at a time. Return its exit code and what it prints."""
    with _one_at_a_time, tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = _process()
        assert process.stdin is not None
        assert process.stdout is not None
        order = {"arguments": arguments, "environment": dict(environment), "output": str(output), "errors": str(errors)}
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        return subprocess.CompletedProcess(["manage.py", *arguments], code, output.read_text(), errors.read_text())


def output(*arguments: str, environment: Mapping[str, str]) -> str:
    """Run a command, which must succeed. Return what it prints."""
    done = run(*arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def _process() -> "subprocess.Popen[str]":
    """Start the process that forks. It ends with this one, which closes its input."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.commands"],
        cwd=ROOT,
        # It has no database, so that no command takes one that is not its own.
        env=os.environ | {"LICENSE_DB_PATH": str(Path(os.environ[suite.FOLDER]) / "none.db")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.communicate)
    return process


def _become(order: Mapping[str, Any]) -> None:
    """Run the command in this process, a fork, with the settings of its variables."""
    for number, name in ((1, "output"), (2, "errors")):
        file = os.open(order[name], os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(order["environment"])
    from django.conf import settings
    from django.db import connections
    from django.utils.functional import empty

    import manage

    # Both are read again: the settings from the variables, the databases from the settings.
    del sys.modules["licenseserver.settings"]
    settings._wrapped = empty
    vars(connections).clear()
    connections.__init__()  # type: ignore[misc]
    sys.argv = ["manage.py", *order["arguments"]]
    manage.main()


def _end(command: Callable[[], None]) -> NoReturn:
    """Call, and end this process as Python would, without the third of a second in which it takes down all modules."""
    code = 1
    try:
        command()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    """Fork for each order of the input, and print its exit code."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "licenseserver.settings")
    import django
    from django.urls import get_resolver

    django.setup()
    # The checks before a command load all addresses.
    get_resolver().url_patterns  # noqa: B018
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _end(functools.partial(_become, json.loads(line)))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
