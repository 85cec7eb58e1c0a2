"""Select the names that a caller sees on leases, tickets and denials."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q
from django.db.models.functions import Now

from licenses.models import Denial, Lease, Ticket


@dataclass(frozen=True, slots=True)
class Names:
    """The names that a caller sees: all; or those of one user ('' for none) and of rows of these teams."""

    everybody: bool = False
    user: str = ""
    teams: frozenset[str] = frozenset()

    @property
    def none(self) -> bool:
        """Return whether no names are visible."""
        return not (self.everybody or self.user or self.teams)

    def shown_on(self, row: Lease | Ticket | Denial) -> bool:
        """Return whether the name on this row is visible."""
        mine = bool(self.user) and row.user == self.user
        return self.everybody or mine or (row.team is not None and row.team.name in self.teams)

    def rows(self) -> Q:
        """Return a filter for the rows with visible names."""
        if self.everybody:
            return Q()
        # A row without a name does not belong to a caller without a name.
        mine = Q(user=self.user) if self.user else Q(pk__in=[])
        return mine | Q(team__name__in=self.teams) if self.teams else mine


EVERYBODY = Names(everybody=True)


@dataclass(frozen=True, slots=True)
class LeaseNames:
    """The visible names on active leases and on ended ones."""

    active: Names
    ended: Names

    def shown_on(self, lease: Lease, now: datetime) -> bool:
        """Return whether the name on this lease is visible at ``now``."""
        return (self.ended if lease.is_over(now) else self.active).shown_on(lease)

    def rows(self) -> Q:
        """Return a filter for the leases with visible names."""
        if self.active.everybody and self.ended.everybody:
            return Q()
        over = Q(ended_at__isnull=False) | Q(expires_at__isnull=False, expires_at__lte=Now())
        return (over & self.ended.rows()) | (~over & self.active.rows())
