"""Delete old rows, or the names in them.

Only for days that are rolled up, so that reports keep their figures. The audit does
not change (docs/development/architecture.md says how to change it if a law requires
that).
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from django.db import models, transaction
from django.db.models import Exists, OuterRef, Q

from licenses.models import BorrowKey, Delivery, Denial, HistoryMark, Lease, Notification, Ticket, TicketState, UsageDay
from licenses.models.denial import EPISODE_WINDOW

from . import days, rollups

# Rows per transaction, so that borrows wait only briefly.
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The numbers of rows that were deleted or lost a name."""

    leases: int
    tickets: int
    denials: int
    days: int
    notifications: int


def _limit(before: date) -> date:
    """Return the first day that stays unchanged."""
    rollups.roll_up()
    return min(before, rollups.mark().rolled_up_until)


def delete(*, before: date) -> Forgotten:
    """Delete leases, tickets and denials that ended before a UTC day, and notifications of no use since then.

    Rollups stay, and rows that an idempotency key needs.
    """
    before = _limit(before)
    with transaction.atomic():
        mark, _ = HistoryMark.objects.get_or_create(pk=1, defaults={"rolled_up_until": before})
        mark = HistoryMark.objects.select_for_update(no_key=True).get(pk=1)
        # Set this first, so that a rebuild does not begin with half-deleted days.
        mark.kept_since = max(before, mark.kept_since or before)
        mark.save(update_fields=["kept_since"])
    moment = days.midnight(before)
    denials = _delete(Denial, _old_denials(moment))
    keys = BorrowKey.objects.filter(ticket=OuterRef("pk"))
    tickets = _delete(Ticket, _old_tickets(moment), ~Exists(keys))
    wanted = [
        ~Exists(BorrowKey.objects.filter(lease=OuterRef("pk"))),
        ~Exists(Ticket.objects.filter(lease=OuterRef("pk"))),
        ~Exists(Denial.objects.filter(resolved_by=OuterRef("pk"))),
    ]
    # Delete the parts of a borrow before the head, on which they depend.
    kept_heads = Lease.objects.filter(pk=OuterRef("part_of")).exclude(*wanted)
    leases = _delete(Lease, Q(ended_at__lt=moment, part_of__isnull=False), ~Exists(kept_heads))
    parts = Lease.objects.filter(part_of=OuterRef("pk"))
    leases += _delete(Lease, Q(ended_at__lt=moment, part_of__isnull=True), ~Exists(parts), *wanted)
    return Forgotten(leases, tickets, denials, 0, _delete_notifications(moment))


def _delete_notifications(moment: datetime) -> int:
    """Delete notifications and their deliveries. One that is of use stays: it is the mark that an occasion is
    recorded."""
    _delete(Delivery, Q(notification__useful_until__lt=moment))
    return _delete(Notification, Q(useful_until__lt=moment))


def _old_denials(moment: datetime) -> Q:
    return Q(last_at__lt=moment - EPISODE_WINDOW) | Q(resolved_at__lt=moment)


def _old_tickets(moment: datetime) -> Q:
    return ~Q(state=TicketState.WAITING) & Q(closed_at__lt=moment)


def _delete(model: type[models.Model], *which: Any) -> int:
    deleted = 0
    while keys := list(model._base_manager.filter(*which).order_by().values_list("pk", flat=True)[:BATCH]):
        # Do not collect dependent rows: the conditions exclude them, and foreign keys protect them.
        rows = model._base_manager.filter(pk__in=keys)
        deleted += rows._raw_delete(rows.db)
    return deleted


def anonymize(*, before: date) -> Forgotten:
    """Remove names of users and hosts, and notes, from rows that ended before a UTC day.

    From leases, tickets, denials and the usage by day. Sums by tool, team and project
    stay. Notifications are deleted, which have names in their texts.
    """
    before = _limit(before)
    moment = days.midnight(before)
    nobody = {"user": "", "host": ""}
    tickets = nobody | {"borrowed_by": ""}
    leases = tickets | {"ended_by": "", "end_note": ""}
    return Forgotten(
        leases=_blank(Lease, Q(ended_at__lt=moment), leases),
        tickets=_blank(Ticket, _old_tickets(moment), tickets),
        denials=_blank(Denial, _old_denials(moment), nobody),
        days=sum(_anonymize_day(day) for day in _days_with_names(before)),
        notifications=_delete_notifications(moment),
    )


def _blank(model: type[models.Model], which: Q, values: dict[str, str]) -> int:
    """Set these values in rows with others. Return the number of changed rows."""
    changed = 0
    filled = Q()
    for name, value in values.items():
        filled |= ~Q(**{name: value})
    rows = model._base_manager.filter(which & filled).order_by("pk")
    # Continue after the last key, so that no batch reads earlier rows again.
    keys = list(rows.values_list("pk", flat=True)[:BATCH])
    while keys:
        changed += model._base_manager.filter(pk__in=keys).update(**values)
        keys = list(rows.filter(pk__gt=keys[-1]).values_list("pk", flat=True)[:BATCH])
    return changed


def _days_with_names(before: date) -> Iterable[date]:
    named = UsageDay.objects.filter(day__lt=before).exclude(user="")
    return list(named.order_by("day").values_list("day", flat=True).distinct())


@transaction.atomic
def _anonymize_day(day: date) -> int:
    """Merge rows that differ only by the user."""
    # Lock the mark, because a rebuild may write the same day.
    list(HistoryMark.objects.select_for_update(no_key=True))
    merged: defaultdict[tuple[int, int | None, str], list[UsageDay]] = defaultdict(list)
    for row in UsageDay.objects.filter(day=day):
        merged[row.tool_id, row.team_id, row.project].append(row)
    UsageDay.objects.filter(day=day).delete()
    for first, *others in merged.values():
        first.pk, first.user = None, ""
        for other in others:
            first.borrows += other.borrows
            first.seat_time += other.seat_time
            first.overdraft_time += other.overdraft_time
    UsageDay.objects.bulk_create([first for first, *_ in merged.values()], batch_size=BATCH)
    return 1
