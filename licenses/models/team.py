"""Teams and their members."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Lower

from licenses.names import NAME_LENGTH, TOOL_NAME_PATTERN, is_name

# Names of teams are in addresses and metrics, as those of tools.
TEAM_NAME_PATTERN = TOOL_NAME_PATTERN


def validate_name(name: str) -> None:
    """Raise ValidationError for an invalid name of a user, host or project. The field limits the length."""
    if not is_name(name):
        raise ValidationError("No control or invisible characters, no blanks at the ends.")


class TeamQuerySet(models.QuerySet["Team"]):
    def of_user(self, user: str) -> "TeamQuerySet":
        """Return the teams of a user."""
        return self.filter(pk__in=TeamMember.objects.of_users([user]).order_by().values("team"))

    def lock(self) -> None:
        """Lock these teams in the order that every caller uses. Memberships change under this lock, so that
        the audit is exact."""
        list(self.select_for_update(no_key=True).order_by("pk"))


class Team(models.Model):
    """Users who share seats and their cost."""

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[
            RegexValidator(rf"^{TEAM_NAME_PATTERN}\Z", "1 to 64 of a-z 0-9 _ . -, beginning with a letter, digit or _.")
        ],
        help_text="The name in the API and in metrics, in lower case.",
    )
    display_name = models.CharField(max_length=128, blank=True)
    ignores_case = models.BooleanField(
        default=False, db_default=False, help_text="Ignore the case of the names of members."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TeamQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        """Return its name for people."""
        return self.display_name or self.name


class MemberSource(models.TextChoices):
    """The source of a membership. Only the source removes it."""

    OIDC = "oidc", "Provider's groups"
    CSV = "csv", "CSV file"
    MANUAL = "manual", "By hand"


@dataclass(frozen=True, slots=True)
class MembershipChanges:
    """The created teams, and the added and removed memberships."""

    teams: list[Team]
    joined: list["TeamMember"]
    left: list["TeamMember"]


class TeamMemberQuerySet(models.QuerySet["TeamMember"]):
    def led_by(self, user: str) -> "TeamMemberQuerySet":
        """Return the memberships of a user as a lead."""
        return self.of_users([user]).filter(is_lead=True)

    def of_users(self, users: Iterable[str]) -> "TeamMemberQuerySet":
        """Return the members with these names, by the case rule of each team."""
        given = set(users)
        folded = [Lower(Value(user, output_field=models.CharField())) for user in sorted(given)]
        return self.alias(folded=Lower("user")).filter(
            Q(user__in=given) | Q(folded__in=folded), Q(user__in=given) | Q(team__ignores_case=True)
        )

    def follow_provider(self, *, user: str, teams: Iterable[str]) -> MembershipChanges:
        """Replace the user's memberships from the provider. Create missing teams.

        Memberships from the admin or a file stay. Part of the caller's transaction.
        """
        wanted = set(teams)
        known = Team.objects.filter(name__in=wanted).values_list("name", flat=True)
        made = [Team.objects.get_or_create(name=name) for name in sorted(wanted.difference(known))]
        mine = self.filter(user=user, source=MemberSource.OIDC)
        Team.objects.filter(Q(name__in=wanted) | Q(pk__in=mine.values("team"))).lock()
        left = list(mine.exclude(team__name__in=wanted).select_related("team"))
        joined = [
            TeamMember(team=team, user=user, source=MemberSource.OIDC)
            for team in Team.objects.filter(name__in=wanted).exclude(members__user=user)
        ]
        return self._change([team for team, new in made if new], joined, left)

    def follow_file(self, members: Iterable[tuple[str, str]]) -> MembershipChanges:
        """Replace the memberships from a file with these pairs of team and user. Create missing teams.

        Memberships from the admin or the provider stay. Raises ValidationError for an
        invalid name. Part of the caller's transaction.
        """
        wanted = set(members)
        made = []
        for name in sorted({team for team, _ in wanted}.difference(Team.objects.values_list("name", flat=True))):
            team = Team(name=name)
            team.full_clean()
            team.save()
            made.append(team)
        Team.objects.all().lock()
        teams = {team.name: team for team in Team.objects.all()}
        known = {(row.team.name, row.user): row for row in self.select_related("team")}
        joined = [
            TeamMember(team=teams[team], user=user, source=MemberSource.CSV)
            for team, user in sorted(wanted - known.keys())
        ]
        for member in joined:
            member.clean_fields()
        left = [row for who, row in known.items() if row.source == MemberSource.CSV and who not in wanted]
        return self._change(made, joined, left)

    def _change(self, teams: list[Team], joined: list["TeamMember"], left: list["TeamMember"]) -> MembershipChanges:
        self.filter(pk__in=[member.pk for member in left]).delete()
        return MembershipChanges(teams, self.bulk_create(joined), left)


class TeamMember(models.Model):
    """One user in one team. As for leases, the user is a name and needs no account."""

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="members", db_index=False)
    user = models.CharField(max_length=NAME_LENGTH, validators=[validate_name])
    source = models.CharField(max_length=16, choices=MemberSource, default=MemberSource.MANUAL)
    is_lead = models.BooleanField(
        "team lead", default=False, db_default=False, help_text="Sees the use and the cost of the team."
    )

    objects = TeamMemberQuerySet.as_manager()

    class Meta:
        ordering = ["team__name", "user"]
        constraints = [models.UniqueConstraint(fields=["team", "user"], name="teammember_once_a_team")]
        # For the teams of a user.
        indexes = [
            models.Index(fields=["user"], name="teammember_by_user"),
            models.Index(Lower("user"), name="teammember_by_user_any_case"),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.team}"
