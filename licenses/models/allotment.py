"""Who may have how much of a tool: quotas and reservations, limits, lists."""

from collections.abc import Iterable
from datetime import datetime

from django.db import models
from django.db.models import F, OuterRef, Q, Subquery, Sum
from django.db.models.functions import Coalesce, Greatest, Now

from licenses.names import NAME_LENGTH
from licenses.policy import Share

from .lease import Lease
from .team import Team, validate_name
from .tool import Tool


class AllotmentQuerySet(models.QuerySet["Allotment"]):
    def with_borrowed(self, now: datetime | Now) -> "AllotmentQuerySet":
        """Each allotment with ``borrowed``, the seats of its team that are out
        at ``now``, and ``idle``, the reserved seats that are not."""
        mine = Lease.objects.overdue(now).filter(tool=OuterRef("tool"), team=OuterRef("team")).order_by()
        overdue = mine.values("team").annotate(level=Sum("seats")).values("level")
        return self.annotate(  # type: ignore[no-redef]
            borrowed=F("in_use") - Coalesce(Subquery(overdue), 0),
            idle=Greatest(F("reservation") - F("borrowed"), 0),
        )


class Allotment(models.Model):
    """What a team may have of a tool.

    ``in_use`` is changed under the tool's lock, and always equals the seats of
    the team's leases of the tool that nobody has closed.
    """

    tool = models.ForeignKey(Tool, on_delete=models.CASCADE, related_name="allotments", db_index=False)
    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="allotments")
    quota = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="The most seats that the members of the team can have together; empty = no limit.",
    )
    reservation = models.PositiveIntegerField(default=0, help_text="Seats that only this team can borrow.")
    in_use = models.PositiveIntegerField(default=0, editable=False)

    objects = AllotmentQuerySet.as_manager()

    # What with_borrowed() adds.
    borrowed: int
    idle: int

    class Meta:
        ordering = ["tool__name", "team__name"]
        verbose_name = "quota and reservation"
        verbose_name_plural = "quotas and reservations"
        constraints = [
            models.UniqueConstraint(fields=["tool", "team"], name="allotment_one_a_team"),
            models.CheckConstraint(condition=Q(in_use__gte=0), name="allotment_in_use_not_negative"),
            models.CheckConstraint(
                condition=Q(quota__isnull=True) | Q(quota__gte=F("reservation")),
                name="allotment_reservation_within_quota",
                violation_error_message="A team can't have more seats reserved than its quota lets it use.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tool} for {self.team}"

    @property
    def share(self) -> Share:
        """What the policy needs to know; call it under the tool's lock."""
        return Share(self.quota, self.reservation, self.in_use)


class UserLimit(models.Model):
    """The most seats of a tool that one user has, instead of the tool's own limit."""

    tool = models.ForeignKey(Tool, on_delete=models.CASCADE, related_name="user_limits", db_index=False)
    user = models.CharField(max_length=NAME_LENGTH, validators=[validate_name])
    seats = models.PositiveIntegerField()

    class Meta:
        ordering = ["user"]
        constraints = [models.UniqueConstraint(fields=["tool", "user"], name="userlimit_one_a_user")]

    def __str__(self) -> str:
        return f"{self.tool} for {self.user}: {self.seats}"


class Effect(models.TextChoices):
    INCLUDE = "include", "Include: these, and nobody who isn't included"
    EXCLUDE = "exclude", "Exclude: not these, even if they are included"


class SubjectKind(models.TextChoices):
    USER = "user"
    TEAM = "team"
    HOST = "host"
    PROJECT = "project"


class AccessRuleQuerySet(models.QuerySet["AccessRule"]):
    def of_tools(self, tools: Iterable[Tool]) -> "AccessRuleQuerySet":
        return self.filter(tool__in=list(tools)).select_related("team")


class AccessRule(models.Model):
    """One line of a tool's lists of who may use it.

    Without a line all may. Exclusion is tested first and wins; where anybody is
    included, nobody else may.
    """

    tool = models.ForeignKey(Tool, on_delete=models.CASCADE, related_name="access_rules", db_index=False)
    effect = models.CharField(max_length=8, choices=Effect)
    kind = models.CharField(max_length=8, choices=SubjectKind)
    # Protected: with an include list's only team the list would go, and all be let in.
    team = models.ForeignKey(Team, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    name = models.CharField(
        max_length=NAME_LENGTH,
        blank=True,
        validators=[validate_name],
        help_text="The name of the user, host or project.",
    )

    objects = AccessRuleQuerySet.as_manager()

    class Meta:
        ordering = ["effect", "kind", "team__name", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["tool", "effect", "team"],
                condition=Q(kind="team"),
                name="accessrule_team_once",
                violation_error_message="This line is in the list already.",
            ),
            models.UniqueConstraint(
                fields=["tool", "effect", "kind", "name"],
                condition=~Q(kind="team"),
                name="accessrule_name_once",
                violation_error_message="This line is in the list already.",
            ),
            models.CheckConstraint(
                condition=Q(kind="team", team__isnull=False, name="")
                | (~Q(kind="team") & Q(team__isnull=True) & ~Q(name="")),
                name="accessrule_names_its_subject",
                violation_error_message="A team is chosen; a user, host or project is named.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tool}: {self.effect} {self.kind} {self.subject}"

    @property
    def subject(self) -> str:
        """The name of whom the line is about."""
        return self.team.name if self.team is not None else self.name
