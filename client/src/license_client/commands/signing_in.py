"""Get a token that a person approves in a browser, and revoke it."""

from __future__ import annotations

import argparse

from license_client import login
from license_client.api import Client
from license_client.output import show, show_json
from license_client.parsing import Commands


def register(commands: Commands) -> None:
    """Add the commands."""
    signing_in = commands.add(
        "login",
        _login,
        "Get a token that you approve in a browser, and store it.",
        examples=["license login", "license login --browser", "license login --scope read"],
    )
    signing_in.add_argument("--browser", action="store_true", help="open the address in a browser on this machine")
    signing_in.add_argument(
        "--scope",
        action="append",
        choices=["read", "borrow", "admin"],
        default=[],
        help="what the token can do; repeatable; default: all that the server gives, except admin",
    )
    commands.add("logout", _logout, "Revoke and remove the token of license login.", examples=["license logout"])


def _login(client: Client, options: argparse.Namespace) -> int:
    signed = login.sign_in(client, scopes=options.scope, messages=options.messages, browser=options.browser)
    if options.json:
        facts = {"user": signed.user, "expires_at": signed.expires_at, "scopes": list(signed.scopes)}
        show_json({"server": client.server, **facts})
    else:
        show(f"Signed in as {signed.user} at {client.server} until {signed.expires_at[:10]}.")
    if options.token_is_configured:
        text = "The client still uses another token: remove it from LICENSE_TOKEN, --token or the configuration file."
        options.messages.say("shadowed", text)
    return 0


def _logout(client: Client, options: argparse.Namespace) -> int:
    done = login.sign_out(client)
    if options.json:
        show_json({"server": client.server, "signed_out": done})
    else:
        show(f"Signed out of {client.server}." if done else f"There is no stored token for {client.server}.")
    return 0
