"""Decide what a caller may do, and whose names a caller sees. The API, the board and the admin ask only this module.

With ``LICENSE_AUTH=open`` everybody may do everything except administer.
"""

from collections.abc import Callable, Iterable

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.db.models import Exists, OuterRef, Q, QuerySet

from licenses.errors import MoreRights, NotForOthers, Refusal
from licenses.models import Lease, Team, TeamMember

from .callers import Caller, Kind, Scope
from .visibility import EVERYBODY, LeaseNames, Names

# Django's permission to change leases of other users.
CHANGE_LEASES = "licenses.change_lease"
VIEW_AUDIT = "licenses.view_auditrecord"
# Django's permissions to view leases of other users; the admin needs them too.
VIEW_LEASES = "licenses.view_lease"
VIEW_DENIALS = "licenses.view_denial"
VIEW_MEMBERS = "licenses.view_teammember"
# The permission to view reports of use and cost, without what single people did.
VIEW_REPORTS = "licenses.view_reports"
# Each of these shows prices: of tools and contracts, and the costs that follow from them.
SEE_PRICES = (VIEW_REPORTS, VIEW_LEASES, "licenses.view_contract", "licenses.change_contract")
REPLACE_CONTRACTS = ("licenses.add_contract", "licenses.change_contract", "licenses.delete_contract")


# The tables of a site's document.
SITE = ("tool", "contract", "allotment", "userlimit", "accessrule", "team", "teammember")


def may(caller: Caller, scope: Scope) -> bool:
    """Return whether a caller has this scope."""
    return (settings.LICENSE_AUTH == "open" and scope != Scope.ADMIN) or caller.has(scope)


def is_known(caller: Caller) -> bool:
    """Return whether a caller has a credential, or needs none."""
    return settings.LICENSE_AUTH == "open" or caller.kind != Kind.ANONYMOUS


def may_act_for(caller: Caller, user: str) -> bool:
    """Return whether a caller may borrow, renew, wait and return for this user.

    Users may for themselves, a team's token for members whose account is not
    deactivated, superusers and the scope ``admin`` for all. Staff with the
    permission to change leases can only force-return leases of others.
    """
    if settings.LICENSE_AUTH == "open" or caller.name == user or caller.acts_for_all:
        return True
    if caller.of_team is None:
        return False
    # Check both the name that was sent and the member's, because they may differ in case.
    deactivated = User.objects.filter(username__in=[OuterRef("user"), user], is_active=False)
    members = TeamMember.objects.of_users([user]).filter(team__name=caller.of_team)
    return members.exclude(Exists(deactivated)).exists()


def require_may_act_for(caller: Caller, user: str) -> None:
    """Raise NotForOthers, also if there is no such user."""
    if not may_act_for(caller, user):
        raise NotForOthers


def require_may_ask_about(caller: Caller, user: str) -> None:
    """Raise NotForOthers unless the caller may see what this user could borrow.

    The answer would reveal the user's teams. Raise also if there is no such user.
    """
    if not (may_act_for(caller, user) or caller.is_admin(CHANGE_LEASES) or caller.is_admin(VIEW_MEMBERS)):
        raise NotForOthers


def names_on_board(caller: Caller) -> Names:
    """Return the names that a caller sees on today's leases, tickets and denials.

    LICENSE_SHOW_HOLDERS decides. Administrators see all names. If names are
    hidden, users see only their own, and a team's token only those of its team.
    """
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
    """Return the names that a caller sees on past leases and denials.

    They show how a person works, so all names need one of these permissions,
    whatever LICENSE_SHOW_HOLDERS is.
    """
    if any(caller.is_admin(permission) for permission in permissions):
        return EVERYBODY
    if caller.of_team is not None:
        return Names(teams=frozenset({caller.of_team}))
    return Names(user=caller.name)


def names_on_leases(caller: Caller) -> LeaseNames:
    """Return the names that a caller sees in the list of leases."""
    return LeaseNames(active=names_on_board(caller), ended=names_of_past(caller, VIEW_LEASES, CHANGE_LEASES))


def may_see_reports(caller: Caller) -> bool:
    """Return whether a caller sees all reports of use and cost. The permission to view leases includes it."""
    return caller.is_admin(VIEW_REPORTS) or caller.is_admin(VIEW_LEASES)


def may_see_prices(caller: Caller) -> bool:
    """Return whether a caller sees prices and costs, and the references and notes of contracts."""
    return any(caller.is_admin(permission) for permission in SEE_PRICES)


