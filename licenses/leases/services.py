"""The services that change seats: borrow, wait, renew, return, force return.

Each is a request to the batch (``batch.submit``), and counts what happened after it is
committed. ``explain`` and ``available_to`` ask the same rules and change nothing.
"""

import itertools
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import DatabaseError, transaction

from licenses import metrics, policy
from licenses.auditing import Actor
from licenses.clock import database_now
from licenses.errors import KeyReused, NotAMember, QueueTimeout, Refusal, TooManyKeys, UnknownTool
from licenses.models import EndReason, Lease, Team, Ticket, Tool
from licenses.policy import Item
from licenseserver.hub import aside

from . import expiry, queue, sql
from .batch import submit
from .decisions import decide, explanation, limit_of_borrows, verdict_of
from .ledger import Ledger
from .requests import (
    Borrow,
    BorrowRequest,
    ForceReturn,
    Granted,
    Held,
    IdempotencyKey,
    Leave,
    Outcome,
    Poll,
    Renew,
    Return,
    Waiting,
)
from .snapshot import alternatives_of, borrows_of, read_locked, read_unlocked, subjects_of

# After this many new keys of all callers, some old ones are deleted.
NEW_KEYS_A_TIDYING = 50
_new_keys = itertools.count(1)


def borrow(request: BorrowRequest, *, key: IdempotencyKey | None = None, by: Actor | None = None) -> Granted | Waiting:
    """Take seats for a user: the first of the alternatives that fits.

    What it returns is committed: the leases, or, if none fits and the user would wait, a
    ticket. With ``key``, a call that was decided before gets the same outcome again and
    changes nothing. ``by`` is the actor who acts for the user, if not the user: kept on
    the lease or ticket, and in the audit.

    Raises a Refusal: UnknownTool, NotAMember, one of the policy's (that of the preferred
    alternative), KeyReused, TooManyKeys, or Busy when the database could not decide in
    time. Every decision is counted: a grant for each tool of the set, a refusal for the
    tool that stood in the way.
    """
    start = time.perf_counter()
    try:
        outcome, replayed = submit(Borrow(request, key, by))
    except (KeyReused, TooManyKeys):
        raise
    except BaseException as error:
        reason = error.code if isinstance(error, Refusal) else "error"
        metrics.borrow_failed(min(request.tools()), reason, time.perf_counter() - start)
        raise
    if replayed:
        metrics.borrow_replayed(min(request.tools()))
    else:
        if key is not None:
            _forget_keys_at_times()
        _count(outcome, time.perf_counter() - start, default=min(request.tools()))
    if isinstance(outcome, Refusal):
        raise outcome
    if isinstance(outcome, Ticket):
        return poll(ticket_id=outcome.id, by=by)
    return outcome  # type: ignore[no-any-return]


def _count(outcome: Outcome | Ticket, seconds: float, *, default: str = "") -> None:
    if isinstance(outcome, Granted):
        for lease in outcome.leases:
            metrics.borrow_granted(lease.tool.name, seconds)
    elif isinstance(outcome, Refusal):
        metrics.borrow_failed(outcome.tool or default, outcome.code, seconds)


def _forget_keys_at_times() -> None:
    """Delete some old keys from time to time, more than are added, in case no sweeper runs."""
    if next(_new_keys) % NEW_KEYS_A_TIDYING == 0:
        # The borrow is decided; the next tidying comes soon.
        with suppress(Refusal, DatabaseError):
            aside(expiry.forget_keys)


def poll(*, ticket_id: uuid.UUID, by: Actor | None = None, holder: str | None = None) -> Granted | Waiting:
    """Ask for the seats that a ticket waits for; keeps its place.

    Polled again after the seats were granted, it returns the lease again. ``by`` is as in
    ``borrow``; with ``holder``, only tickets of this user are known. Raises UnknownTicket,
    QueueTimeout, QueueDropped, QueueLeft or Busy.
    """
    start = time.perf_counter()
    polled = submit(Poll(ticket_id, by, holder))
    outcome: Outcome = polled.outcome
    if polled.closed is not None:
        tool = outcome.head.tool.name if isinstance(outcome, Granted) else queue.first_item(polled.closed).tool
        metrics.wait_ended(tool, polled.closed)
        # Now the borrow is decided. One that was given up never was.
        if isinstance(outcome, Granted | QueueTimeout):
            _count(outcome, time.perf_counter() - start)
    if isinstance(outcome, Refusal):
        raise outcome
    return outcome


def leave(*, ticket_id: uuid.UUID, by: Actor | None = None, holder: str | None = None) -> None:
    """Give up waiting; harmless if the wait is over already.

    ``by`` and ``holder`` are as in ``poll``. Raises UnknownTicket, Busy, or AlreadyGranted if
    there is a lease now.
    """
    closed = submit(Leave(ticket_id, by, holder))
    if closed is not None:
        metrics.wait_ended(queue.first_item(closed).tool, closed)


def renew(*, lease_id: uuid.UUID, by: Actor | None = None, holder: str | None = None) -> Held:
    """Extend a live lease by its ttl, counted from now; the heartbeat.

    Locks no tool. A lease whose time is over is never revived, closed or not: that raises
    LeaseEnded with the reason. ``by`` is the actor who acts for the holder, if not the
    holder; recorded once for each lease, since heartbeats are many. With ``holder``, only
    leases of this user are known. Raises UnknownLease or Busy too.
    """
    held: Held = submit(Renew(lease_id, by, holder))
    return held


