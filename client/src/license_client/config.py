"""Load the configuration from flags, the environment and a file, in this order."""

from __future__ import annotations

import getpass
import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from . import credentials, former, platforms
from .api import Client, ConfigError, Unreachable

DEFAULT_SERVER = "http://localhost:8000"
KEYS = {"server", "token", "user", "team", "project", "allow_http"}


@dataclass(frozen=True)
class Config:
    server: str
    token: str | None
    user: str
    team: str | None
    project: str
    # No user is configured; this is the login name.
    user_is_login: bool = False
    # No server is configured.
    server_is_default: bool = False
    # A token may go over plain HTTP.
    allow_http: bool = False
    # The token is the one of `license login`.
    token_is_stored: bool = False
    # The configuration file that was read; None if there is none.
    file: Path | None = None
    # Where each setting comes from: a flag, a variable, or the path of the file. Without it, it is the default.
    sources: Mapping[str, str] = field(default_factory=dict)

    def client(
        self, *, patience: float, timeout: float = 10, on_retry: Callable[[Unreachable, float], None] | None = None
    ) -> Client:
        """Return a client of this server. Raises LicenseError for an invalid server or token."""
        note = "the default; set LICENSE_SERVER to another server" if self.server_is_default else ""
        return Client(
            self.server,
            token=self.token,
            timeout=timeout,
            patience=patience,
            on_retry=on_retry,
            note=note,
            allow_http=self.allow_http,
        )


def load(
    *,
    server: str | None = None,
    token: str | None = None,
    user: str | None = None,
    team: str | None = None,
    project: str | None = None,
    allow_http: bool = False,
    file: str | None = None,
    environment: Mapping[str, str] = os.environ,
    on_former_name: Callable[[str, str], None] = former.warn,
) -> Config:
    """Load the configuration.

    Each value comes from the first of: the argument; the variable
    (``LICENSE_SERVER``, ``LICENSE_TOKEN``, ``LICENSE_USER``, ``LICENSE_TEAM``,
    ``LICENSE_PROJECT``, ``LICENSE_ALLOW_HTTP``); the file; the default. Defaults:
    a server on this machine, the login name, no token, team or project, and https
    for a token to another machine.

    Without a token, the one that ``license login`` stored for this server counts, and
    its user if none is configured.

    The file is TOML with the same names in lower case. Its path is ``file``, or
    ``LICENSE_CONFIG``, or the usual place, where it may be missing.
    ``on_former_name`` is called with each former name in use and its new name.
    Raises ConfigError.
    """

    sources: dict[str, str] = {}

    def variable(name: str) -> tuple[str | None, str]:
        """Return the value of a variable, and its new or former name."""
        old = former.variable(name)
        if not environment.get(name) and environment.get(old):
            on_former_name(old, name)
            return environment[old], old
        return environment.get(name), name

    def first(name: str, argument: str | None) -> str | None:
        """Return the first value of a setting, and note its source."""
        value, source = argument, f"--{name}"
        if not value:
            value, source = variable(f"LICENSE_{name.upper()}")
        if not value:
            value, source = kept.get(name), str(path)
        if value:
            sources[name] = source
        return value or None

    given = file or variable("LICENSE_CONFIG")[0]
    path = Path(given) if given else usual_place(environment)
    # In a container the home folder may belong to another user. Then there is no file.
    there = os.path.exists(path)  # noqa: PTH110 - Path.exists() would raise
    if not given and not there:
        old = path.parent.with_name("licence") / path.name
        if os.path.exists(old):  # noqa: PTH110
            on_former_name(str(old), str(path))
            path, there = old, True
    kept = _read(path) if given or there else {}
    named, named_user, named_token = first("server", server), first("user", user), first("token", token)
    stored = None if named_token else credentials.find(named or DEFAULT_SERVER, environment)
    if stored is not None:
        sources["token"] = str(credentials.place(environment))
        if not named_user:
            sources["user"] = sources["token"]
        named_token, named_user = stored.token, named_user or stored.user
    allowed = environment.get("LICENSE_ALLOW_HTTP") or kept.get("allow_http") or "false"
    if allow_http or environment.get("LICENSE_ALLOW_HTTP") or kept.get("allow_http"):
        variable_or_file = "LICENSE_ALLOW_HTTP" if environment.get("LICENSE_ALLOW_HTTP") else str(path)
        sources["allow_http"] = "--allow-http" if allow_http else variable_or_file
    return Config(
        server=named or DEFAULT_SERVER,
        token=named_token,
        user=named_user or _login(),
        team=first("team", team),
        project=first("project", project) or "",
        user_is_login=not named_user,
        server_is_default=not named,
        allow_http=allow_http or _is_true(allowed),
        token_is_stored=stored is not None,
        file=path if given or there else None,
        sources=sources,
    )


def _is_true(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ConfigError(f"LICENSE_ALLOW_HTTP is {text!r}; write true or false")


def _login() -> str:
    """Return the login name, or the user's number in a container without names."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        number = platforms.CURRENT.user_number()
        if number is None:
            raise ConfigError("there is no login name; set --user or LICENSE_USER") from None
        return number


def usual_place(environment: Mapping[str, str]) -> Path:
    """Return the default path of the configuration file."""
    return credentials.folder(environment) / "config.toml"


def _read(path: Path) -> dict[str, str]:
    toml = _toml(path)
    try:
        # Editors on Windows begin a file with a byte order mark.
        values = toml.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    for name, value in values.items():
        if name not in KEYS:
            raise ConfigError(f"{path}: there is no setting {name!r}; use {', '.join(sorted(KEYS))}")
        if name == "allow_http":
            if not isinstance(value, bool):
                raise ConfigError(f"{path}: allow_http must be true or false")
        elif not isinstance(value, str):
            raise ConfigError(f"{path}: {name} must be a string")
    return {name: value if isinstance(value, str) else str(value) for name, value in values.items()}


def _toml(path: Path) -> ModuleType:
    """Return tomllib of Python 3.11, or the package tomli."""
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ConfigError(f"{path}: Python before 3.11 needs a package to read it: run pip install tomli")
