"""Hide the differences of operating systems: paths, programs, signals, terminals.

Every other module uses ``CURRENT``, so that a test can simulate a platform.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Seconds from SIGTERM to SIGKILL.
KILL_AFTER = 30.0


class Unsafe(Exception):
    """The command can't be started safely with these arguments."""


class Command(NamedTuple):
    """The arguments for subprocess, and the file unless it is the first argument.

    ``arguments`` is one text only on Windows.
    """

    arguments: Sequence[str] | str
    file: str | None


class Platform(ABC):
    """The operations that the client needs of an operating system.

    ``ending`` are the signals that end a program by default and that terminals,
    shells and batch systems send.
    """

    ending: Sequence[int]

    @abstractmethod
    def config_home(self, environment: Mapping[str, str]) -> str:
        """Return the folder where programs keep their settings."""

    @abstractmethod
    def user_number(self) -> str | None:
        """Return the user's number, for a user without a name; None if there are no numbers."""

    @abstractmethod
    def find(self, program: str) -> str | None:
        """Return the file that a shell would run for this name, or None."""

    @abstractmethod
    def command(self, argv: Sequence[str], file: str) -> Command:
        """Return how to start the file with these arguments. Raises Unsafe."""

    @abstractmethod
    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for the end while signals are handled. Return the exit code for us."""

    @abstractmethod
    def reaches_command(self, number: int) -> bool:
        """Return whether the terminal sent this signal to the command as well."""

    @abstractmethod
    def pass_on(self, process: subprocess.Popen[bytes], number: int) -> None:
        """Send a signal that we received to the command."""

    @abstractmethod
    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End the command, by force if it does not react. Returns at once."""

    @abstractmethod
    def sleep(self, seconds: float) -> None:
        """Sleep. A signal handler that raises ends the sleep."""

    @abstractmethod
    def rewrites_lines(self, stream: int) -> bool:
        """Return whether this file descriptor is a terminal that obeys control sequences."""

    @abstractmethod
    def encoding(self, stream: int) -> str:
        """Return the encoding for text to this file descriptor."""

    @abstractmethod
    def reader_is_gone(self, error: OSError) -> bool:
        """Return whether a write failed because the reader closed the pipe."""


if sys.platform != "win32":

    class Posix(Platform):
        """Linux, macOS and other POSIX systems."""

        # A stop (Ctrl-Z) is not here: it also stops the heartbeats, so that the seat becomes free.
        ending = (
            signal.SIGHUP,
            signal.SIGINT,
            signal.SIGQUIT,
            signal.SIGTERM,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGXCPU,
        )

        def config_home(self, environment: Mapping[str, str]) -> str:
            return environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - never raises

        def user_number(self) -> str | None:
            return str(os.getuid())

        def find(self, program: str) -> str | None:
            return shutil.which(program)

        def command(self, argv: Sequence[str], file: str) -> Command:
            return Command(argv, None)

        def wait(self, process: subprocess.Popen[bytes]) -> int:
            code = process.wait()
            return code if code >= 0 else 128 - code

        def reaches_command(self, number: int) -> bool:
            return number in {signal.SIGINT, signal.SIGQUIT} and _in_foreground()

        def pass_on(self, process: subprocess.Popen[bytes], number: int) -> None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

        def end(self, process: subprocess.Popen[bytes]) -> None:
            process.terminate()
            killer = threading.Timer(KILL_AFTER, process.kill)
            killer.daemon = True
            killer.start()

        def sleep(self, seconds: float) -> None:
            time.sleep(seconds)

        def rewrites_lines(self, stream: int) -> bool:
            return os.isatty(stream) and os.environ.get("TERM") != "dumb"

        def encoding(self, stream: int) -> str:
            return "utf-8"

        def reader_is_gone(self, error: OSError) -> bool:
            return error.errno == errno.EPIPE

    def _in_foreground() -> bool:
        """Return whether the terminal sends its signals to this process group, and so to the command."""
        try:
            terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        except OSError:
            return False
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        except OSError:
            return False
        finally:
            os.close(terminal)


