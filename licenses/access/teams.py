"""Create, change and delete teams, and add and remove their members.

Every door comes here. Memberships change under the lock of the team, so that the audit is
exact. A caller that also changes tools locks those first.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from licenses import auditing
from licenses.auditing import Actor, Change
from licenses.errors import InUse, UnknownRow, UnknownTeam
from licenses.models import MemberSource, Team, TeamMember
from licenses.models.team import TEAM_NAME_PATTERN
from licenses.preconditions import Check, accept

# The key of a team's members among its values: a list of names of users.
MEMBERS = "members"


@dataclass(frozen=True, slots=True)
class TeamChange:
    """What changed of a team: its own fields, and the users who joined and left."""

    team: Change[Team]
    joined: Sequence[str] = ()
    left: Sequence[str] = ()

    def __bool__(self) -> bool:
        """Return whether anything changed."""
        return bool(self.team) or bool(self.joined) or bool(self.left)


@transaction.atomic
def put_team(*, name: str, values: Mapping[str, Any], by: Actor, check: Check = accept) -> TeamChange:
    """Create or change the team of this name. Fields that are not given stay.

    ``members`` among the values are all users who are members by hand. Members from the
    provider or from a CSV file stay. Raises ValidationError, or what ``check`` raises;
    nothing is changed then.
    """
    plain = {field: value for field, value in values.items() if field != MEMBERS}
    team = _locked(name)
    check(team)
    try:
        change = _save(team or Team(name=name), plain, by)
    except ValidationError:
        # Another transaction may have created the team meanwhile.
        if team is not None or (there := _locked(name)) is None:
            raise
        check(there)
        change = _save(there, plain, by)
    team = change.row
    if MEMBERS not in values:
        return TeamChange(change)
    wanted = set(values[MEMBERS])
    joined = [member.user for member in _join(team, wanted, by)]
    left = list(team.members.filter(source=MemberSource.MANUAL).exclude(user__in=wanted).select_related("team"))
    for member in left:
        with auditing.deleting(member, by=by):
            member.delete()
    return TeamChange(change, sorted(joined), sorted(member.user for member in left))


@transaction.atomic
def delete_team(*, name: str, by: Actor, check: Check = accept) -> None:
    """Delete a team with its members.

    Raises UnknownTeam, what ``check`` raises, or InUse if leases, quotas, access rules or tokens need it.
    """
    team = _locked(name)
    check(team)
    if team is None:
        raise UnknownTeam(team=name)
    try:
        with auditing.deleting(team, by=by):
            team.delete()
            if connection.vendor == "postgresql":
                # A borrow may have begun to use the team: learn that here, and not at the commit.
                connection.check_constraints()
    except IntegrityError:
        raise InUse(f"{name} is still in use.") from None


@transaction.atomic
def put_member(
    *, team: str, user: str, by: Actor, values: Mapping[str, Any] | None = None, check: Check = accept
) -> Change[TeamMember]:
    """Make a user a member by hand, who stays whatever the provider says. Fields that are not among the values
    stay. Return what changed.

    Raises UnknownTeam, ValidationError, or what ``check`` raises; nothing is changed then.
    """
    found = _known(team)
    member = TeamMember(team=found, user=user, source=MemberSource.MANUAL)
    member.clean_fields(exclude=["team"])
    known = TeamMember.objects.filter(team=found, user=user).first()
    check(known)
    member = known or member
    for field, value in (values or {}).items():
        setattr(member, field, value)
    return save_member(member, by=by)


@transaction.atomic
def save_member(member: TeamMember, *, by: Actor) -> Change[TeamMember]:
    """Save a new or changed member as a member by hand. Raises ValidationError."""
    Team.objects.filter(pk=member.team_id).lock()
    member.source = MemberSource.MANUAL
    member.clean_fields(exclude=["team"])
    try:
        with auditing.changing(member, by=by) as change:
            member.save()
    except IntegrityError:
        raise ValidationError({"user": f"{member.user} is a member already."}) from None
    return change


@transaction.atomic
def add_members(*, team: Team, users: Iterable[str], by: Actor) -> list[TeamMember]:
    """Make these users members by hand, and return the new ones. Members stay as they are. Raises ValidationError."""
    Team.objects.filter(pk=team.pk).lock()
    return _join(team, users, by)


@transaction.atomic
def delete_member(*, team: str, user: str, by: Actor, check: Check = accept) -> None:
    """Remove a member from a team; the provider may add the user again.

    Raises UnknownTeam, UnknownRow, ValidationError for an invalid name, or what ``check`` raises.
    """
    found = _known(team)
    TeamMember(team=found, user=user).clean_fields(exclude=["team"])
    known = TeamMember.objects.filter(team=found, user=user).select_related("team").first()
    check(known)
    if known is None:
        raise UnknownRow(kind="member", name=f"{user} of team {team}")
    delete_members([known], by=by)


@transaction.atomic
def delete_members(members: Iterable[TeamMember], *, by: Actor) -> None:
    """Remove members of any teams in one transaction."""
    chosen = list(members)
    Team.objects.filter(pk__in={member.team_id for member in chosen}).lock()
    for member in chosen:
        with auditing.deleting(member, by=by):
            member.delete()


def _locked(name: str) -> Team | None:
    """Return the team of this name, locked, or None."""
    if not re.fullmatch(TEAM_NAME_PATTERN, name):
        return None
    Team.objects.filter(name=name).lock()
    return Team.objects.filter(name=name).first()


def _known(name: str) -> Team:
    """Return the team of this name, locked. Raises UnknownTeam."""
    team = _locked(name)
    if team is None:
        raise UnknownTeam(team=name)
    return team


def _save(team: Team, values: Mapping[str, Any], by: Actor) -> Change[Team]:
    for field, value in values.items():
        setattr(team, field, value)
    team.clean_fields()
    try:
        with auditing.changing(team, by=by) as change:
            team.save()
    except IntegrityError:
        raise ValidationError({"name": f"A team called {team.name} exists already."}) from None
    return change


def _join(team: Team, users: Iterable[str], by: Actor) -> list[TeamMember]:
    known = set(team.members.values_list("user", flat=True))
    new = [
        TeamMember(team=team, user=user, source=MemberSource.MANUAL)
        for user in dict.fromkeys(users)
        if user not in known
    ]
    for member in new:
        member.clean_fields(exclude=["team"])
    members = TeamMember.objects.bulk_create(new)
    auditing.created(members, by=by)
    return members