def may_see_costs_of(caller: Caller, team: str | None) -> bool:
    """Return whether a caller sees the costs of a team, or of all with None. Leads see those of their team."""
    return may_see_prices(caller) or (team is not None and teams_led_by(caller).filter(name=team).exists())


def teams_reported_to(caller: Caller) -> QuerySet[Team]:
    """Return the teams whose use and cost a caller sees: those that the caller leads; all with the permission
    to view reports."""
    if may_see_reports(caller):
        return Team.objects.all()
    return teams_led_by(caller)


def teams_led_by(caller: Caller) -> QuerySet[Team]:
    """Return the teams that a caller leads, by name."""
    led = TeamMember.objects.led_by(caller.name).order_by().values("team")
    return Team.objects.filter(pk__in=led) if caller.name else Team.objects.none()


def names_on_denials(caller: Caller) -> Names:
    """Return the names whose denials a caller sees in the list."""
    return names_of_past(caller, VIEW_DENIALS)


def rows_for(caller: Caller, leases: QuerySet[Lease]) -> QuerySet[Lease]:
    """Return the leases that a caller sees, with or without names: a team's token only its team's."""
    return leases if caller.of_team is None else leases.filter(team__name=caller.of_team)


def team_for(caller: Caller, team: str | None) -> str | None:
    """Return the team that a borrow names; with a team's token, its team.

    Raises NotForOthers if a team's token names another team.
    """
    if caller.of_team is None:
        return team
    if team not in (None, caller.of_team):
        raise NotForOthers
    return caller.of_team


def only_holder(caller: Caller) -> str | None:
    """Return the one user whose leases and tickets a caller may change. None if the caller may
    change those of others, or of a team: then ``require_own`` decides."""
    if settings.LICENSE_AUTH == "open" or caller.acts_for_all or caller.of_team is not None:
        return None
    return caller.name or None


def require_own(
    caller: Caller, owner: Callable[[], tuple[str, str | None] | None], unknown: type[Refusal]
) -> str | None:
    """Return the user of a lease or ticket, or None if the caller is unknown. ``owner`` reads its user and its
    team's name, or returns None if there is no such row.

    Raise ``unknown`` unless the caller may act for that user and, with a team's
    token, the row counts for that team.
    """
    if caller.kind == Kind.ANONYMOUS:
        # An unknown caller gets here only if the server is open.
        return None
    found = owner()
    if found is None or not may_act_for(caller, found[0]):
        raise unknown
    if caller.of_team is not None and found[1] != caller.of_team and settings.LICENSE_AUTH != "open":
        raise unknown
    return found[0]


def may_see_site(caller: Caller) -> bool:
    """Return whether a caller sees everything that the document of a site has."""
    return all(any(caller.is_admin(f"licenses.{verb}_{table}") for verb in ("view", "change")) for table in SITE)


def lacking(caller: Caller, permissions: Iterable[str]) -> list[str]:
    """Return those of Django's permissions that a caller lacks, sorted."""
    return sorted(permission for permission in permissions if not caller.is_admin(permission))


def require_may_replace_contracts(caller: Caller) -> None:
    """Raise MoreRights unless a caller may add, change and delete contracts."""
    if not all(caller.is_admin(permission) for permission in REPLACE_CONTRACTS):
        raise MoreRights("To replace the contracts of a tool, you need the rights to add, change and delete contracts.")


def require_may_set_prices(caller: Caller) -> None:
    """Raise MoreRights unless a caller sees prices."""
    if not may_see_prices(caller):
        raise MoreRights("To set prices, you need a right to see them: to view reports, leases or contracts.")


def require_rights_of(caller: Caller, account: User) -> None:
    """Raise MoreRights unless a caller has every right of an account.

    An administrator's credential without an account has all rights.
    """
    if caller.user is not None and not is_within_own(caller.user, account):
        raise MoreRights(f"{account.username} has rights that you lack.")


def is_within_own(user: User | AnonymousUser, account: User) -> bool:
    """Return whether a user has every right of an account, active or not."""
    if user.is_superuser or account.is_superuser:
        return user.is_superuser
    granted = Permission.objects.filter(Q(user=account) | Q(group__user=account))
    codes = granted.values_list("content_type__app_label", "codename")
    return {f"{app}.{code}" for app, code in codes} <= user.get_all_permissions()
