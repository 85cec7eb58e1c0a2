"""Find the occasions for notifications by reading the rows. The sweeper calls ``look`` in each round.

No borrow, heartbeat or return writes anything for this. The next round finds an occasion again, and
knows it by its key. A forced return is found by the end of its lease: after the last look, less
``OVERLAP`` for transactions that committed late.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import chain, islice

from django.conf import settings
from django.db.models import Max, Q

from licenses.clock import database_now
from licenses.leases import capacity, snapshot
from licenses.leases.snapshot import alternatives_of
from licenses.models import ApiToken, Contract, EndReason, Event, Lease, Notification, Sweep, Ticket, Tool
from licenses.policy import State

from . import month_costs, outbox
from .outbox import Occasion

# A lease whose heartbeats come gets a new end at a third of its ttl. So with a quarter left, none comes.
# Shorter leases end too often to write about each.
SHORTEST_TTL = timedelta(hours=1)
# A transaction ends within seconds, or the database ends it.
OVERLAP = timedelta(minutes=2)
# Do not report a force return after this time.
NEWS = timedelta(days=1)
# The days before an end at which people hear of it; 0 is the end.
DAYS_BEFORE = (60, 30, 14, 7, 1)
DAYS_BEFORE_OF_TOKENS = (14, 7, 1)
# How long administrators hear of a license that has ended, as the alert LicenseExpired.
AFTER_THE_END = timedelta(days=7)
# A tool is exhausted when the first in the queue has waited this long.
PATIENCE = timedelta(minutes=5)
# The same tool is not reported again within this time.
PAUSE = timedelta(hours=4)
# Occasions that are compared with the recorded ones, and recorded, at once.
AT_ONCE = 500


def look() -> int:
    """Record every occasion that is not recorded yet, and return how many these are.

    Does nothing as long as nothing can be sent. Safe to run in many copies at once. A few statements, none of
    which locks a row that a borrow needs.
    """
    now = database_now()
    if not outbox.is_in_use():
        return 0
    last_look = Sweep.objects.last_look()
    found = chain(
        _seats_offered(now),
        _leases_ending(now),
        _leases_forced(now, last_look),
        _tokens_ending(now),
        _licenses_ending(now),
        _contracts_ending(now),
        _crowded_tools(now),
        month_costs.occasions(now, last_look),
    )
    recorded = 0
    while some := list(islice(found, AT_ONCE)):
        recorded += outbox.record_all(_new(some))
    # Only now: if this process dies before, the next look finds the same.
    Sweep.objects.looked_at(now)
    return recorded


def _new(found: Iterable[Occasion]) -> list[Occasion]:
    """Return the occasions that are not recorded."""
    by_key = {(str(occasion.event), occasion.key): occasion for occasion in found}
    keys = {key for _, key in by_key}
    known = Notification.objects.filter(key__in=keys).order_by().values_list("event", "key") if keys else ()
    for identity in known:
        by_key.pop(identity, None)
    return list(by_key.values())


def _seats_offered(now: datetime) -> Iterator[Occasion]:
    for ticket in Ticket.objects.live(now).filter(kept=True, offered_at__isnull=False).order_by("number"):
        items = next(iter(alternatives_of(ticket).values()))
        facts = {
            "ticket": str(ticket.id),
            "items": [{"tool": item.tool, "seats": item.seats} for item in items],
            "until": ticket.alive_until,
        }
        key = f"{ticket.id} {ticket.offered_at.isoformat() if ticket.offered_at else ''}"
        yield Occasion(Event.SEAT_OFFERED, key, ticket.alive_until, ticket.user, items[0].tool, facts)


def _leases_ending(now: datetime) -> Iterator[Occasion]:
    lead = timedelta(minutes=settings.LICENSE_NOTICE_MINUTES)
    leases = Lease.objects.active(now).heads().filter(expires_at__lte=now + lead)
    leases = leases.filter(Q(ttl__isnull=True) | Q(ttl__gte=SHORTEST_TTL)).with_items()
    for lease in leases.order_by("expires_at", "pk"):
        ends = lease.expires_at
        if ends is None or (lease.ttl is not None and ends - now > lease.ttl / 4):
            continue
        with_license = lease.tool.valid_until is not None and ends >= lease.tool.valid_until
        facts = _facts_of(lease) | {"ends_at": ends, "with_license": with_license}
        yield Occasion(Event.LEASE_ENDING, f"{lease.pk} {ends.isoformat()}", ends, lease.user, lease.tool.name, facts)


def _leases_forced(now: datetime, last_look: datetime | None) -> Iterator[Occasion]:
    since = (last_look or now) - OVERLAP
    forced = Lease.objects.heads().filter(ended_at__gt=max(since, now - NEWS), end_reason=EndReason.FORCED)
    for lease in forced.with_items().order_by("ended_at", "pk"):
        ended = lease.ended_at or now
        facts = _facts_of(lease) | {"ended_at": ended, "ended_by": lease.ended_by, "reason": lease.end_note}
        yield Occasion(Event.LEASE_FORCED, str(lease.pk), ended + NEWS, lease.user, lease.tool.name, facts)


def _facts_of(lease: Lease) -> dict[str, object]:
    return {
        "lease": str(lease.pk),
        "items": [{"tool": item.tool.name, "seats": item.seats} for item in lease.items],
        "host": lease.host,
        "project": lease.project,
        "borrowed_at": lease.borrowed_at,
    }


def _stage(ends: datetime, now: datetime, days: Iterable[int]) -> tuple[int, datetime] | None:
    """Return the number of days before an end whose turn it is, and until when; None if it is none's."""
    stages = sorted(days)
    for number, following in zip(stages, [0, *stages], strict=False):
        if now < ends <= now + timedelta(days=number):
            return number, ends - timedelta(days=following)
    return None


