"""Carry out a plan in one transaction, through the services that every other door uses."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, models, transaction
from django.utils.crypto import salted_hmac

from licenses.access import teams
from licenses.auditing import Actor
from licenses.clock import database_now
from licenses.errors import OutOfDate
from licenses.models import AccessRule, Allotment, AuditedKind, MemberSource, Team, TeamMember, Tool, UserLimit
from licenses.tools import contracts, notes, quotas
from licenses.tools import services as tools
from licenses.tools.locking import lock_known
from licenses.tools.quotas import AllotmentTerms

from .description import Rule, Site, SiteTool
from .parser import TEAMS, Document, Mistake, invalid, place_of
from .plan import Act, History, Plan, plan
from .rows import present
from .writer import data_of, json_ready

# The number of the advisory lock under which one document at a time is applied. Any unused number works.
ONE_AT_A_TIME = 0x6C69_6365_6E63_66
# Asks whether a caller may make a plan. Raises a refusal.
Permit = Callable[[Plan], None]


class _Undone(Exception):
    """Raised to roll back."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A plan that was carried out, or would have been, and the version of the site afterward."""

    plan: Plan
    version: str

    @property
    def data(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "changes": [change.data for change in self.plan.changes],
            "unlisted": [change.data for change in self.plan.unlisted],
            "warnings": self.plan.warnings,
        }


def version_of(site: Site) -> str:
    """Return the version of a site: a hash of what its document says. The hash has a key, so that nobody finds
    a hidden price by trying."""
    text = json.dumps(json_ready(data_of(site)), sort_keys=True)
    return salted_hmac("licenses.site", text, algorithm="sha256").hexdigest()[:32]


def apply(
    document: Document,
    *,
    by: Actor,
    prune: bool = False,
    dry_run: bool = False,
    permit: Permit | None = None,
    versions: Iterable[str] | None = None,
) -> Applied:
    """Give the site the tools, teams and rules of a document, all or none.

    With ``prune``, remove what the document does not mention. A ``dry_run`` makes the changes and rolls them
    back. ``versions`` are those of the site that may change; ``*`` is every version.

    Raises InvalidSite, OutOfDate, InUse if another program used a row that was to go, or what ``permit``
    raises; nothing is changed then.
    """
    if prune and document.is_empty:
        # A file that was cut off must not remove everything.
        text = "The document is empty. To remove everything, write [tools] and [teams]."
        raise invalid([Mistake(None, "", text)])
    done: Applied | None = None
    try:
        with transaction.atomic(durable=True):
            _lock(document, prune)
            now = present()
            if versions is not None and not {"*", version_of(now)}.intersection(versions):
                raise OutOfDate("The site was changed since you read it.")
            today = database_now().astimezone(UTC).date()
            wanted = plan(document, now, prune=prune, history=_history(), today=today)
            if permit is not None:
                permit(wanted)
            changes = _Changes(document, now, wanted, by)
            changes.make()
            wanted.warnings.extend(notes.of_capacities(changes.resized))
            done = Applied(wanted, version_of(present()))
            if dry_run:
                raise _Undone
    except _Undone:
        pass
    assert done is not None  # noqa: S101 - the block above set it, or raised
    return done


def _lock(document: Document, prune: bool) -> None:
    """Lock the tools and the teams of a document, with ``prune`` all, in the order of every other caller."""
    if connection.vendor == "postgresql":
        # Two documents with the same new tool would both create it.
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ONE_AT_A_TIME])
    names = Tool.objects.order_by().values_list("name", flat=True) if prune else document.site.tools
    lock_known(names)
    (Team.objects.all() if prune else Team.objects.filter(name__in=document.site.teams)).lock()


def _history() -> History:
    rules: tuple[type[models.Model], ...] = (Allotment, AccessRule)
    return History(_needed(Tool, ()), _needed(Team, rules))


def _needed(model: type[models.Model], but: tuple[type[models.Model], ...]) -> set[str]:
    """Return the names of the rows that rows of other tables need, except those of some tables."""
    names: set[str] = set()
    for relation in model._meta.related_objects:
        rows: Any = relation.related_model
        if relation.on_delete is models.PROTECT and rows not in but:
            keys = rows._base_manager.filter(**{f"{relation.field.name}__isnull": False}).order_by()
            found = model._base_manager.filter(pk__in=keys.values(relation.field.name))
            names |= set(found.values_list("name", flat=True))
    return names


