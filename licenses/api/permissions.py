"""What a caller may do. Views ask here and nowhere else.

Where ``LICENSE_AUTH`` is ``open``, everybody may do everything but administer.
"""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Exists, OuterRef, QuerySet
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from licenses.auditing import Actor
from licenses.callers import Caller, Kind, Scope
from licenses.errors import Refusal
from licenses.models import Lease, Team, TeamMember
from licenses.visibility import EVERYBODY, LeaseNames, Names

from .authentication import caller_of

# Django's permission to change other people's leases.
CHANGE_LEASES = "licenses.change_lease"
VIEW_AUDIT = "licenses.view_auditrecord"
# Those to look at other people's, as the admin's pages need them too.
VIEW_LEASES = "licenses.view_lease"
VIEW_DENIALS = "licenses.view_denial"
VIEW_MEMBERS = "licenses.view_teammember"


class NotForOthers(PermissionDenied):
    default_code = "not_for_others"
    default_detail = "This credential acts only for its owner: you, or the members of its team."


def may(caller: Caller, scope: Scope) -> bool:
    """Whether a caller may do what needs this scope."""
    return (settings.LICENSE_AUTH == "open" and scope != Scope.ADMIN) or caller.has(scope)


class FromAnotherSite(PermissionDenied):
    default_code = "cross_site"
    default_detail = "A page of another site sent this request. Send it from this server, or with a token."


def require_own_page(request: Request) -> None:
    """Raise FromAnotherSite for a change that another site's page sent through somebody's
    browser, with no credential or with the password that the browser keeps. A session
    has its CSRF token, and no page makes a browser send a token in a header."""
    origin = request.META.get("HTTP_ORIGIN")
    if origin is None or caller_of(request).kind not in {Kind.ANONYMOUS, Kind.PASSWORD}:
        return
    if request.method not in SAFE_METHODS and origin not in settings.CSRF_TRUSTED_ORIGINS:
        try:
            host = urlsplit(origin).netloc
        except ValueError:
            host = ""
        if host != request.get_host():
            raise FromAnotherSite


class HasScope(BasePermission):
    """Every call needs a scope: ``read`` to look, ``borrow`` to change, or the
    one that the view's ``scopes`` names for its action."""

    def has_permission(self, request: Request, view: Any) -> bool:
        require_own_page(request)
        needed = Scope.READ if request.method in SAFE_METHODS else Scope.BORROW
        needed = getattr(view, "scopes", {}).get(getattr(view, "action", None), needed)
        return may(caller_of(request), needed)


class MayScrape(HasScope):
    """Prometheus: whoever may look, and everybody if so configured."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return settings.LICENSE_METRICS_PUBLIC or super().has_permission(request, view)


class MayChangeLeases(BasePermission):
    """Administrators who may change other people's leases."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return caller_of(request).is_admin(CHANGE_LEASES)


class MayReadAudit(BasePermission):
    """Administrators who may read who changed what."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return caller_of(request).is_admin(VIEW_AUDIT)


class MayReadDenials(BasePermission):
    """Those who may see the denials of anybody: administrators all, people their
    own, a team's token those that count for its team."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return not names_on_denials(caller_of(request)).none


def may_act_for(caller: Caller, user: str) -> bool:
    """Whether a caller may borrow, renew, wait and return in this user's name:
    people in their own, a team's token in its members' unless their account is
    deactivated, superusers and the scope ``admin`` in all. Staff who may change leases end those of others by force
    return only."""
    if settings.LICENSE_AUTH == "open" or caller.name == user or caller.acts_for_all:
        return True
    if caller.of_team is None:
        return False
    # By the name that was sent and by the member's, which may differ in case.
    deactivated = User.objects.filter(username__in=[OuterRef("user"), user], is_active=False)
    members = TeamMember.objects.of_users([user]).filter(team__name=caller.of_team)
    return members.exclude(Exists(deactivated)).exists()


