"""Edit quotas, reservations, user limits and access rules in the admin."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest

from licenses.errors import OverReserved
from licenses.models import AccessRule, Allotment, Team, Tool, UserLimit
from licenses.models.allotment import Effect, SubjectKind
from licenses.tools import quotas, texts
from licenses.tools.locking import lock

from . import names
from .audited import AuditedAdmin, actor_of
from .filters import UsedRelations
from .lines import LinesAdmin


class AllotmentForm(ModelForm[Allotment]):
    def clean(self) -> dict[str, Any]:
        """Check the reservation and the quota as the service does, so that the page can show the error."""
        cleaned = super().clean() or {}
        tool = cleaned.get("tool") or (self.instance.tool if self.instance.pk else None)
        team = cleaned.get("team") or (self.instance.team if self.instance.pk else None)
        if self.errors or tool is None or team is None:
            return cleaned
        # The lock keeps out other reservations until this one is saved.
        locked = lock([tool.name])[tool.name]
        wanted = quotas.AllotmentTerms(cleaned["quota"], cleaned["reservation"])
        try:
            quotas.check_terms(tool=locked, terms={team: wanted})
        except OverReserved as refusal:
            raise ValidationError(texts.of_refusal(refusal)) from None
        except ValidationError as error:
            raise texts.of_error(error) from None
        return cleaned


@admin.register(Allotment)
class AllotmentAdmin(AuditedAdmin[Allotment]):
    form = AllotmentForm
    fields = ["tool", "team", "quota", "reservation", "borrowed"]
    list_display = [names.tool, names.team, "quota", "reservation", "borrowed"]
    list_display_links = [names.tool, names.team]
    list_filter = [("tool", UsedRelations), ("team", UsedRelations)]
    list_select_related = ["tool", "team"]
    search_fields = ["tool__name", "tool__display_name", "team__name", "team__display_name"]
    autocomplete_fields = ["tool", "team"]

    def get_readonly_fields(self, request: HttpRequest, obj: Allotment | None = None) -> list[str]:
        return ["tool", "team", "borrowed"] if obj else ["borrowed"]

    def save_model(self, request: HttpRequest, obj: Allotment, form: Any, change: bool) -> None:
        wanted = quotas.AllotmentTerms(obj.quota, obj.reservation)
        quotas.allot(tool=obj.tool.name, terms={obj.team: wanted}, by=actor_of(request))
        obj.pk = Allotment.objects.get(tool=obj.tool, team=obj.team).pk

    def delete_model(self, request: HttpRequest, obj: Allotment) -> None:
        quotas.allot(tool=obj.tool.name, terms={obj.team: None}, by=actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Allotment]) -> None:
        quotas.remove_allotments(allotments=queryset.select_related("tool", "team"), by=actor_of(request))


class RuleAdmin(LinesAdmin):
    """Rows that a tool needs when it decides about a borrow."""

    parent = "tool"
    list_select_related = ["tool"]
    autocomplete_fields = ["tool"]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        quotas.save_rules(rules=[obj], by=actor_of(request))

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        quotas.delete_rules(rules=[obj], by=actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        quotas.delete_rules(rules=list(queryset.select_related("tool")), by=actor_of(request))


@admin.register(UserLimit)
class UserLimitAdmin(RuleAdmin):
    fields = ["tool", "user", "seats"]
    list_display = ["user", names.tool, "seats"]
    list_filter = [("tool", UsedRelations)]
    search_fields = ["user", "tool__name", "tool__display_name"]
    line_help = "Write a user and a number of seats on each line, for example: ana 2."

    def parser(self, parent: Tool) -> Callable[[str], UserLimit]:
        def parse(line: str) -> UserLimit:
            found = re.fullmatch(r"(.*\S)[\s,;]+([0-9]{1,9})", line)
            if found is None:
                raise ValidationError("Write a user and a number of seats, for example: ana 2.")
            return UserLimit(tool=parent, user=found[1].rstrip(",; \t"), seats=int(found[2]))

        return parse

    def add_rows(self, request: HttpRequest, parent: Tool, rows: Iterable[UserLimit]) -> tuple[int, int]:
        list(Tool.objects.locked([parent.name]))
        known = dict(parent.user_limits.values_list("user", "seats"))
        new: dict[str, UserLimit] = {}
        there = 0
        for row in rows:
            limit = known.get(row.user, new[row.user].seats if row.user in new else None)
            if limit is None:
                new[row.user] = row
            elif limit == row.seats:
                there += 1
            else:
                raise ValidationError(f"{row.user} already has a limit of {limit}, not {row.seats}.")
        if new:
            quotas.save_rules(rules=list(new.values()), by=actor_of(request))
        return len(new), there


@admin.register(AccessRule)
class AccessRuleAdmin(RuleAdmin):
    fields = ["tool", "effect", "kind", "team", "name"]
    list_display = [names.tool, "subject_names", "kind", "short_effect"]
    list_display_links = [names.tool, "subject_names"]
    list_filter = ["effect", "kind", ("tool", UsedRelations)]
    list_select_related = ["tool", "team"]
    search_fields = ["name", "team__name", "team__display_name", "tool__name", "tool__display_name"]
    autocomplete_fields = ["tool", "team"]
    line_help = (
        "Write an effect, a kind and a name on each line, for example: include user ana. "
        "Effects are include and exclude. Kinds are user, team, host and project."
    )

    @admin.display(description="subject")
    def subject_names(self, rule: AccessRule) -> str:
        """Return the names of the team, or the name of the user, host or project."""
        return names.named(rule.team) if rule.team else rule.name

    @admin.display(description="effect", ordering="effect")
    def short_effect(self, rule: AccessRule) -> str:
        """Return the effect without its explanation."""
        return Effect(rule.effect).label.partition(":")[0]

    def parser(self, parent: Tool) -> Callable[[str], AccessRule]:
        teams = {team.name: team for team in Team.objects.all()}

        def parse(line: str) -> AccessRule:
            words = line.split(None, 2)
            if len(words) < 3 or words[0].lower() not in Effect.values or words[1].lower() not in SubjectKind.values:
                raise ValidationError("Write an effect, a kind and a name, for example: include user ana.")
            effect, kind, name = words[0].lower(), words[1].lower(), words[2]
            if kind == SubjectKind.TEAM and name not in teams:
                raise ValidationError(f"There is no team {name}.")
            of_team = kind == SubjectKind.TEAM
            return AccessRule(
                tool=parent,
                effect=effect,
                kind=kind,
                team=teams[name] if of_team else None,
                name="" if of_team else name,
            )

        return parse

    def add_rows(self, request: HttpRequest, parent: Tool, rows: Iterable[AccessRule]) -> tuple[int, int]:
        list(Tool.objects.locked([parent.name]))
        known = {_key(row) for row in AccessRule.objects.filter(tool=parent)}
        all_rows = list(rows)
        new = {_key(row): row for row in all_rows if _key(row) not in known}
        if new:
            quotas.save_rules(rules=list(new.values()), by=actor_of(request))
        return len(new), len(all_rows) - len(new)


def _key(row: AccessRule) -> tuple[str, str, int | None, str]:
    return row.effect, row.kind, row.team_id, row.name
