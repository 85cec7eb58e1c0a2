"""Store the tokens of ``license login``, one for each server, in a file that only the user can read."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import platforms
from .api import ConfigError


@dataclass(frozen=True)
class Credential:
    """A token, its user and its end, a text of the server."""

    token: str
    user: str
    expires_at: str


def folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of the client's files."""
    return Path(platforms.CURRENT.config_home(environment)) / "license"


def place(environment: Mapping[str, str]) -> Path:
    """Return the path of the file."""
    return folder(environment) / "credentials.json"


def find(server: str, environment: Mapping[str, str] = os.environ) -> Credential | None:
    """Return the token for a server, or None. Raises ConfigError for a file that can't be read."""
    kept = _read(place(environment)).get(server.rstrip("/"))
    if not isinstance(kept, dict):
        return None
    token, user, expires_at = (kept.get(name) for name in ("token", "user", "expires_at"))
    return Credential(token, str(user), str(expires_at)) if isinstance(token, str) and token else None


def store(server: str, credential: Credential, environment: Mapping[str, str] = os.environ) -> None:
    """Store the token for a server instead of the one before. Raises ConfigError."""
    path = place(environment)
    entry = {"token": credential.token, "user": credential.user, "expires_at": credential.expires_at}
    _write(path, {**_read(path), server.rstrip("/"): entry})


def remove(server: str, environment: Mapping[str, str] = os.environ) -> None:
    """Remove the token for a server. Raises ConfigError."""
    path = place(environment)
    kept = _read(path)
    if kept.pop(server.rstrip("/"), None) is not None:
        _write(path, kept)


def _read(path: Path) -> dict[str, Any]:
    # In a container the home folder may belong to another user. Then there is no file.
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists() would raise
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}. Remove the file and run `license login` again") from None
    if not isinstance(kept, dict):
        raise ConfigError(f"{path} has an unknown form. Remove the file and run `license login` again")
    return kept


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        write_private(path, json.dumps(content, indent=1))
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror or error}") from None


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only the user can read. Raises OSError, and then nothing has changed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        # From its first moment nobody else can read it.
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)  # noqa: PTH105 - as above
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)  # noqa: PTH108
        raise
