"""Write audit records, in the transaction of the change.

Services and the admin's save hooks call this module explicitly. The values before
a change are read under the row's lock, so that simultaneous changes are recorded
in their order.
"""

import os
import pwd
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, Self, TypeVar

from django.contrib.auth.models import Group, User
from django.db import connection, models, transaction
from django.db.models.deletion import Collector
from django.db.transaction import TransactionManagementError

from .access.callers import Caller, Kind
from .client_addresses import client_address
from .clock import database_now
from .errors import InUse
from .models import (
    AccessRule,
    Action,
    ActorKind,
    Allotment,
    ApiToken,
    AuditedKind,
    AuditRecord,
    Contract,
    DeviceLogin,
    Identity,
    JwtCaller,
    Lease,
    NotificationPreference,
    RetiredName,
    Team,
    TeamMember,
    Ticket,
    Tool,
    UserLimit,
    Webhook,
)
from .models.team import MembershipChanges

KIND_OF_CALLER = {
    Kind.ANONYMOUS: ActorKind.ANONYMOUS,
    Kind.SESSION: ActorKind.ACCOUNT,
    Kind.PASSWORD: ActorKind.ACCOUNT,
    Kind.TOKEN: ActorKind.TOKEN,
    Kind.JWT: ActorKind.JWT,
}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change, and from where: a client's address, or the name of a command."""

    kind: ActorKind
    name: str
    origin: str

    @classmethod
    def of_call(cls, caller: Caller, headers: Mapping[str, Any]) -> Self:
        """Return the caller of the API. A token is identified by its number, not its owner."""
        name = caller.credential if caller.kind == Kind.TOKEN else caller.name
        if caller.user is not None:
            # The account may have a name that is not valid for leases.
            name = caller.user.get_username()
        return cls(KIND_OF_CALLER[caller.kind], name, client_address(headers))

    @classmethod
    def of_account(cls, name: str, headers: Mapping[str, Any]) -> Self:
        """Return the user of the admin."""
        return cls(ActorKind.ACCOUNT, name, client_address(headers))

    @classmethod
    def of_address(cls, name: str, address: str) -> Self:
        """Return the user of an account, who acts from this address."""
        return cls(ActorKind.ACCOUNT, name, address)

    @classmethod
    def of_sign_in(cls, name: str, address: str) -> Self:
        """Return the actor of changes that the provider causes at a sign-in from this address."""
        return cls(ActorKind.SIGN_IN, name, address)

    @classmethod
    def of_command(cls, command: str) -> Self:
        """Return the OS user of a command. The environment is not used, because it could name anybody."""
        uid = os.getuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            # A container may run as a number without a name.
            name = str(uid)
        return cls(ActorKind.COMMAND, name, command)

    @property
    def label(self) -> str:
        """Return the kind and the name as leases and tickets store it, such as ``account root`` or ``token 7``."""
        return self.name if self.kind == ActorKind.TOKEN else f"{self.kind} {self.name}"


R = TypeVar("R", bound=models.Model)


@dataclass(slots=True)
class Change(Generic[R]):
    """A row, and its fields that were changed: their recorded values before and after. A new row has only
    the values after. False if nothing changed."""

    row: R
    is_new: bool = False
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.is_new or bool(self.after)


# The models that are recorded, with the name of a row. Leases, tickets, tokens and sign-ins have their id.
SUBJECTS: dict[type[models.Model], tuple[AuditedKind, Callable[[Any], str]]] = {
    Tool: (AuditedKind.TOOL, lambda tool: tool.name),
    Lease: (AuditedKind.LEASE, lambda lease: str(lease.public_id)),
    Ticket: (AuditedKind.TICKET, lambda ticket: str(ticket.id)),
    Team: (AuditedKind.TEAM, lambda team: team.name),
    TeamMember: (AuditedKind.MEMBER, lambda member: f"{member.user} in {member.team.name}"),
    Allotment: (AuditedKind.ALLOTMENT, lambda allotment: f"{allotment.tool.name} for {allotment.team.name}"),
    UserLimit: (AuditedKind.USER_LIMIT, lambda limit: f"{limit.tool.name} for {limit.user}"),
    AccessRule: (AuditedKind.ACCESS_RULE, lambda rule: f"{rule.tool.name} for {rule.kind} {rule.subject}"),
    Contract: (AuditedKind.CONTRACT, lambda contract: f"{contract.tool.name} contract {contract.pk}"),
    ApiToken: (AuditedKind.TOKEN, lambda token: str(token.pk)),
    DeviceLogin: (AuditedKind.DEVICE_LOGIN, lambda login: str(login.pk)),
    User: (AuditedKind.ACCOUNT, lambda user: user.username),
    Identity: (AuditedKind.IDENTITY, lambda identity: identity.user.username),
    JwtCaller: (AuditedKind.JWT_CALLER, lambda caller: caller.name),
    Group: (AuditedKind.GROUP, lambda group: group.name),
    RetiredName: (AuditedKind.RETIRED_NAME, lambda retired: retired.name),
    Webhook: (AuditedKind.WEBHOOK, lambda webhook: webhook.name),
    NotificationPreference: (
        AuditedKind.PREFERENCE,
        lambda wish: f"{wish.account}: {wish.event} by {wish.webhook or 'mail'}",
    ),
}


def subject_of(row: models.Model) -> tuple[AuditedKind, str]:
    """Return the kind and the name of a row, as its records have them."""
    kind, name = SUBJECTS[type(row)]
    return kind, name(row)


# Record only that there is a new password.
NEW_PASSWORD = {"password": "changed"}