def _tokens_ending(now: datetime) -> Iterator[Occasion]:
    longest = timedelta(days=max(DAYS_BEFORE_OF_TOKENS))
    ending = ApiToken.objects.filter(revoked_at__isnull=True, expires_at__gt=now, expires_at__lte=now + longest)
    for token in ending.select_related("team").order_by("expires_at", "pk"):
        # A token for a week needs no warning two weeks before.
        lifetime = token.expires_at - token.created_at
        days = [days for days in DAYS_BEFORE_OF_TOKENS if lifetime > 2 * timedelta(days=days)]
        if stage := _stage(token.expires_at, now, days):
            facts = {
                "token": token.pk,
                "name": token.name,
                "hint": token.hint,
                "team": token.team.name if token.team else "",
                "user": token.user,
                "last_used_at": token.last_used_at,
                "ends_at": token.expires_at,
            }
            key = f"{token.pk} {token.expires_at.isoformat()} {stage[0]}d"
            yield Occasion(Event.TOKEN_ENDS, key, stage[1], token.user, "", facts)


def _licenses_ending(now: datetime) -> Iterator[Occasion]:
    horizon = now + timedelta(days=max(DAYS_BEFORE))
    tools = Tool.objects.filter(enabled=True, valid_until__gt=now - AFTER_THE_END, valid_until__lte=horizon)
    for tool in tools.order_by("pk"):
        ends = tool.valid_until
        if ends is None:
            continue
        stage = _stage(ends, now, DAYS_BEFORE) or (0, ends + AFTER_THE_END)
        facts = {"ends_at": ends, "seats": tool.capacity, "vendor": tool.vendor, "has_ended": ends <= now}
        key = f"{tool.name} {ends.isoformat()} {stage[0]}d"
        yield Occasion(Event.LICENSE_ENDS, key, stage[1], "", tool.name, facts)


def _contracts_ending(now: datetime) -> Iterator[Occasion]:
    horizon = now + timedelta(days=max(DAYS_BEFORE))
    ending = [
        (contract, ends)
        for contract in Contract.objects.not_ended(now).filter(last_day__lte=horizon).select_related("tool")
        if contract.tool.enabled and (ends := contract.ends_at) is not None
    ]
    schedules = capacity.schedules({contract.tool for contract, _ in ending}) if ending else {}
    for contract, ends in ending:
        schedule = schedules[contract.tool_id]
        before, left = schedule.just_before(ends), schedule.at(ends)
        # Another contract that begins then makes up for it.
        if (stage := _stage(ends, now, DAYS_BEFORE)) and left < before:
            facts = {
                "contract": contract.pk,
                "reference": contract.reference,
                "seats": contract.seats,
                "seats_before": before,
                "seats_left": left,
                "ends_at": ends,
            }
            key = f"{contract.pk} {contract.last_day} {stage[0]}d"
            yield Occasion(Event.CONTRACT_ENDS, key, stage[1], "", contract.tool.name, facts)


def _crowded_tools(now: datetime) -> Iterator[Occasion]:
    tools = snapshot.with_levels(Tool.objects.filter(enabled=True, waiting__gt=0).with_current_counts().order_by("pk"))
    if not tools:
        return
    longest = timedelta(minutes=settings.LICENSE_NOTICE_QUEUE_MINUTES)
    crowded: dict[Event, list[Tool]] = {Event.TOOL_EXHAUSTED: [], Event.QUEUE_LONG: []}
    for tool in tools:
        waited = timedelta(seconds=tool.oldest_wait_seconds(now))
        if tool.state == State.OPEN and not tool.levels.available and tool.queued and waited >= PATIENCE:
            crowded[Event.TOOL_EXHAUSTED].append(tool)
        if tool.queued >= settings.LICENSE_NOTICE_QUEUE_LENGTH or (tool.queued and waited >= longest):
            crowded[Event.QUEUE_LONG].append(tool)
    for event, of_event in crowded.items():
        earlier = Notification.objects.filter(event=event, tool__in=[tool.name for tool in of_event]).order_by()
        last = dict(earlier.values_list("tool").annotate(Max("created_at"))) if of_event else {}
        for tool in of_event:
            before = last.get(tool.name)
            if before is None or before <= now - PAUSE:
                # Every sweeper finds the same predecessor, so one of them records this one.
                key = f"{tool.name} after {before.isoformat() if before else 'none'}"
                facts = {
                    "queued": tool.queued,
                    "wanted": tool.wanted,
                    "oldest_wait_seconds": round(tool.oldest_wait_seconds(now)),
                    "borrowed": tool.borrowed_now,
                    "capacity": tool.capacity,
                    "at": now,
                }
                yield Occasion(event, key, now + PAUSE, "", tool.name, facts)