def give_back(*, lease_id: uuid.UUID, by: Actor | None = None, holder: str | None = None) -> list[Lease]:
    """Return the seats of a borrow, all of them; harmless if they are back.

    The seats are freed once, however often and from however many places this is called.
    ``by`` is the actor who acts for the holder, if not the holder; kept on the lease and
    in the audit. ``holder`` is as in ``renew``. Raises UnknownLease or Busy.
    """
    leases: list[Lease] = submit(Return(lease_id, by, holder))
    return leases


def force_return(*, lease_id: uuid.UUID, note: str, by: Actor) -> list[Lease]:
    """Take the seats of a borrow back from their holder; ``note`` says why.

    The audit records that ``by`` did it. A lease that has ended keeps the reason it ended
    with, and nothing is recorded. Raises UnknownLease or Busy.
    """
    leases: list[Lease] = submit(ForceReturn(lease_id, note, by))
    return leases


@transaction.atomic
def end_all_of(*, user: str, by: Actor, force_note: str = "") -> tuple[list[uuid.UUID], list[uuid.UUID]]:
    """Close the open tickets of a user and, with a ``force_note``, the reason, force their
    open leases back; return the ids of both. Part of the caller's transaction."""
    tickets = [ticket.id for ticket in Ticket.objects.waiting().filter(user=user)]
    heads = list(Lease.objects.open().heads().held_by(user)) if force_note else []
    if not (tickets or heads):
        return [], []
    leaving = [Leave(ticket_id) for ticket_id in tickets]
    forced = [ForceReturn(head.pk, force_note, by) for head in heads]
    snapshot = read_locked([*leaving, *forced])
    ledger = Ledger(snapshot)
    left, ended = [], []
    for request in leaving:
        # A wait may be over since.
        with suppress(Refusal):
            if (ticket := decide(request, snapshot, ledger)) is not None:
                left.append(ticket.id)
                transaction.on_commit(partial(_count_left, ticket))
    for force in forced:
        leases = decide(force, snapshot, ledger)
        if any(lease.end_reason == EndReason.FORCED for lease in leases):
            ended.append(force.lease_id)
    ledger.write()
    return left, ended


def _count_left(ticket: Ticket) -> None:
    for items in alternatives_of(ticket).values():
        for item in items:
            # This worker may not have heard of them: a ticket outlives workers.
            metrics.know(item.tool)
    metrics.wait_ended(queue.first_item(ticket).tool, ticket)


# --- Questions ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a borrow would be answered now. ``alternative`` and ``team`` are what would be
    granted; ``reasons`` are all that stands in the way of each other alternative."""

    granted: bool
    alternative: int | None
    team: str | None
    reasons: list[dict[str, Any]]
    expected_seconds: int | None
    reasons_omitted: int = 0


def explain(request: BorrowRequest) -> Explanation:
    """Return whether a borrow would be granted, and why not.

    Changes nothing and locks nothing, so the answer can differ a moment later. Raises
    UnknownTool or NotAMember.
    """
    teams = _teams_of(request.user, request.asserted_teams)
    tools = {tool.name: tool for tool in Tool.objects.with_current_counts().filter(name__in=request.tools())}
    if missing := request.tools() - tools.keys():
        raise UnknownTool(tool=min(missing))
    subjects = subjects_of(request, teams)
    if not subjects:
        raise NotAMember(user=request.user, team=request.team or "")
    now = database_now()
    if limited := limit_of_borrows(request.user, request.alternatives[0][0], borrows_of(request.user, now)):
        reason = {"alternative": 0, "code": limited.code, "detail": limited.detail} | limited.facts
        return Explanation(granted=False, alternative=None, team=None, reasons=[reason], expected_seconds=None)
    pools = read_unlocked(tools.values(), subjects, now)
    verdicts = [
        verdict_of(number, items, subject, request.ttl, pools, now)
        for number, items in enumerate(request.alternatives)
        for subject in subjects
    ]
    best = next((verdict for verdict in verdicts if not verdict.reasons), None)
    facts = explanation(verdicts[: verdicts.index(best)] if best else verdicts, tools)
    return Explanation(
        granted=best is not None,
        alternative=best.number if best else None,
        team=(best.subject.team or None) if best else None,
        reasons=facts["reasons"],
        expected_seconds=0 if best else facts["expected_seconds"],
        reasons_omitted=facts.get("reasons_omitted", 0),
    )


def available_to(*, tool: Tool, user: str, team: str | None) -> int:
    """Return the most seats of a tool from ``Tool.objects.with_current_counts`` that one borrow of this subject
    would be granted now; ``user`` '' is a user without a team or a limit. Raises NotAMember."""
    teams: Iterable[str] = _teams_of(user) if user else ()
    if team is not None and not user:
        teams = [found.name for found in Team.objects.filter(name=team)]
    subjects = subjects_of(BorrowRequest(user=user, alternatives=(), team=team), list(teams))
    if not subjects:
        raise NotAMember(user=user or "Somebody", team=team or "")
    now = database_now()
    if user and limit_of_borrows(user, Item(tool.name), borrows_of(user, now)):
        return 0
    pool = read_unlocked([tool], subjects, now)[tool.name]
    return max(policy.available(pool, subject, now) for subject in subjects)


def _teams_of(user: str, asserted: frozenset[str] = frozenset()) -> list[str]:
    """Return the names of the teams that a user is in, by the table and by the credential."""
    teams = {team.name for team in sql.teams_of(user)}
    if more := asserted - teams:
        teams |= set(Team.objects.filter(name__in=more).values_list("name", flat=True))
    return sorted(teams)
