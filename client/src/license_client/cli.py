"""Run the command ``license``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__, former, login, platforms
from .api import ConfigError, LicenseError, Refused, Unreachable
from .commands import administering, completion, doctor, seats, showing, signing_in, waiting
from .commands.seats import EX_NOT_FOUND
from .config import Config, load
from .messages import Messages
from .output import STDERR, Unwritable, colors_for
from .parsing import EX_USAGE, Commands, Parser, common_options
from .running import EX_NOT_EXECUTABLE, Interrupted, Signals

# After sysexits.h, and the shell's own 126 and 127.
EX_REFUSED, EX_UNREACHABLE, EX_IO, EX_NO_SEAT, EX_NOT_ALLOWED, EX_CONFIG = 65, 69, 74, 75, 77, 78

MODULES = (showing, seats, waiting, signing_in, administering, doctor, completion)
# How a sign-in ends without a token.
NOT_SIGNED_IN = {"access_denied", "expired_token", "invalid_grant", "unauthorized_client"}

EPILOG = f"""\
examples:
  license status
  license who cad_tool
  license run --tool simulation:2 --tool cad_tool --wait 30m -- ./simulate model.sim
  license run --help

exit codes: run exits with the code of the command, or 128 + n if signal n ended it.
Otherwise: {EX_NO_SEAT} no seat, {EX_UNREACHABLE} server unreachable, {EX_NOT_ALLOWED} not allowed,
{EX_REFUSED} refused for another reason, {EX_USAGE} usage, {EX_CONFIG} configuration,
{EX_IO} standard output cannot be written,
{EX_NOT_EXECUTABLE} command not executable, {EX_NOT_FOUND} command not found.

environment: LICENSE_SERVER, LICENSE_TOKEN, LICENSE_USER, LICENSE_TEAM,
LICENSE_PROJECT, LICENSE_CONFIG, LICENSE_ALLOW_HTTP, NO_COLOR.
"""

# The command or option that helps after a refusal, by its code. The server's own hint names HTTP calls.
HINTS = {
    "unknown_tool": "`license status` lists the tools.",
    "unknown_lease": "`license list` lists your leases.",
    "ttl_too_long": "Use a smaller --ttl.",
    "user_limit": "`license list` lists your leases.",
    "lease_limit": "`license list` lists your leases.",
    "exhausted": "`license who TOOL` shows who holds the seats. `--wait 30m` waits in the queue.",
}


def main(arguments: Sequence[str] | None = None, *, renamed: Sequence[tuple[str, str]] = ()) -> int:
    """Run the command and return its exit code. The process must exit after it.

    ``renamed`` has the former names by which it was called, each with its new name.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == [completion.HIDDEN] and len(arguments) > 2:
        return completion.complete(parser(), arguments[1:])
    try:
        options = parser().parse_args(arguments)
    except SystemExit:
        _say_renamed(Messages(as_json=False), renamed)
        raise
    options.messages = Messages(as_json=options.json, colors=colors_for(STDERR, options.color))
    options.renamed = list(renamed)
    options.signals = Signals()
    try:
        return _carry_out(options)
    except Interrupted as interrupted:
        return 128 + interrupted.number
    finally:
        options.signals.ignore()


def parser() -> Parser:
    """Return the parser of all commands."""
    made = Parser(
        prog="license",
        description="Borrow a floating license, run a command, return it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    python = ".".join(map(str, sys.version_info[:3]))
    made.add_argument("--version", action="version", version=f"license {__version__} (Python {python})")
    commands = Commands(made, common_options())
    for module in MODULES:
        module.register(commands)
    return made


def _carry_out(options: argparse.Namespace) -> int:
    messages: Messages = options.messages
    config: Config | None = None
    try:
        if "local_command" in options:
            local: int = options.local_command(options)
            return local
        config = _load(options)
        options.user, options.team, options.project = config.user, config.team, config.project
        options.token_is_configured = bool(config.token) and not config.token_is_stored
        client = config.client(patience=options.patience, on_retry=messages.retrying)
        client.on_token_ends = login.TokenWarning(messages.say, client)
        code: int = options.command(client, options)
        return code
    except ConfigError as error:
        messages.fail("config", str(error))
        return EX_CONFIG
    except Refused as refused:
        detail = _explained(refused, config) if config is not None else refused.detail
        messages.fail(refused.code, detail, {"status": refused.status, **refused.facts})
        return _exit_code(refused)
    except Unreachable as error:
        messages.fail(error.code, str(error))
        return EX_UNREACHABLE
    except LicenseError as error:
        messages.fail("usage", str(error))
        return EX_USAGE
    except Unwritable as error:
        # The reader of a pipe may leave: print no error.
        if platforms.CURRENT.reader_is_gone(error.why):
            return 128 + 13
        messages.fail("output", f"standard output: {error.why.strerror}")
        return EX_IO


def _load(options: argparse.Namespace) -> Config:
    """Return the configuration and report the former names in it."""
    try:
        return load(
            server=options.server,
            token=options.token,
            user=options.user,
            # Only commands that borrow have these.
            team=getattr(options, "team", None),
            project=getattr(options, "project", None),
            allow_http=options.allow_http,
            file=options.config,
            on_former_name=lambda old, new: options.renamed.append((old, new)),
        )
    finally:
        _say_renamed(options.messages, options.renamed)


def _say_renamed(messages: Messages, renamed: Sequence[tuple[str, str]]) -> None:
    if renamed:
        messages.say("renamed", former.sentence(renamed), {"names": dict(renamed)})


def _explained(refused: Refused, config: Config) -> str:
    """Return the server's reason, and what to set or run."""
    if refused.code == "not_authenticated" and not config.token:
        return "The server needs a token: run `license login`, or set LICENSE_TOKEN."
    if refused.code == "invalid_credential" and config.token_is_stored:
        return f"{refused.detail} Run `license login` for a new token."
    if refused.code == "not_for_others" and config.user_is_login:
        return f"{refused.detail} The request was for {config.user}, your login name on this machine. Set LICENSE_USER."
    hint = HINTS.get(refused.code) if refused.facts.get("waiting_helps", True) else None
    return f"{refused.detail} {hint}" if hint else refused.detail


def _exit_code(refused: Refused) -> int:
    if refused.status in {401, 403} or refused.code in NOT_SIGNED_IN:
        return EX_NOT_ALLOWED
    return EX_NO_SEAT if refused.status in {409, 410} else EX_REFUSED
