"""Run the client as on Windows: ``python like_windows.py status``.

Remove what Python has only on other systems, and let calls block signal handlers as
they do there.
"""

import os
import signal
import subprocess
import sys
import time
from typing import Any

from license_client import cli, platforms

# Ctrl-Break has its own number there.
signal.SIGBREAK = signal.SIGUSR1  # type: ignore[attr-defined]
CONSOLE = {signal.SIGINT, signal.SIGUSR1}
really_mask = signal.pthread_sigmask


def held_up(call: Any) -> Any:
    """Wrap a call that blocks signal handlers."""

    def during(*arguments: Any, **more: Any) -> Any:
        before = really_mask(signal.SIG_BLOCK, CONSOLE)
        try:
            return call(*arguments, **more)
        finally:
            really_mask(signal.SIG_SETMASK, before)

    return during


def send_signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    if number not in {signal.SIGTERM, kill}:
        raise ValueError(f"Unsupported signal: {number}")
    os.kill(process.pid, number)


kill = int(signal.SIGKILL)
time.sleep = held_up(time.sleep)
subprocess.Popen.wait = held_up(subprocess.Popen.wait)  # type: ignore[method-assign]
subprocess.Popen.send_signal = send_signal  # type: ignore[method-assign,assignment]
for name in ("getuid", "getpgrp", "getpgid", "tcgetpgrp", "setsid", "killpg", "O_NOCTTY"):
    delattr(os, name)
for name in ("SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGPIPE", "alarm", "pthread_sigmask"):
    delattr(signal, name)
platforms.CURRENT = platforms.Windows()
sys.exit(cli.main())