def require_may_act_for(caller: Caller, user: str) -> None:
    """Raise NotForOthers, whether or not there is such a user."""
    if not may_act_for(caller, user):
        raise NotForOthers


def require_may_ask_about(caller: Caller, user: str) -> None:
    """Raise NotForOthers unless the caller may know what this user could borrow,
    which tells whose member they are; whether or not there is such a user."""
    if not (may_act_for(caller, user) or caller.is_admin(CHANGE_LEASES) or caller.is_admin(VIEW_MEMBERS)):
        raise NotForOthers


def names_on_board(caller: Caller) -> Names:
    """Whose names a caller sees of those who hold and want seats now, or were
    refused one on the day: by LICENSE_SHOW_HOLDERS. Administrators see all,
    people their own, and a team's token those of its team, and no others."""
    if caller.is_admin(VIEW_LEASES) or caller.is_admin(CHANGE_LEASES):
        return EVERYBODY
    if caller.of_team is not None:
        return Names(teams=frozenset({caller.of_team}))
    if settings.LICENSE_SHOW_HOLDERS == "everyone":
        return EVERYBODY
    if settings.LICENSE_SHOW_HOLDERS == "nobody":
        return Names(user=caller.name)
    mine = Team.objects.of_user(caller.name).values_list("name", flat=True) if caller.name else ()
    return Names(user=caller.name, teams=caller.teams.union(mine))


def names_of_past(caller: Caller, *permissions: str) -> Names:
    """Whose names a caller sees of those who held or were refused seats at any
    time. That says how somebody works, and so takes one of these permissions,
    whatever LICENSE_SHOW_HOLDERS says."""
    if any(caller.is_admin(permission) for permission in permissions):
        return EVERYBODY
    if caller.of_team is not None:
        return Names(teams=frozenset({caller.of_team}))
    return Names(user=caller.name)


def names_on_leases(caller: Caller) -> LeaseNames:
    """Whose names a caller sees in the list of all leases."""
    return LeaseNames(active=names_on_board(caller), ended=names_of_past(caller, VIEW_LEASES, CHANGE_LEASES))


def names_on_denials(caller: Caller) -> Names:
    """Whose denials a caller sees in the list of all."""
    return names_of_past(caller, VIEW_DENIALS)


def rows_for(caller: Caller, leases: QuerySet[Lease]) -> QuerySet[Lease]:
    """Those of the leases that a caller sees at all, with a name or without: a
    team's token only those that count for its team."""
    return leases if caller.of_team is None else leases.filter(team__name=caller.of_team)


def team_for(caller: Caller, team: str | None) -> str | None:
    """The team that a borrow counts for, if the caller names one: a team's token
    is good only for its own. Raises NotForOthers."""
    if caller.of_team is None:
        return team
    if team not in (None, caller.of_team):
        raise NotForOthers
    return caller.of_team


def actor_for(request: Request, user: str) -> Actor | None:
    """Who acts for this user; None if that is the user, or somebody unknown, as
    ``LICENSE_AUTH=open`` allows."""
    caller = caller_of(request)
    if caller.kind == Kind.ANONYMOUS or caller.name == user:
        return None
    return Actor.of_call(caller, request.META)


def require_own(request: Request, rows: QuerySet[Any], unknown: type[Refusal], **which: Any) -> Actor | None:
    """Return who acts for the user of that one of the rows (``actor_for``).

    Raise ``unknown`` unless the caller may act for that user, and, with a team's
    token, unless the row counts for that team.
    """
    caller = caller_of(request)
    if caller.kind == Kind.ANONYMOUS:
        # Somebody who came this far: the server is open.
        return None
    columns = ["user"] if caller.of_team is None else ["user", "team__name"]
    found = rows.filter(**which).values_list(*columns).first()
    if found is None or not may_act_for(caller, found[0]):
        raise unknown
    if caller.of_team is not None and found[1] != caller.of_team and settings.LICENSE_AUTH != "open":
        raise unknown
    return actor_for(request, found[0])
