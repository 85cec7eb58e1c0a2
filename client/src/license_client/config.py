"""Which server, as whom: from flags, the environment, or a file, in this order."""

import getpass
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .api import LicenseError

DEFAULT_SERVER = "http://localhost:8000"
KEYS = {"server", "token", "user", "team", "project"}


class ConfigError(LicenseError):
    """The configuration can't be used; says why."""


@dataclass(frozen=True)
class Config:
    server: str
    token: str | None
    user: str
    team: str | None
    project: str


def load(
    *,
    server: str | None = None,
    token: str | None = None,
    user: str | None = None,
    team: str | None = None,
    project: str | None = None,
    file: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Config:
    """The configuration: arguments, then ``LICENSE_SERVER``, ``LICENSE_TOKEN``,
    ``LICENSE_USER``, ``LICENSE_TEAM`` and ``LICENSE_PROJECT``, then the file,
    then the defaults: a server on this machine, no token, the name that one is
    logged in with, no team or project in particular.

    The file is TOML with the same names in lower case, at ``file``, at
    ``LICENSE_CONFIG``, or in the platform's usual place; the latter may be
    absent. Raises ConfigError.
    """
    given = file or environment.get("LICENSE_CONFIG")
    path = Path(given) if given else usual_place(environment)
    # In a container the home may be another user's, and closed: no file, then.
    kept = _read(path) if given or os.path.exists(path) else {}  # noqa: PTH110 - Path.exists() would raise
    return Config(
        server=server or environment.get("LICENSE_SERVER") or kept.get("server") or DEFAULT_SERVER,
        token=token or environment.get("LICENSE_TOKEN") or kept.get("token"),
        user=user or environment.get("LICENSE_USER") or kept.get("user") or _login(),
        team=team or environment.get("LICENSE_TEAM") or kept.get("team"),
        project=project or environment.get("LICENSE_PROJECT") or kept.get("project") or "",
    )


def _login() -> str:
    """The name that one is logged in with; in a container there may be none,
    and the number has to do."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        if sys.platform == "win32":
            raise ConfigError("nobody is logged in; say who borrows with --user or LICENSE_USER") from None
        return str(os.getuid())


def usual_place(environment: Mapping[str, str]) -> Path:
    """Where the file is if nobody says otherwise."""
    if sys.platform == "win32":
        home = environment.get("APPDATA") or os.path.expanduser("~/AppData/Roaming")  # noqa: PTH111 - never raises
    else:
        home = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - never raises
    return Path(home) / "license" / "config.toml"


def _read(path: Path) -> dict[str, str]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    for name, value in values.items():
        if name not in KEYS:
            raise ConfigError(f"{path}: there is no setting {name!r}; there are {', '.join(sorted(KEYS))}")
        if not isinstance(value, str):
            raise ConfigError(f"{path}: {name} must be a text")
    return values
