"""Bring a whole site from a file, and write it as one. For administrators."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from license_client.api import Client, LicenseError, Refused
from license_client.calling import in_time
from license_client.output import show, show_json
from license_client.parsing import Commands, completed

# The exit code of --exit-code. It is that of manage.py apply.
EX_DIFFERENT = 3
# Seconds that the server may take for one document.
TIMEOUT = 120


def register(commands: Commands) -> None:
    """Add the commands."""
    admin = commands.group("admin", "Administer the server. Needs a token with the scope admin.")
    apply = admin.add(
        "apply",
        _apply,
        "Give the server the tools, contracts, teams and rules of a TOML file, all or none, and show each change.",
        examples=[
            "license admin apply site.toml --dry-run",
            "license admin apply site.toml --prune",
            "license admin apply site.toml --prune --dry-run --exit-code    # 3 if the server differs from the file",
        ],
    )
    completed(apply.add_argument("file", metavar="FILE", help="the file; - reads standard input"), by="file")
    apply.add_argument("--dry-run", action="store_true", help="only show the changes")
    apply.add_argument("--prune", action="store_true", help="remove what the file does not mention")
    apply.add_argument(
        "--exit-code", action="store_true", help=f"exit with {EX_DIFFERENT} if anything changes, with 0 if not"
    )
    admin.add(
        "export",
        _export,
        "Print the tools, contracts, teams and rules of the server as a TOML file for apply.",
        examples=["license admin export > site.toml"],
    )


def _apply(client: Client, options: argparse.Namespace) -> int:
    text = _read(options.file)
    patient = client.but(timeout=TIMEOUT, patience=max(client.patience, TIMEOUT))
    try:
        done = patient.apply_site(text, dry_run=options.dry_run, prune=options.prune)
    except Refused as refused:
        if refused.code != "invalid_site":
            raise
        lines = [_mistake(options.file, each) for each in refused.facts.get("errors", [])]
        detail = "\n".join([f"{options.file} has mistakes. Nothing was changed.", *lines])
        raise Refused(refused.status, refused.code, detail, refused.facts) from None
    if options.json:
        show_json(done)
    else:
        _show(done, options)
    return EX_DIFFERENT if options.exit_code and done["changes"] else 0


def _read(file: str) -> str:
    if file == "-" and sys.stdin is None:
        raise LicenseError("standard input is closed")
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise LicenseError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LicenseError(f"{file}: not in UTF-8") from None


def _mistake(file: str, error: dict[str, Any]) -> str:
    place = f"{file}:{error['line']}" if error.get("line") else file
    return ": ".join(filter(None, [place, error.get("where"), error.get("detail")]))


def _show(done: dict[str, Any], options: argparse.Namespace) -> None:
    changes, unlisted = done["changes"], done["unlisted"]
    lines = [change["text"] for change in changes]
    if unlisted:
        lines += ["Not in the file, so it stays:", *(f"  {change['text']}" for change in unlisted)]
    if changes:
        lines.append(f"{len(changes)} change(s) {'to make. Nothing was changed.' if options.dry_run else 'made.'}")
    else:
        lines.append("Nothing to change.")
    if any("why" not in change for change in unlisted):
        lines.append("Use --prune to remove what is not in the file.")
    show("\n".join(lines))
    for warning in done["warnings"]:
        options.messages.say("warning", f"Warning: {warning}")


def _export(client: Client, options: argparse.Namespace) -> int:
    text = in_time(client, client.export_site)
    if options.json:
        show_json({"document": text})
    else:
        show(text.rstrip("\n"))
    return 0
