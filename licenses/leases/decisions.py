"""What a request is answered: a function for each kind, on rows that are locked.

A decision changes the snapshot by the ledger, or raises a Refusal and changes nothing.
The rules are those of ``licenses.policy``; the next decision of the batch sees what this
one has done.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings

from licenses import auditing, metrics, policy
from licenses.access.buckets import Buckets
from licenses.auditing import Actor
from licenses.errors import (
    AlreadyGranted,
    KeyReused,
    LeaseEnded,
    LeaseLimitReached,
    NotAMember,
    Refusal,
    TooManyKeys,
    UnknownLease,
    UnknownTicket,
    UnknownTool,
)
from licenses.models import Action, BorrowKey, EndReason, Lease, Team, Ticket, TicketState, Tool
from licenses.policy import BORROW_REFUSALS, Item, Pool, Shortage, Subject

from . import queue
from .ledger import Ledger
from .requests import (
    Borrow,
    BorrowRequest,
    CloseDead,
    CloseOverdue,
    ForceReturn,
    Granted,
    Held,
    IdempotencyKey,
    Leave,
    Offer,
    Outcome,
    Poll,
    Renew,
    Request,
    Return,
    Waiting,
)
from .snapshot import Snapshot, Stale, alternatives_of, subject_of, subjects_of, tools_of

# Reasons that a refusal lists, and bytes that are kept of one under its key.
MAX_REASONS = 16
KEPT_BYTES = 2000


class Later(Exception):
    """More leases are overdue than one transaction closes: decide again after this batch."""


@dataclass(frozen=True, slots=True)
class Polled:
    """The answer to a poll, and the ticket if the poll has closed it."""

    outcome: Outcome
    closed: Ticket | None = None


def decide(request: Request, snapshot: Snapshot, ledger: Ledger) -> Any:
    """Return the answer to a request.

    Raises a Refusal, Stale or Later. Then nothing was changed, except that expired leases and
    tickets may be closed.
    """
    match request:
        case Borrow():
            return _borrow(request, snapshot, ledger)
        case Return(by=by):
            return _end(_leases(request, snapshot), snapshot, ledger, EndReason.RETURNED, by=by)
        case ForceReturn(note=note, by=by):
            return _end(_leases(request, snapshot), snapshot, ledger, EndReason.FORCED, note=note, by=by)
        case Poll():
            return _poll(request, snapshot, ledger)
        case Offer():
            return _offer(request, snapshot, ledger)
        case Leave():
            return _leave(request, snapshot, ledger)
        case CloseOverdue(tool=name):
            tool = snapshot.tools.get(name)
            return close_overdue(snapshot, ledger, tool) if tool is not None else 0
        case CloseDead():
            return _close_dead(_ticket(request, snapshot), snapshot, ledger)
        case Renew():
            return _renew(request, snapshot, ledger)


# --- Borrow -------------------------------------------------------------------------


def _borrow(borrow: Borrow, snapshot: Snapshot, ledger: Ledger) -> tuple[Outcome | Ticket, bool]:
    """Return the outcome, and whether it is that of an earlier call with the key."""
    request, key = borrow.request, borrow.key
    if key is None:
        return _new(borrow, snapshot, ledger), False
    kept = snapshot.keys.get((key.caller, key.key))
    if kept is not None:
        return _recall(kept, request), True
    _count_key(key)
    outcome = _new(borrow, snapshot, ledger)
    ledger.keep(_kept(key, request, outcome))
    return outcome, False


def _new(borrow: Borrow, snapshot: Snapshot, ledger: Ledger) -> Outcome:
    request, tools = borrow.request, snapshot.tools
    wanted = request.tools()
    for name in wanted & tools.keys():
        metrics.know(name)
    if missing := wanted - tools.keys():
        return UnknownTool(tool=min(missing))
    teams = snapshot.teams_of(request)
    subjects = subjects_of(request, teams)
    if not subjects:
        return NotAMember(user=request.user, team=request.team or "")
    if limited := limit_of_borrows(request.user, request.alternatives[0][0], snapshot.borrows.get(request.user)):
        _deny(request, limited, teams.get(subjects[0].team), snapshot, ledger)
        return limited
    verdicts = verdicts_of(dict(enumerate(request.alternatives)), subjects, request.ttl, snapshot, ledger)
    best = verdicts[-1]
    if not best.reasons:
        leases = _grant(
            best, snapshot, ledger, team=teams.get(best.subject.team), ttl=request.ttl, tools=wanted, by=borrow.by
        )
        return Granted(leases, snapshot.now, best.number)
    if request.wait and (waiter := next((verdict for verdict in verdicts if verdict.is_temporary), None)):
        mine = [verdict for verdict in verdicts if verdict.is_temporary and verdict.subject == waiter.subject]
        wanted_tools = [tools[item.tool] for verdict in mine for item in verdict.items]
        if full := queue.full(request.user, wanted_tools, snapshot.now):
            _deny(request, full, teams.get(waiter.subject.team), snapshot, ledger)
            return full
        waiting = queue.enqueue(
            snapshot,
            ledger,
            subject=waiter.subject,
            team=teams.get(waiter.subject.team),
            ttl=request.ttl,
            alternatives={verdict.number: verdict.items for verdict in mine},
            wait=request.wait,
            eta=expected_in(mine, tools),
            borrowed_by=borrow.by.label if borrow.by else "",
            kept=request.kept,
        )
        if borrow.by is not None:
            after = {"user": request.user, "host": request.host}
            ledger.record(borrow.by, action=Action.QUEUED, subject=waiting.ticket, after=after)
        return waiting
    refusal = verdicts[0].refusal()
    refusal.facts |= explanation(verdicts, tools)
    _deny(request, refusal, teams.get(verdicts[0].subject.team), snapshot, ledger)
    return refusal


def limit_of_borrows(user: str, first: Item, borrows: tuple[int, int] | None) -> LeaseLimitReached | None:
    """Return the refusal if the user may have no more borrows, else None.

    ``first`` is the first item of the request. ``borrows`` are the numbers of borrows that the
    user has and waits for.
    """
    limit = settings.LICENSE_LEASES_PER_USER
    if not limit or borrows is None or sum(borrows) < limit:
        return None
    borrowed, waiting = borrows
    return LeaseLimitReached(tool=first.tool, user=user, limit=limit, borrowed=borrowed, waiting=waiting)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The reasons against alternative ``number`` for a subject; without a reason the subject can have it."""

    number: int
    items: Sequence[Item]
    subject: Subject
    reasons: list[Refusal]

    @property
    def is_temporary(self) -> bool:
        """Return whether waiting may help."""
        return all(reason.is_temporary for reason in self.reasons)

    def refusal(self) -> Refusal:
        """Return the reason to answer: the first for which waiting does not help, else the first."""
        return min(self.reasons, key=lambda reason: reason.is_temporary)

    def short_tools(self) -> set[str]:
        """Return the names of the tools that are short of seats."""
        return {reason.facts["tool"] for reason in self.reasons if isinstance(reason, Shortage)}