class Windows(Platform):
    """Windows.

    The console sends Ctrl-C and Ctrl-Break to all its programs. The command is
    started in our process group, because Windows disables Ctrl-C in a new one.
    Waiting for a process or a lock blocks signal handlers, so waits are cut into
    slices.
    """

    SLICE = 0.2  # seconds
    # Characters that cmd.exe interprets inside quotes, and line ends.
    UNSAFE = '"%\r\n\0'

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment
        # Closing the console window, logging off and shutting down arrive as SIGBREAK.
        names = ("SIGINT", "SIGTERM", "SIGBREAK")
        self.ending = tuple(getattr(signal, name) for name in names if hasattr(signal, name))

    def config_home(self, environment: Mapping[str, str]) -> str:
        return environment.get("APPDATA") or os.path.expanduser("~/AppData/Roaming")  # noqa: PTH111 - never raises

    def user_number(self) -> str | None:
        return None

    def find(self, program: str) -> str | None:
        found = shutil.which(program)
        if found is not None or not _has_folder(program):
            return found
        # Before Python 3.12 which() adds no suffix to a name with a folder.
        suffixes = self._environment.get("PATHEXT", ".COM;.EXE;.BAT;.CMD").split(";")
        return next((program + suffix for suffix in suffixes if os.path.isfile(program + suffix)), None)  # noqa: PTH113

    def command(self, argv: Sequence[str], file: str) -> Command:
        """Return how to start the file. Raises Unsafe.

        Windows runs a batch file with cmd.exe, which has its own rules for a command
        line: ``&`` or ``%PATH%`` in an argument would be a command or a variable. In
        quotes everything is literal except the characters that are refused here.
        /d: no AutoRun commands; /v:off: ``!`` is literal; /s: remove only the outer
        quotes.
        """
        # Windows ignores dots and spaces at the end of a name.
        if not file.lower().rstrip(". ").endswith((".bat", ".cmd")):
            return Command(argv, file)
        shell, arguments = self._system("cmd.exe"), argv[1:]
        for argument in arguments:
            if any(character in argument for character in self.UNSAFE):
                raise Unsafe(
                    f"{file} is a batch file; Windows can't pass the argument {argument!r} to it: "
                    'remove ", % and line ends, or run the program that the batch file starts'
                )
        if any(character in file for character in self.UNSAFE):
            raise Unsafe(f"{file}: rename the batch file: its path must not contain % or a quote")
        # A backslash before the last quote would be read as an escape by the program that the batch file starts.
        quoted = [f'"{text}{_trailing_backslashes(text)}"' for text in arguments]
        line = " ".join([f'"{file}"', *quoted])
        return Command(f'"{shell}" /d /e:on /v:off /s /c "{line}"', shell)

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(self.SLICE)
                # Python exits with a C int, so a code like 0xC000013A (Ctrl-C) must become negative.
                return code - 2**32 if code >= 2**31 else code

    def reaches_command(self, number: int) -> bool:
        return True

    def pass_on(self, process: subprocess.Popen[bytes], number: int) -> None:
        # Windows has no gentler way for one program of a console.
        self.end(process)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        # End its children too. For a batch file, only cmd.exe would end, not the tool.
        command = [self._system("taskkill.exe"), "/T", "/F", "/PID", str(process.pid)]
        try:
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)  # noqa: S603
        except (OSError, subprocess.CalledProcessError):
            with contextlib.suppress(OSError):
                process.kill()

    def sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self.SLICE))

    def rewrites_lines(self, stream: int) -> bool:
        # Older consoles print control sequences.
        return False

    def encoding(self, stream: int) -> str:
        # The console's code page; None for a file or a pipe.
        return os.device_encoding(stream) or "utf-8"

    def reader_is_gone(self, error: OSError) -> bool:
        return error.errno in {errno.EPIPE, errno.EINVAL}

    def _system(self, name: str) -> str:
        # Use the full path, or a program of this name in the current folder would run.
        return "\\".join([self._environment.get("SystemRoot", r"C:\Windows"), "System32", name])


def _has_folder(program: str) -> bool:
    return "/" in program or "\\" in program


def _trailing_backslashes(text: str) -> str:
    return "\\" * (len(text) - len(text.rstrip("\\")))


CURRENT: Platform
if sys.platform == "win32":
    CURRENT = Windows()
else:
    CURRENT = Posix()
