"""Audit records: changes that administrators make."""

from collections.abc import Iterable
from typing import Any, NoReturn

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models


class ActorKind(models.TextChoices):
    """How the actor of a change was identified."""

    ACCOUNT = "account", "Account"
    TOKEN = "token", "API token"
    JWT = "jwt", "JWT of the provider"
    SIGN_IN = "sign_in", "Sign-in at the provider"
    COMMAND = "command", "Command"
    ANONYMOUS = "anonymous", "Unknown"
    # A date that came, for example of a contract.
    CALENDAR = "calendar", "Calendar"


class Action(models.TextChoices):
    """What happened to the subject."""

    CREATED = "created", "Created"
    CHANGED = "changed", "Changed"
    DELETED = "deleted", "Deleted"
    REVOKED = "revoked", "Revoked"
    FORCE_RETURNED = "force_returned", "Force-returned"
    # The tokens, sessions, tickets and leases of an account ended.
    ENDED = "ended", "Ended"
    # A caller did this for another user.
    BORROWED = "borrowed", "Borrowed"
    RENEWED = "renewed", "Renewed"
    RETURNED = "returned", "Returned"
    QUEUED = "queued", "Queued"
    LEFT = "left", "Left the queue"
    # A person answered a program that asked for a token.
    APPROVED = "approved", "Approved"
    DENIED = "denied", "Denied"


class AuditedKind(models.TextChoices):
    """The kind of the changed subject. Part of the API: add kinds, do not rename them."""

    TOOL = "tool", "Tool"
    LEASE = "lease", "Lease"
    TICKET = "ticket", "Ticket"
    TEAM = "team", "Team"
    MEMBER = "member", "Team member"
    ALLOTMENT = "allotment", "Quota or reservation"
    ACCESS_RULE = "access_rule", "Access rule"
    USER_LIMIT = "user_limit", "User limit"
    TOKEN = "token", "API token"
    ACCOUNT = "account", "Account"
    IDENTITY = "identity", "Identity"
    GROUP = "group", "Group"
    RETIRED_NAME = "retired_name", "Retired name"
    JWT_CALLER = "jwt_caller", "JWT caller"
    CONTRACT = "contract", "Contract"
    DEVICE_LOGIN = "device_login", "Sign-in of a program"
    WEBHOOK = "webhook", "Webhook"
    PREFERENCE = "preference", "Notification preference"


class AppendOnly(Exception):
    """Audit records cannot be changed or deleted."""

    def __init__(self) -> None:
        super().__init__("Audit records are append-only.")


class AuditQuerySet(models.QuerySet["AuditRecord"]):
    def update(self, **values: Any) -> NoReturn:
        raise AppendOnly

    def delete(self) -> NoReturn:
        raise AppendOnly

    def bulk_update(self, objs: Iterable[Any], fields: Any, batch_size: int | None = None) -> NoReturn:
        raise AppendOnly


class AuditRecord(models.Model):
    """One committed change. Only ``licenses.auditing`` writes it.

    It has no foreign keys, so that it outlives its subject. This class refuses changes
    and deletions, and triggers in the database refuse them too. On SQLite a migration
    that alters this table copies it, and must create the triggers again.
    """

    recorded_at = models.DateTimeField(editable=False, help_text="The time of the database.")
    actor_kind = models.CharField(max_length=16, choices=ActorKind)
    actor = models.CharField(
        max_length=255,
        blank=True,
        help_text="The name of the account, the number of the token, or the OS user of the command.",
    )
    origin = models.CharField(max_length=255, help_text="The address of the client, or the name of the command.")
    action = models.CharField(max_length=16, choices=Action)
    subject_kind = models.CharField(max_length=16, choices=AuditedKind)
    subject = models.CharField(max_length=400, help_text="The name, or the id of a lease or a token.")
    before = models.JSONField(default=dict, encoder=DjangoJSONEncoder, help_text="The fields before the change.")
    after = models.JSONField(default=dict, encoder=DjangoJSONEncoder, help_text="The fields after the change.")
    note = models.CharField(max_length=255, blank=True, help_text="The reason, if one was given.")

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-recorded_at", "-pk"]
        indexes = [
            models.Index(fields=["-recorded_at", "-id"], name="audit_newest_first"),
            # For the history of a subject, and of an actor.
            models.Index(fields=["subject_kind", "subject", "-recorded_at"], name="audit_by_subject"),
            models.Index(fields=["actor", "-recorded_at"], name="audit_by_actor"),
        ]

    def __str__(self) -> str:
        return f"{self.get_subject_kind_display()} {self.subject}: {self.get_action_display().lower()}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise AppendOnly
        super().save(*args, **kwargs | {"force_insert": True})

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AppendOnly