def verdict_of(
    number: int,
    items: Sequence[Item],
    subject: Subject,
    ttl: timedelta | None,
    pools: Mapping[str, Pool],
    now: datetime,
) -> Verdict:
    """Return the verdict of the policy on one alternative for one subject."""
    reasons = [
        reason
        for item in items
        for reason in policy.refusals(pools[item.tool], seats=item.seats, subject=subject, ttl=ttl, now=now)
    ]
    return Verdict(number, items, subject, reasons)


def verdicts_of(
    alternatives: Mapping[int, Sequence[Item]],
    subjects: Sequence[Subject],
    ttl: timedelta | None,
    snapshot: Snapshot,
    ledger: Ledger,
    *,
    ahead_of: Ticket | None = None,
) -> list[Verdict]:
    """Return one verdict for each alternative and subject, up to the first without a reason.

    ``ahead_of`` is the ticket that asks, or None for a new borrow. Where seats are short,
    this closes overdue leases. Raises Later if more of them are overdue than one
    transaction closes.
    """
    names = {item.tool for items in alternatives.values() for item in items}

    def pools_now() -> dict[str, Pool]:
        return {name: snapshot.pool(name, ahead_of=ahead_of) for name in names}

    verdicts = []
    pools = pools_now()
    for number, items in alternatives.items():
        for subject in subjects:
            verdict = verdict_of(number, items, subject, ttl, pools, snapshot.now)
            if verdict.reasons and _close_overdue_of_short_tools(verdict, snapshot, ledger):
                pools = pools_now()
                verdict = verdict_of(number, items, subject, ttl, pools, snapshot.now)
            verdicts.append(verdict)
            if not verdict.reasons:
                return verdicts
    if any(verdict.short_tools() & snapshot.untidy for verdict in verdicts):
        raise Later
    return verdicts