def state(row: models.Model) -> dict[str, Any]:
    """Return the editable fields of a row; of an account or a group, its names and rights.

    No secrets or hashes. Durations are in seconds.
    """
    if isinstance(row, User):
        return _rights(row)
    if isinstance(row, Group):
        return {"name": row.name, "permissions": _named(row.permissions)}
    fields = [field for field in row._meta.concrete_fields if field.editable and not field.primary_key]
    return dict(_told(row, field.name) for field in fields)


def _told(row: models.Model, name: str) -> tuple[str, Any]:
    value = getattr(row, name)
    if isinstance(row._meta.get_field(name), models.DurationField):
        return f"{name}_seconds", value.total_seconds() if isinstance(value, timedelta) else None
    if isinstance(value, (Team, Tool)):
        # Display names change, and two can be the same.
        return name, value.name
    return name, str(value) if isinstance(value, models.Model) else value


def _rights(user: User) -> dict[str, Any]:
    return {
        "username": user.username,
        "email": user.email,
        "is_active": user.is_active,
        "is_staff": user.is_staff,
        "is_superuser": user.is_superuser,
        "groups": sorted(user.groups.values_list("name", flat=True)),
        "permissions": _named(user.user_permissions),
    }


def _named(permissions: Any) -> list[str]:
    found = permissions.values_list("content_type__app_label", "codename")
    return sorted(f"{app}.{codename}" for app, codename in found)


def record(
    by: Actor,
    *,
    action: Action,
    subject: models.Model,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    note: str = "",
    at: datetime | None = None,
) -> None:
    """Write one record (``made``) as part of the caller's transaction.

    Raises TransactionManagementError without a transaction, because then a record could
    exist without its change, or a change without its record.
    """
    if not connection.in_atomic_block:
        raise TransactionManagementError("An audit record is written in the transaction of its change.")
    made(by, action=action, subject=subject, before=before, after=after, note=note, at=at or database_now()).save()


def made(
    by: Actor,
    *,
    action: Action,
    subject: models.Model,
    at: datetime,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    note: str = "",
) -> AuditRecord:
    """Return a record that is not written yet. ``before`` and ``after`` are JSON without
    secrets; ``at`` is the database's time."""
    kind, name = subject_of(subject)
    return AuditRecord(
        recorded_at=at,
        actor_kind=by.kind,
        actor=by.name,
        origin=by.origin,
        action=action,
        subject_kind=kind,
        subject=name,
        before=before or {},
        after=after or {},
        note=note,
    )


def is_recorded(by: Actor, action: Action, subject: models.Model) -> bool:
    """Return whether the audit has this action of this actor."""
    kind, name = subject_of(subject)
    acts = AuditRecord.objects.filter(subject_kind=kind, subject=name, action=action)
    return acts.filter(actor_kind=by.kind, actor=by.name).exists()


def created(rows: Iterable[models.Model], *, by: Actor) -> None:
    """Record rows that the caller's transaction creates."""
    for row in rows:
        record(by, action=Action.CREATED, subject=row, after=state(row))


def deleted(rows: Iterable[models.Model], *, by: Actor) -> None:
    """Record rows that the caller's transaction deletes."""
    for row in rows:
        record(by, action=Action.DELETED, subject=row, before=state(row))


def membership(changes: MembershipChanges, *, by: Actor) -> None:
    """Record the users who joined and left teams."""
    created([*changes.teams, *changes.joined], by=by)
    deleted(changes.left, by=by)


@contextmanager
def changing(row: R, *, by: Actor) -> Iterator[Change[R]]:
    """Record the creation of a row, or its changed fields, within the block. Yield what is recorded; it is
    complete after the block.

    Opens one transaction and locks the row. Records nothing if nothing changed.
    """
    change = Change(row)
    with transaction.atomic():
        before = state(stored) if (stored := _locked(row)) else None
        yield change
        # Read the row again, because the caller's copy may be older than the lock.
        now = type(row)._base_manager.get(pk=row.pk)
        after = state(now)
        if before is None:
            change.is_new, change.after = True, after
            record(by, action=Action.CREATED, subject=now, after=after)
            return
        changed = [name for name in after if after[name] != before[name]]
        password = NEW_PASSWORD if isinstance(now, User) and now.password != stored.password else {}
        if changed or password:
            change.before = {name: before[name] for name in changed}
            change.after = {name: after[name] for name in changed} | password
            record(by, action=Action.CHANGED, subject=now, before=change.before, after=change.after)


def password_changed(account: User, *, by: Actor) -> None:
    """Record a new password that was set outside ``changing``."""
    record(by, action=Action.CHANGED, subject=account, after=NEW_PASSWORD)


@contextmanager
def deleting(row: models.Model, *, by: Actor) -> Iterator[None]:
    """Record that the block deletes one row, with the rows that depend on it. Raises InUse if others need it."""
    with transaction.atomic():
        if stored := _locked(row):
            collector = Collector(using=connection.alias, origin=stored)
            try:
                collector.collect([stored])
            except models.ProtectedError as error:
                raise InUse(f"{stored} is still in use: {_counted(error.protected_objects)}.") from None
            with_it = [*collector.data.values(), *collector.fast_deletes]
            deleted((gone for rows in with_it for gone in rows if type(gone) in SUBJECTS), by=by)
        yield


def _counted(rows: Iterable[models.Model]) -> str:
    """Return the numbers of rows by kind, such as "2 leases, 1 denial"."""
    found = Counter(type(row)._meta for row in rows)
    return ", ".join(
        f"{count:,} {kind.verbose_name if count == 1 else kind.verbose_name_plural}" for kind, count in found.items()
    )


def _locked(row: models.Model) -> Any:
    """Lock the row and return it as it is in the database, or None."""
    if row.pk is None:
        return None
    # Order by the key: a model's own order may join tables, which can't be locked.
    return type(row)._base_manager.select_for_update(no_key=True).filter(pk=row.pk).order_by("pk").first()