class _Changes:
    """The calls of services that a plan needs."""

    def __init__(self, document: Document, present: Site, plan: Plan, by: Actor) -> None:
        self.document, self.present, self.plan, self.by = document, present, plan, by
        self.target = plan.target
        # The tools that have another capacity.
        self.resized: list[Tool] = []
        about_contracts = (change.subject for change in plan.changes if change.kind == AuditedKind.CONTRACT)
        self.with_contracts = {subject.partition(": ")[0] for subject in about_contracts}
        # The members of each team whose source is no document.
        self.elsewhere: dict[str, set[str]] = defaultdict(set)
        others = TeamMember.objects.exclude(source=MemberSource.MANUAL).filter(team__name__in=document.site.teams)
        for team, user in others.order_by().values_list("team__name", "user"):
            self.elsewhere[team].add(user)

    def make(self) -> None:
        for name in self.document.site.teams:
            with self._placed((TEAMS, name)):
                self._team(name)
        for name in self.document.site.tools:
            with self._placed(place_of(self.document, name)):
                self._tool(name)
        for change in self.plan.changes:
            self._remove(change.act, change.kind, change.subject)

    @contextmanager
    def _placed(self, place: tuple[str | int, ...]) -> Iterator[None]:
        """Raise InvalidSite, with the place in the document, for what a service says is invalid."""
        try:
            yield
        except ValidationError as error:
            raise invalid([self.document.mistake(place, " ".join(error.messages))]) from None

    # --- Teams

    def _team(self, name: str) -> None:
        target, known = self.target.teams[name], self.present.teams.get(name)
        values: dict[str, Any] = _changed(target.values, known.values if known else {})
        if known is None or target.members != known.members:
            values[teams.MEMBERS] = sorted(target.members)
        if known is None or values:
            teams.put_team(name=name, values=values, by=self.by)
        # Members from elsewhere become members by hand.
        for user in sorted(self.elsewhere[name] & target.members):
            teams.put_member(team=name, user=user, by=self.by)

    # --- Tools

    def _tool(self, name: str) -> None:
        target, known = self.target.tools[name], self.present.tools.get(name)
        if target.contracts is None and known is not None and known.contracts is not None:
            rows = Tool.objects.get(name=name).contracts.select_related("tool")
            self.resized += contracts.delete(contracts=rows, by=self.by)
        values: dict[str, Any] = _changed(target.values, known.values if known else {})
        if target.contracts is not None and name in self.with_contracts:
            values[tools.CONTRACTS] = target.contracts
        if known is None or values:
            done = tools.put_tool(name=name, values=values, by=self.by)
            self.resized += [done.tool] if done.is_resized else []
        if known is None or _rules_of(target) != _rules_of(known):
            self._rules(name, target, known or SiteTool())

    def _rules(self, name: str, target: SiteTool, known: SiteTool) -> None:
        tool = Tool.objects.get(name=name)
        gone: list[quotas.Rule] = [
            *UserLimit.objects.filter(tool=tool, user__in=known.user_limits.keys() - target.user_limits.keys()),
            *(
                rule
                for rule in AccessRule.objects.filter(tool=tool).select_related("team")
                if Rule(rule.effect, rule.kind, rule.subject) not in target.access_rules
            ),
        ]
        if gone:
            quotas.delete_rules(rules=gone, by=self.by)
        terms = {team: AllotmentTerms(**values) for team, values in target.allowances.items()}
        changed = {team for team, values in target.allowances.items() if known.allowances.get(team) != values}
        changed |= known.allowances.keys() - target.allowances.keys()
        if changed:
            rows = Team.objects.filter(name__in=changed).order_by("name")
            quotas.allot(tool=name, terms={row: terms.get(row.name) for row in rows}, by=self.by, may_exceed=True)
        limits = {limit.user: limit for limit in UserLimit.objects.filter(tool=tool)}
        rules: list[quotas.Rule] = []
        for user, seats in sorted(target.user_limits.items()):
            limit = limits.get(user) or UserLimit(tool=tool, user=user)
            if limit.seats != seats:
                limit.seats = seats
                rules.append(limit)
        of_teams = {row.name: row for row in Team.objects.all()} if target.access_rules - known.access_rules else {}
        for effect, kind, subject in sorted(target.access_rules - known.access_rules):
            team = of_teams[subject] if kind == "team" else None
            rules.append(AccessRule(tool=tool, effect=effect, kind=kind, team=team, name="" if team else subject))
        if rules:
            quotas.save_rules(rules=rules, by=self.by)

    # --- What goes

    def _remove(self, act: Act, kind: AuditedKind, name: str) -> None:
        """Remove or disable a tool or a team that the document does not mention."""
        if (act, kind) == (Act.REMOVED, AuditedKind.TOOL):
            tools.delete(name=name, by=self.by)
        elif (act, kind) == (Act.DISABLED, AuditedKind.TOOL):
            tools.put_tool(name=name, values={"enabled": False}, by=self.by)
        elif (act, kind) == (Act.REMOVED, AuditedKind.TEAM):
            teams.delete_team(name=name, by=self.by)
        elif (act, kind) == (Act.REMOVED, AuditedKind.MEMBER):
            user, _, team = name.rpartition(" in ")
            if team not in self.document.site.teams:
                teams.delete_member(team=team, user=user, by=self.by)


def _rules_of(tool: SiteTool) -> tuple[Any, ...]:
    return tool.allowances, tool.user_limits, tool.access_rules


def _changed(target: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in target.items() if name not in known or known[name] != value}