def _close_overdue_of_short_tools(verdict: Verdict, snapshot: Snapshot, ledger: Ledger) -> bool:
    """Close overdue leases of the tools that are short of seats. Return whether any was closed."""
    return bool(sum(close_overdue(snapshot, ledger, snapshot.tools[name]) for name in verdict.short_tools()))


def _grant(
    verdict: Verdict,
    snapshot: Snapshot,
    ledger: Ledger,
    *,
    team: Team | None,
    ttl: timedelta | None,
    tools: Iterable[str],
    by: Actor | None,
) -> list[Lease]:
    wanted = [snapshot.tools[item.tool] for item in verdict.items]
    if ttl is None:
        # One heartbeat for all of a set: the shortest of their times.
        ttl = min((tool.default_ttl for tool in wanted if tool.default_ttl is not None), default=None)
    leases = ledger.grant(
        verdict.items,
        subject=verdict.subject,
        team=team,
        tools=tools,
        ttl=ttl,
        expires_at=end_of(snapshot.now, ttl, wanted),
        by=by,
    )
    if by is not None:
        after = whose(leases) | {"team": verdict.subject.team or None}
        ledger.record(by, action=Action.BORROWED, subject=leases[0], after=after)
    return leases


def whose(leases: Sequence[Lease]) -> dict[str, Any]:
    """Return the holder of these leases of one borrow, and their seats, for the audit."""
    head = leases[0]
    return {"user": head.user, "host": head.host, "seats": {lease.tool.name: lease.seats for lease in leases}}


def end_of(now: datetime, ttl: timedelta | None, tools: Iterable[Tool]) -> datetime | None:
    """Return the end of a lease without a heartbeat after ``now``: after its ttl, and at the
    latest with the license of each of its tools; None is never."""
    ends = [tool.valid_until for tool in tools if tool.valid_until is not None]
    if ttl is not None:
        ends.append(now + ttl)
    return min(ends, default=None)


def _deny(request: BorrowRequest, refusal: Refusal, team: Team | None, snapshot: Snapshot, ledger: Ledger) -> None:
    if not refusal.denial:
        return
    tool = snapshot.tools[refusal.facts["tool"]]
    seats = next(item.seats for items in request.alternatives for item in items if item.tool == tool.name)
    ledger.deny(tool, user=request.user, team=team, host=request.host, code=refusal.code, seats=seats)


def expected_in(verdicts: Iterable[Verdict], tools: Mapping[str, Tool]) -> timedelta | None:
    """Return when seats are expected (``queue.expected_in``)."""
    return queue.expected_in((verdict.reasons for verdict in verdicts), tools)


def explanation(verdicts: Sequence[Verdict], tools: Mapping[str, Tool]) -> dict[str, Any]:
    """Return all reasons against the alternatives, and when a seat is expected, as facts."""
    reasons = [
        {"alternative": verdict.number}
        | ({"team": verdict.subject.team} if verdict.subject.team else {})
        | {"code": reason.code, "detail": reason.detail}
        | reason.facts
        for verdict in verdicts
        for reason in verdict.reasons
    ]
    expected = expected_in(verdicts, tools)
    omitted = max(len(reasons) - MAX_REASONS, 0)
    return {
        "reasons": reasons[:MAX_REASONS],
        "expected_seconds": round(expected.total_seconds()) if expected is not None else None,
    } | ({"reasons_omitted": omitted} if omitted else {})


# --- Idempotency keys -----------------------------------------------------------------


# New keys of each caller, in this process.
_new_keys = Buckets()


def _count_key(key: IdempotencyKey) -> None:
    """Count a new key; raises TooManyKeys."""
    per_day = settings.LICENSE_KEYS_PER_DAY
    if not per_day:
        return
    wait = _new_keys.take(key.caller.encode(), rate=per_day / 86_400, size=per_day, now=time.monotonic())
    if wait:
        raise TooManyKeys(user=key.user, limit=per_day, wait=math.ceil(wait))


def _kept(key: IdempotencyKey, request: BorrowRequest, outcome: Outcome) -> BorrowKey:
    """Return the row that stores the answer to the first call with a key."""
    kept = BorrowKey(caller=key.caller, key=key.key, fingerprint=request.fingerprint())
    if isinstance(outcome, Granted):
        kept.lease = outcome.head
        kept.alternative = outcome.alternative
        kept.expires_at = outcome.head.expires_at
    elif isinstance(outcome, Waiting):
        kept.ticket = outcome.ticket
    else:
        kept.refusal = outcome.code
        kept.detail = outcome.detail
        kept.facts = _short(outcome.facts)
    return kept


