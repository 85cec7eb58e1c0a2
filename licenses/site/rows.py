"""Read the present site from its rows in the database."""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, transaction

from licenses.models import AccessRule, Allotment, Contract, MemberSource, Team, TeamMember, Tool, UserLimit

from .description import ALLOWANCE_FIELDS, CONTRACT_FIELDS, TEAM_FIELDS, TOOL_FIELDS, Rule, Site, SiteTeam, SiteTool


@contextmanager
def one_moment() -> Iterator[None]:
    """Let all queries of the block see the same moment."""
    if connection.in_atomic_block:
        yield
        return
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def present() -> Site:
    """Return the site, with the values of all fields.

    A tool with contracts has no value of the capacity, because the contracts set it.
    """
    rows = list(Tool.objects.order_by("name"))
    site = Site({row.name: SiteTool(_values(row, TOOL_FIELDS)) for row in rows})
    of = {row.pk: site.tools[row.name] for row in rows}
    # Another transaction may have added a tool or a team after the first query.
    for contract in Contract.objects.filter(tool__in=of):
        tool = of[contract.tool_id]
        tool.values.pop("capacity", None)
        tool.contracts = [*(tool.contracts or ()), _values(contract, CONTRACT_FIELDS)]
    for allotment in Allotment.objects.filter(tool__in=of).select_related("team"):
        of[allotment.tool_id].allowances[allotment.team.name] = _values(allotment, ALLOWANCE_FIELDS)
    for limit in UserLimit.objects.filter(tool__in=of):
        of[limit.tool_id].user_limits[limit.user] = limit.seats
    for rule in AccessRule.objects.filter(tool__in=of).select_related("team"):
        of[rule.tool_id].access_rules.add(Rule(rule.effect, rule.kind, rule.subject))
    site.teams = {team.name: SiteTeam(_values(team, TEAM_FIELDS)) for team in Team.objects.order_by("name")}
    members = TeamMember.objects.filter(source=MemberSource.MANUAL).order_by()
    for team, user in members.values_list("team__name", "user"):
        if team in site.teams:
            site.teams[team].members.add(user)
    return site


def members_elsewhere() -> dict[MemberSource, int]:
    """Return the number of members whose source is no document, by their source."""
    others = TeamMember.objects.exclude(source=MemberSource.MANUAL).order_by()
    return dict(Counter(map(MemberSource, others.values_list("source", flat=True))))


def _values(row: Any, fields: Collection[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in fields}
