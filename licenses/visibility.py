"""Whose names somebody sees in the lists of leases, of the queue and of denials."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q
from django.db.models.functions import Now

from .models import Denial, Lease, Ticket


@dataclass(frozen=True, slots=True)
class Names:
    """The people whose names somebody sees: everybody's; or those of one user,
    '' for none, and on the rows that count for these teams."""

    everybody: bool = False
    user: str = ""
    teams: frozenset[str] = frozenset()

    @property
    def none(self) -> bool:
        """Whether these are no names at all."""
        return not (self.everybody or self.user or self.teams)

    def shown_on(self, row: Lease | Ticket | Denial) -> bool:
        """Whether the name on this row is one of them."""
        mine = bool(self.user) and row.user == self.user
        return self.everybody or mine or (row.team is not None and row.team.name in self.teams)

    def rows(self) -> Q:
        """The rows that have one of these names."""
        if self.everybody:
            return Q()
        # A row whose name was taken out is not that of a caller without a name.
        mine = Q(user=self.user) if self.user else Q(pk__in=[])
        return mine | Q(team__name__in=self.teams) if self.teams else mine


EVERYBODY = Names(everybody=True)


@dataclass(frozen=True, slots=True)
class LeaseNames:
    """The names on leases: on those that are active, and on those that have ended."""

    active: Names
    ended: Names

    def shown_on(self, lease: Lease, now: datetime) -> bool:
        """Whether the name on this lease is one of them at ``now``."""
        return (self.ended if lease.is_over(now) else self.active).shown_on(lease)

    def rows(self) -> Q:
        """The leases that have one of these names."""
        if self.active.everybody and self.ended.everybody:
            return Q()
        over = Q(ended_at__isnull=False) | Q(expires_at__isnull=False, expires_at__lte=Now())
        return (over & self.ended.rows()) | (~over & self.active.rows())