def _short(facts: dict[str, Any]) -> str:
    """Return facts as JSON of at most ``KEPT_BYTES``, with as many reasons as fit."""
    text = json.dumps(facts)
    reasons = list(facts.get("reasons", ()))
    left_out = facts.get("reasons_omitted", 0)
    while len(text) > KEPT_BYTES and reasons:
        reasons.pop()
        left_out += 1
        text = json.dumps(facts | {"reasons": reasons, "reasons_omitted": left_out})
    return text


def _recall(kept: BorrowKey, request: BorrowRequest) -> Outcome | Ticket:
    """Return the answer to the first call with a key. Raises KeyReused.

    A lease is answered as it was then, even if it has ended: the answers to one key are the
    same. A ticket is answered as it is now.
    """
    if kept.fingerprint != request.fingerprint():
        raise KeyReused
    if kept.ticket is not None:
        return kept.ticket
    if kept.lease_id is None:
        return BORROW_REFUSALS[kept.refusal].again(kept.detail, json.loads(kept.facts))
    leases = list(Lease.objects.borrowed_as(kept.lease_id).select_related("tool", "team"))
    for lease in leases:
        lease.expires_at = kept.expires_at
        lease.ended_at = None
        lease.end_reason = lease.end_note = lease.ended_by = ""
    return Granted(leases, leases[0].borrowed_at, kept.alternative, replayed=True)


# --- The queue ------------------------------------------------------------------------


def _ticket(request: Poll | Leave | Offer | CloseDead, snapshot: Snapshot) -> Ticket:
    ticket = snapshot.tickets.get(request.ticket_id)
    holder = request.holder if isinstance(request, Poll | Leave) else None
    if ticket is None or holder not in (None, ticket.user):
        raise UnknownTicket
    if ticket.state == TicketState.WAITING:
        names = tools_of(ticket)
        if not names <= snapshot.tools.keys():
            raise Stale
        for name in names:
            # This worker may not have heard of them: a ticket outlives workers.
            metrics.know(name)
    return ticket


def _poll(poll: Poll, snapshot: Snapshot, ledger: Ledger) -> Polled:
    ticket = _ticket(poll, snapshot)
    if ticket.lease_id is not None:
        leases = snapshot.granted.get(ticket.number) or list(
            Lease.objects.borrowed_as(ticket.lease_id).select_related("tool", "team")
        )
        return Polled(Granted(leases, snapshot.now, ticket.alternative))
    if ticket.state != TicketState.WAITING:
        return Polled(queue.ended(ticket))
    if ticket.alive_until <= snapshot.now:
        queue.close_as_dead(snapshot, ledger, ticket)
        return Polled(queue.ended(ticket), ticket)
    verdicts = _verdicts_of_ticket(ticket, snapshot, ledger)
    best = verdicts[-1]
    if best.reasons:
        return Polled(queue.keep_place(snapshot, ticket, expected_in(verdicts, snapshot.tools)))
    leases = _grant(best, snapshot, ledger, team=ticket.team, ttl=ticket.ttl, tools=tools_of(ticket), by=poll.by)
    queue.close(snapshot, ledger, ticket, TicketState.GRANTED, lease=leases[0], alternative=best.number)
    snapshot.granted[ticket.number] = leases
    return Polled(Granted(leases, snapshot.now, best.number), ticket)


def _verdicts_of_ticket(ticket: Ticket, snapshot: Snapshot, ledger: Ledger) -> list[Verdict]:
    """Return what the policy says of a ticket, behind those ahead of it."""
    teams = {team.name for team in snapshot.teams.get(ticket.user, ())} | ({ticket.team.name} if ticket.team else set())
    subjects = [subject_of(ticket, teams)]
    return verdicts_of(alternatives_of(ticket), subjects, ticket.ttl, snapshot, ledger, ahead_of=ticket)


