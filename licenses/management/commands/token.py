"""Create, list and revoke API tokens."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from licenses.access import tokens
from licenses.access.callers import Scope
from licenses.auditing import Actor
from licenses.management.base import ServerCommand
from licenses.models import ApiToken, Team
from licenses.models.token import DEFAULT_LIFETIME, MAX_LIFETIME


class Command(ServerCommand):
    help = "Create, list and revoke API tokens, the credentials of CI jobs and other programs."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)

        create = actions.add_parser("create", help="create a token and print its secret, which is shown only once")
        create.add_argument("name", help="the purpose of the token")
        owner = create.add_mutually_exclusive_group()
        owner.add_argument("--team", help="act for the members of this team")
        owner.add_argument("--user", help="act as this user")
        create.add_argument(
            "--scope",
            action="append",
            choices=list(Scope),
            help="repeatable; default: read and borrow, or only read for a token without an owner",
        )
        create.add_argument(
            "--days",
            type=int,
            default=DEFAULT_LIFETIME.days,
            help=f"days until it expires; default: {DEFAULT_LIFETIME.days}, at most {MAX_LIFETIME.days}",
        )

        every = actions.add_parser("list", help="show the tokens, without their secrets")
        every.add_argument("--all", action="store_true", help="also show expired and revoked tokens")

        revoke = actions.add_parser("revoke", help="revoke a token at once")
        revoke.add_argument("id", type=int, help="the id that `token list` shows")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        actions: dict[str, Callable[..., None]] = {"create": self.create, "list": self.list, "revoke": self.revoke}
        actions[action](**options)

    def create(
        self, *, name: str, team: str | None, user: str | None, scope: list[str] | None, days: int, **_: Any
    ) -> None:
        owner = Team.objects.filter(name=team).first() if team else None
        if team and owner is None:
            raise CommandError(f"There is no team {team}.")
        scopes = scope or ([Scope.READ, Scope.BORROW] if owner or user else [Scope.READ])
        if not 1 <= days <= MAX_LIFETIME.days:
            raise CommandError(f"--days must be 1 to {MAX_LIFETIME.days}.")
        now = timezone.now()
        token = ApiToken(
            name=name,
            team=owner,
            user=user or "",
            may_read=Scope.READ in scopes,
            may_borrow=Scope.BORROW in scopes,
            may_administer=Scope.ADMIN in scopes,
            created_at=now,
            expires_at=now + timedelta(days=days),
        )
        try:
            secret = tokens.issue(token, by=Actor.of_command("token create"))
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from None
        # Write this to stderr, so that a script reads only the secret.
        self.stderr.write(f"Token {token.pk}, valid until {token.expires_at:%Y-%m-%d}. The secret is shown only once:")
        self.stdout.write(secret)

    def list(self, **options: Any) -> None:
        now = timezone.now()
        for token in ApiToken.objects.select_related("team").order_by("pk"):
            state = "revoked" if token.revoked_at else "expired" if token.expires_at <= now else "valid"
            if state != "valid" and not options["all"]:
                continue
            owner = f"team {token.team.name}" if token.team else f"user {token.user}" if token.user else "nobody"
            used = f"{token.last_used_at:%Y-%m-%d %H:%M}" if token.last_used_at else "never"
            self.stdout.write(
                f"{token.pk}\t{token.hint}...\t{token.name}\t{owner}\t{' '.join(sorted(token.scopes))}\t"
                f"{state} until {token.expires_at:%Y-%m-%d}\tused {used}"
            )

    def revoke(self, *, id: int, **_: Any) -> None:
        token = ApiToken.objects.filter(pk=id).first()
        if token is None:
            raise CommandError(f"There is no token {id}.")
        tokens.revoke(token, by=Actor.of_command("token revoke"))
        self.stdout.write(f"{token}: revoked")
