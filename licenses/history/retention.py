"""Forgetting: old rows deleted, or the names in them.

Only of days that are rolled up, so reports keep their figures. The audit is
left alone (docs/development/architecture.md says how to change it, if the law wants that).
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from django.db import models, transaction
from django.db.models import Exists, OuterRef, Q

from licenses.models import BorrowKey, Denial, HistoryMark, Lease, Ticket, TicketState, UsageDay
from licenses.models.denial import EPISODE_WINDOW

from . import days, rollups

# Rows of one transaction: no borrower waits for longer than that takes.
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many rows were deleted, or had a name taken out."""

    leases: int
    tickets: int
    denials: int
    days: int


def _limit(before: date) -> date:
    """The first day of those that aren't to be touched."""
    rollups.roll_up()
    return min(before, rollups.mark().rolled_up_until)


def delete(*, before: date) -> Forgotten:
    """Delete the leases that ended before a UTC day, the tickets that were
    closed and the denials that were over by then. The rollups stay. What an
    idempotency key still answers for stays too."""
    before = _limit(before)
    with transaction.atomic():
        mark, _ = HistoryMark.objects.get_or_create(pk=1, defaults={"rolled_up_until": before})
        mark = HistoryMark.objects.select_for_update(no_key=True).get(pk=1)
        # First of all: a rebuild must not begin with days that are half there.
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
    # The parts of a borrow before their head, on which they depend.
    kept_heads = Lease.objects.filter(pk=OuterRef("part_of")).exclude(*wanted)
    leases = _delete(Lease, Q(ended_at__lt=moment, part_of__isnull=False), ~Exists(kept_heads))
    parts = Lease.objects.filter(part_of=OuterRef("pk"))
    leases += _delete(Lease, Q(ended_at__lt=moment, part_of__isnull=True), ~Exists(parts), *wanted)
    return Forgotten(leases, tickets, denials, 0)


def _old_denials(moment: datetime) -> Q:
    return Q(last_at__lt=moment - EPISODE_WINDOW) | Q(resolved_at__lt=moment)


def _old_tickets(moment: datetime) -> Q:
    return ~Q(state=TicketState.WAITING) & Q(closed_at__lt=moment)


def _delete(model: type[models.Model], *which: Any) -> int:
    deleted = 0
    while keys := list(model._base_manager.filter(*which).order_by().values_list("pk", flat=True)[:BATCH]):
        # Without looking for what refers to them: the conditions see to that,
        # and the database's foreign keys.
        rows = model._base_manager.filter(pk__in=keys)
        deleted += rows._raw_delete(rows.db)
    return deleted


def anonymise(*, before: date) -> Forgotten:
    """Take the names of users and hosts, and what people wrote, out of leases
    that ended before a UTC day, of tickets and denials that were over, and of
    the usage of those days. Sums by tool, team and project stay."""
    before = _limit(before)
    moment = days.midnight(before)
    nobody = {"user": "", "host": ""}
    tickets = nobody | {"borrowed_by": ""}
    leases = tickets | {"ended_by": "", "end_note": ""}
    return Forgotten(
        leases=_blank(Lease, Q(ended_at__lt=moment), leases),
        tickets=_blank(Ticket, _old_tickets(moment), tickets),
        denials=_blank(Denial, _old_denials(moment), nobody),
        days=sum(_anonymise_day(day) for day in _days_with_names(before)),
    )


def _blank(model: type[models.Model], which: Q, values: dict[str, str]) -> int:
    """Take these values in those of the rows that have others; return in how many."""
    changed = 0
    filled = Q()
    for name, value in values.items():
        filled |= ~Q(**{name: value})
    rows = model._base_manager.filter(which & filled).order_by("pk")
    # Onwards by the key, or each batch would look again at those before it.
    keys = list(rows.values_list("pk", flat=True)[:BATCH])
    while keys:
        changed += model._base_manager.filter(pk__in=keys).update(**values)
        keys = list(rows.filter(pk__gt=keys[-1]).values_list("pk", flat=True)[:BATCH])
    return changed


def _days_with_names(before: date) -> Iterable[date]:
    named = UsageDay.objects.filter(day__lt=before).exclude(user="")
    return list(named.order_by("day").values_list("day", flat=True).distinct())


@transaction.atomic
def _anonymise_day(day: date) -> int:
    """Make one row of those that differ by the user alone."""
    # Under the mark's lock: a rebuild may be about to write the same day.
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