def _offer(offer: Offer, snapshot: Snapshot, ledger: Ledger) -> Ticket | None:
    """Return the kept ticket if this has offered it its seats."""
    ticket = _ticket(offer, snapshot)
    if not ticket.kept or ticket.state != TicketState.WAITING or ticket.alive_until <= snapshot.now:
        return None
    verdicts = _verdicts_of_ticket(ticket, snapshot, ledger)
    if verdicts[-1].reasons:
        if ticket.offered_at is not None:
            queue.keep_place(snapshot, ticket, expected_in(verdicts, snapshot.tools))
        return None
    if ticket.offered_at is not None:
        return None
    queue.offer(ticket, snapshot.now)
    return ticket


def _leave(leave: Leave, snapshot: Snapshot, ledger: Ledger) -> Ticket | None:
    """Return the ticket if this has closed it."""
    ticket = _ticket(leave, snapshot)
    if ticket.state == TicketState.GRANTED:
        raise AlreadyGranted(lease=str(ticket.lease_id))
    if ticket.state != TicketState.WAITING:
        return None
    queue.close(snapshot, ledger, ticket, TicketState.LEFT)
    if leave.by is not None:
        ledger.record(leave.by, action=Action.LEFT, subject=ticket, before={"user": ticket.user, "host": ticket.host})
    return ticket


def _close_dead(ticket: Ticket, snapshot: Snapshot, ledger: Ledger) -> bool:
    """Return whether the ticket's time was over, so that this has closed it."""
    if ticket.state != TicketState.WAITING or ticket.alive_until > snapshot.now:
        return False
    queue.close_as_dead(snapshot, ledger, ticket)
    return True


# --- Leases that are extended, and leases that end -----------------------------------------


def _leases(request: Return | ForceReturn | Renew, snapshot: Snapshot) -> list[Lease]:
    """Return all leases of a borrow. Raises UnknownLease, also for one of another user than the request's holder."""
    leases = snapshot.leases.get(request.lease_id)
    if not leases or (not isinstance(request, ForceReturn) and request.holder not in (None, leases[0].user)):
        raise UnknownLease
    return leases


def _renew(renew: Renew, snapshot: Snapshot, ledger: Ledger) -> Held:
    leases, now, by = _leases(renew, snapshot), snapshot.now, renew.by
    if any(lease.is_over(now) for lease in leases):
        raise ended(leases, now)
    expires_at = end_of(now, leases[0].ttl, [lease.tool for lease in leases])
    # A clock that was set back must not end a lease before it began.
    if expires_at is None or expires_at > now:
        ledger.extend(leases, expires_at)
    if by is not None and by.label != leases[0].borrowed_by:
        what = by, Action.RENEWED, leases[0]
        if not ledger.has_recorded(*what) and not auditing.is_recorded(*what):
            ledger.record(by, action=Action.RENEWED, subject=leases[0], before=whose(leases))
    return Held(leases, now)


def ended(leases: Sequence[Lease], now: datetime) -> LeaseEnded:
    """Return the refusal for an ended borrow, from its first lease that has ended."""
    lease = next((lease for lease in leases if lease.is_over(now)), leases[0])
    lease.end_when_over(now)
    return LeaseEnded(
        reason=lease.end_reason or EndReason.EXPIRED,
        note=lease.end_note,
        ended_at=lease.ended_at or now,
        ended_by=lease.ended_by,
    )


def _end(
    leases: list[Lease],
    snapshot: Snapshot,
    ledger: Ledger,
    reason: EndReason,
    *,
    note: str = "",
    by: Actor | None,
) -> list[Lease]:
    """End those leases of a borrow that are open; return all of them."""
    if any(lease.tool_id not in snapshot.by_id for lease in leases):
        raise Stale
    own = []
    for lease in leases:
        if lease.ended_at is None:
            ledger.end(lease, reason, note=note, by=by)
            if lease.end_reason in (EndReason.FORCED, EndReason.RETURNED):
                own.append(lease)
    if by is not None and own:
        action = Action.FORCE_RETURNED if reason == EndReason.FORCED else Action.RETURNED
        before, after = whose(own) | {"ended_at": None}, {"ended_at": own[0].ended_at}
        ledger.record(by, action=action, subject=leases[0], before=before, after=after, note=note)
    return leases


def close_overdue(snapshot: Snapshot, ledger: Ledger, tool: Tool) -> int:
    """Close expired leases of a locked tool, as of their end. Return their number, at most
    ``sql.OVERDUE_AT_ONCE``."""
    leases = snapshot.overdue(tool)
    for lease in leases:
        ledger.end(lease, EndReason.EXPIRED)
    return len(leases)
