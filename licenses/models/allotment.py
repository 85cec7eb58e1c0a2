"""Quotas, reservations, user limits and access rules of tools."""

from datetime import datetime

from django.db import models
from django.db.models import F, OuterRef, Q, Subquery, Sum
from django.db.models.functions import Coalesce, Greatest, Now

from licenses.names import NAME_LENGTH
from licenses.policy import TeamAllotment

from .lease import Lease
from .team import Team, validate_name
from .tool import Tool


class AllotmentQuerySet(models.QuerySet["Allotment"]):
    def with_current_counts(self, now: datetime | Now) -> "AllotmentQuerySet":
        """Add ``borrowed_now``, the team's borrowed seats without those of leases that have expired at
        ``now``, and ``reserved_idle_now``, the reserved seats that the team does not use then."""
        mine = Lease.objects.overdue(now).filter(tool=OuterRef("tool"), team=OuterRef("team")).order_by()
        overdue = mine.values("team").annotate(level=Sum("seats")).values("level")
        return self.annotate(  # type: ignore[no-redef]
            borrowed_now=F("borrowed") - Coalesce(Subquery(overdue), 0),
            reserved_idle_now=Greatest(F("reservation") - F("borrowed_now"), 0),
        )


class Allotment(models.Model):
    """The quota and the reservation of a team for a tool.

    ``borrowed`` changes under the tool's lock. It is always the sum of seats of the
    team's open leases of the tool.
    """

    tool = models.ForeignKey(Tool, on_delete=models.CASCADE, related_name="allotments", db_index=False)
    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="allotments")
    quota = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="The most seats that the members of the team can have together; empty = no limit.",
    )
    reservation = models.PositiveIntegerField(default=0, help_text="Seats that only this team can borrow.")
    borrowed = models.PositiveIntegerField(default=0, editable=False, db_column="in_use")

    objects = AllotmentQuerySet.as_manager()

    # with_current_counts() adds these.
    borrowed_now: int
    reserved_idle_now: int

    class Meta:
        ordering = ["tool__name", "team__name"]
        verbose_name = "quota and reservation"
        verbose_name_plural = "quotas and reservations"
        constraints = [
            models.UniqueConstraint(fields=["tool", "team"], name="allotment_one_a_team"),
            models.CheckConstraint(condition=Q(borrowed__gte=0), name="allotment_in_use_not_negative"),
            models.CheckConstraint(
                condition=Q(quota__isnull=True) | Q(quota__gte=F("reservation")),
                name="allotment_reservation_within_quota",
                violation_error_message="A team can't have more seats reserved than its quota lets it use.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tool} for {self.team}"

    @property
    def for_policy(self) -> TeamAllotment:
        """Return the values for the policy. Call it under the tool's lock."""
        return TeamAllotment(self.quota, self.reservation, self.borrowed)


class UserLimit(models.Model):
    """The most seats of a tool that one user can have. It overrides the tool's limit."""

    tool = models.ForeignKey(Tool, on_delete=models.CASCADE, related_name="user_limits", db_index=False)
    user = models.CharField(max_length=NAME_LENGTH, validators=[validate_name])
    seats = models.PositiveIntegerField()

    class Meta:
        ordering = ["user"]
        constraints = [models.UniqueConstraint(fields=["tool", "user"], name="userlimit_one_a_user")]

    def __str__(self) -> str:
        return f"{self.tool} for {self.user}: {self.seats}"


class Effect(models.TextChoices):
    INCLUDE = "include", "Include: only included subjects may use the tool"
    EXCLUDE = "exclude", "Exclude: these may not use the tool, even if included"


class SubjectKind(models.TextChoices):
    USER = "user"
    TEAM = "team"
    HOST = "host"
    PROJECT = "project"


class AccessRule(models.Model):
    """One access rule of a tool.

    Without rules everybody may use the tool. Excluding rules apply first and win. If
    any rule includes, only the included subjects may use the tool.
    """

    tool = models.ForeignKey(Tool, on_delete=models.CASCADE, related_name="access_rules", db_index=False)
    effect = models.CharField(max_length=8, choices=Effect)
    kind = models.CharField(max_length=8, choices=SubjectKind)
    # Protect the team: deleting the only included team would let everybody in.
    team = models.ForeignKey(Team, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    name = models.CharField(
        max_length=NAME_LENGTH,
        blank=True,
        validators=[validate_name],
        help_text="The name of the user, host or project.",
    )

    class Meta:
        ordering = ["effect", "kind", "team__name", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["tool", "effect", "team"],
                condition=Q(kind="team"),
                name="accessrule_team_once",
                violation_error_message="This rule exists already.",
            ),
            models.UniqueConstraint(
                fields=["tool", "effect", "kind", "name"],
                condition=~Q(kind="team"),
                name="accessrule_name_once",
                violation_error_message="This rule exists already.",
            ),
            models.CheckConstraint(
                condition=Q(kind="team", team__isnull=False, name="")
                | (~Q(kind="team") & Q(team__isnull=True) & ~Q(name="")),
                name="accessrule_names_its_subject",
                violation_error_message="Choose a team, or write the name of a user, host or project.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tool}: {self.effect} {self.kind} {self.team or self.name}"

    @property
    def subject(self) -> str:
        """Return the name of the subject."""
        return self.team.name if self.team is not None else self.name
