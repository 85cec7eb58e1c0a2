"""The services that change seats: borrow, wait, renew, give back, force return, expire.

The only code that locks a tool and changes ``Tool.in_use``. Each service is
one short transaction: lock the tools' rows, decide, write, commit. Nothing
slow happens under a lock, and events are counted only after the commit.
"""

import hashlib
import itertools
import json
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from django.conf import settings
from django.db import DatabaseError, InterfaceError, NotSupportedError, OperationalError, transaction
from django.db.models import F
from django.db.models.functions import Now

from . import auditing, database, metrics, policy, pools, queueing, statements
from .auditing import Actor
from .buckets import Buckets
from .clock import database_now
from .errors import (
    BORROW_REFUSALS,
    AlreadyGranted,
    KeyReused,
    LeaseEnded,
    LeaseLimitReached,
    NotAMember,
    QueueTimeout,
    Refusal,
    Shortage,
    TooManyKeys,
    UnknownLease,
    UnknownTicket,
    UnknownTool,
)
from .models import Action, Allotment, BorrowKey, Denial, EndReason, Lease, Sweep, Team, Ticket, TicketState, Tool
from .models.denial import EPISODE_WINDOW
from .policy import Item, Pool, Share, Subject
from .queueing import Waiting

P = ParamSpec("P")
R = TypeVar("R")

# PostgreSQL's codes for "roll back and try again": serialization failure, deadlock, and a
# prepared statement whose columns a migration changed since (statements.STALE_PLAN).
# https://www.postgresql.org/docs/current/errcodes-appendix.html
TRY_AGAIN = {"40001", "40P01", statements.STALE_PLAN}
TRIES = 3
# More leases of a tool than were ever given out between a backup and its restore.
# Nine million restores later a fence would be more than a JSON number holds.
FENCES_AT_MOST = 10**9
# Reasons that a refusal lists, and bytes that are kept of one under its key.
MAX_REASONS = 16
KEPT_BYTES = 2000
# After so many new keys of all callers, so many old ones are deleted.
NEW_KEYS_A_TIDYING = 50
KEYS_AT_ONCE = 200
# How exactly Tool.denied_at is kept: a retry loop needn't write it each time.
DENIED_AT_STEP = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Asked:
    """A borrow as it was asked for.

    ``alternatives`` are sets of items, the preferred one first; one set is
    granted as a whole or not at all. Within a set each tool stands once.
    ``team`` None leaves it to the server which of the user's teams it counts for.
    ``ttl`` None leaves the time to the tools; ``wait`` is how long it may stand
    in the queue.
    """

    user: str
    alternatives: tuple[tuple[Item, ...], ...]
    team: str | None = None
    project: str = ""
    host: str = ""
    ttl: timedelta | None = None
    wait: timedelta = timedelta(0)

    def tools(self) -> set[str]:
        return {item.tool for items in self.alternatives for item in items}

    def fingerprint(self) -> str:
        """The same for the same request, however it was written."""
        return hashlib.sha256(json.dumps(asdict(self), default=str, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Retry:
    """The key by which a caller makes its retries known. A user has the same keys
    by each of their credentials; who acts for them has keys apart from theirs."""

    user: str
    key: str
    by: Actor | None = None

    @property
    def caller(self) -> str:
        """Whose key it is, as rows keep it; no user's name ends with a line feed."""
        if self.by is None:
            return self.user
        return hashlib.sha256(f"{self.by.label}\n{self.user}".encode()).hexdigest() + "\n"


@dataclass(frozen=True, slots=True)
class Held:
    """A borrow as it is at ``now``: one lease a tool, the head first."""

    leases: list[Lease]
    now: datetime

    @property
    def head(self) -> Lease:
        return self.leases[0]


@dataclass(frozen=True, slots=True)
class Granted(Held):
    """A borrow that was granted: the set that is number ``alternative`` of
    those asked for, from 0. ``replayed`` if an earlier call was granted it."""

    alternative: int
    replayed: bool = False


Outcome = Granted | Waiting | Refusal


class _Pile(Exception):
    """More leases of a tool are overdue than one transaction should close."""

    def __init__(self, tool: str) -> None:
        self.tool = tool


def _transaction(service: Callable[P, R]) -> Callable[P, R]:
    """Run a service as its own durable transaction.

    A deadlock, a serialization failure or a stale plan is tried again, at most three
    times in all; PostgreSQL has undone the whole transaction then. What the database
    can't do in time becomes Busy, and what it can't do at all the refusal that says
    why (``database.refusal``): nothing else is tried again, since a
    connection that breaks in the commit leaves it open whether it happened.

    Where many leases are overdue, some are closed in a transaction of their own
    first, until there are seats or none is overdue.
    """

    @wraps(service)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        tries = 0
        while True:
            tries += 1
            try:
                with transaction.atomic(durable=True):
                    return service(*args, **kwargs)
            except _Pile as pile:
                # Nothing was changed. Closed apart, so that others get their turn.
                _close_some(tool=pile.tool)
                tries -= 1
            except (OperationalError, InterfaceError, NotSupportedError) as error:
                if getattr(error.__cause__, "sqlstate", None) not in TRY_AGAIN or tries == TRIES:
                    raise database.refusal(error) from error

    return run


def _lock(names: Iterable[str]) -> tuple[dict[str, Tool], datetime]:
    """The tools that there are of these names, locked, and the time since."""
    tools, _, now = statements.lock(names)
    return {tool.name: tool for tool in tools}, now


# --- Borrowing --------------------------------------------------------------


def borrow(
    asked: Asked, *, retry: Retry | None = None, vouched: frozenset[str] = frozenset(), by: Actor | None = None
) -> Granted | Waiting:
    """Take seats for a user: the first of the alternatives that fits.

    When this returns, what it returns is committed: the leases, or, if none
    fits and the user would wait, a ticket. With ``retry``, a call that was
    decided before gets the same outcome again and changes nothing. ``vouched``
    are teams that the user is in by the caller's credential. ``by`` is who acts
    for the user, if not the user: kept on the lease or ticket, and in the audit.

    Raises a Refusal: UnknownTool, NotAMember, one of the policy's (the
    preferred alternative's), KeyReused, or Busy when the database could not
    decide in time. Every decision is counted: a grant for each tool of the set,
    a refusal for the tool that stood in the way.
    """
    start = time.perf_counter()
    try:
        outcome, replayed = _borrow(asked, retry, vouched, by)
    except (KeyReused, TooManyKeys):
        raise
    except BaseException as error:
        reason = error.code if isinstance(error, Refusal) else "error"
        metrics.borrow_failed(min(asked.tools()), reason, time.perf_counter() - start)
        raise
    if replayed:
        metrics.borrow_replayed(min(asked.tools()))
    else:
        if retry is not None:
            _forget_keys_at_times()
        _count(outcome, time.perf_counter() - start, default=min(asked.tools()))
    if isinstance(outcome, Refusal):
        raise outcome
    if isinstance(outcome, Ticket):
        return poll(ticket_id=outcome.id, by=by)
    return outcome


def _count(outcome: Outcome | Ticket, seconds: float, *, default: str = "") -> None:
    if isinstance(outcome, Granted):
        for lease in outcome.leases:
            metrics.borrow_granted(lease.tool.name, seconds)
    elif isinstance(outcome, Refusal):
        metrics.borrow_failed(outcome.tool or default, outcome.code, seconds)


@_transaction
def _borrow(
    asked: Asked, retry: Retry | None, vouched: frozenset[str], by: Actor | None
) -> tuple[Outcome | Ticket, bool]:
    """The outcome, and whether it is that of an earlier call."""
    if retry is None:
        return _decide(asked, vouched, by), False
    kept, new = BorrowKey.objects.take(caller=retry.caller, key=retry.key, fingerprint=asked.fingerprint())
    if not new:
        return _recall(kept, asked), True
    _count_key(retry, asked)
    outcome = _decide(asked, vouched, by)
    _keep(kept, outcome)
    return outcome, False


def _decide(asked: Asked, vouched: frozenset[str], by: Actor | None) -> Outcome:
    if settings.LICENSE_LEASES_PER_USER:
        # Of one user's borrows of different tools no two may count at once.
        statements.lock_user(asked.user)
    found, in_table, now = statements.lock(asked.tools(), asked.user)
    tools = {tool.name: tool for tool in found}
    teams = _with_vouched(in_table, vouched)
    for name in tools:
        metrics.know(name)
    if missing := asked.tools() - tools.keys():
        return UnknownTool(tool=min(missing))
    subjects = _subjects(asked, teams)
    if not subjects:
        return NotAMember(user=asked.user, team=asked.team or "")
    if limited := _lease_limit(asked.user, asked.alternatives[0][0], now):
        _record_denial(asked, limited, tools, teams.get(subjects[0].team), now)
        return limited
    desk = _Desk(tools, subjects, now)
    verdicts = desk.verdicts(dict(enumerate(asked.alternatives)), asked.ttl)
    best = verdicts[-1]
    if not best.reasons:
        return Granted(_grant(best, teams, tools, desk.pools, asked.ttl, now, by), now, best.number)
    if asked.wait and (waiter := next((verdict for verdict in verdicts if verdict.passes), None)):
        mine = [verdict for verdict in verdicts if verdict.passes and verdict.subject == waiter.subject]
        if full := queueing.full(asked.user, [tools[item.tool] for verdict in mine for item in verdict.items], now):
            _record_denial(asked, full, tools, teams.get(waiter.subject.team), now)
            return full
        waiting = queueing.enqueue(
            subject=waiter.subject,
            team=teams.get(waiter.subject.team),
            ttl=asked.ttl,
            alternatives={verdict.number: verdict.items for verdict in mine},
            wait=asked.wait,
            eta=_expected_in(mine, tools),
            tools=tools,
            now=now,
            borrowed_by=by.label if by else "",
        )
        if by is not None:
            after = {"user": asked.user, "host": asked.host}
            auditing.record(by, action=Action.QUEUED, subject=waiting.ticket, at=now, after=after)
        return waiting
    refusal = verdicts[0].refusal()
    refusal.facts |= _explanation(verdicts, tools)
    _record_denial(asked, refusal, tools, teams.get(verdicts[0].subject.team), now)
    return refusal


def _lease_limit(user: str, first: Item, now: datetime) -> LeaseLimitReached | None:
    """Return why a user may have no more borrows at all; None where they may.
    ``first`` is what is wanted first."""
    limit = settings.LICENSE_LEASES_PER_USER
    if not limit:
        return None
    borrowed = Lease.objects.active(now).heads().held_by(user).count()
    waiting = Ticket.objects.waiting().filter(user=user, alive_until__gt=now).count()
    if borrowed + waiting < limit:
        return None
    return LeaseLimitReached(tool=first.tool, user=user, limit=limit, borrowed=borrowed, waiting=waiting)


def _with_vouched(teams: list[Team], vouched: frozenset[str]) -> dict[str, Team]:
    """The teams that a user is in, by the table and by the credential, by name
    and in the order of their names."""
    if more := vouched - {team.name for team in teams}:
        teams = sorted([*teams, *Team.objects.filter(name__in=more)], key=lambda team: team.name)
    return {team.name: team for team in teams}


def _subjects(asked: Asked, teams: dict[str, Team]) -> list[Subject]:
    """For whom this borrow may count: the team that it names, or any that its
    user is in, or none if there is none. Empty if the user isn't in the team."""
    chosen = list(teams) or [""]
    if asked.team is not None:
        chosen = [asked.team] if asked.team in teams else []
    return [
        Subject(user=asked.user, team=team, teams=frozenset(teams), host=asked.host, project=asked.project)
        for team in chosen
    ]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What stands in the way of alternative ``number`` for a subject; nothing
    if it can be had."""

    number: int
    items: Sequence[Item]
    subject: Subject
    reasons: list[Refusal]

    @property
    def passes(self) -> bool:
        """Whether waiting may help."""
        return all(reason.passes for reason in self.reasons)

    def refusal(self) -> Refusal:
        """The reason to tell: the first that waiting doesn't cure, else the first."""
        return min(self.reasons, key=lambda reason: reason.passes)


class _Desk:
    """Finds the first alternative that can be had from locked tools."""

    def __init__(
        self, tools: dict[str, Tool], subjects: Sequence[Subject], now: datetime, *, ahead_of: Ticket | None = None
    ) -> None:
        self.tools, self.subjects, self.now, self.ahead_of = tools, subjects, now, ahead_of
        self.closed: set[str] = set()
        self.pools = self._read()

    def _read(self) -> dict[str, Pool]:
        return pools.counted(self.tools.values(), self.subjects, self.now, ahead_of=self.ahead_of)

    def verdicts(self, alternatives: Mapping[int, Sequence[Item]], ttl: timedelta | None) -> list[Verdict]:
        """One verdict for each alternative and subject, up to the first that
        nothing stands in the way of."""
        verdicts = []
        for number, items in alternatives.items():
            for subject in self.subjects:
                verdict = _verdict(number, items, subject, ttl, self.pools, self.now)
                if verdict.reasons and self._freed_seats(verdict):
                    verdict = _verdict(number, items, subject, ttl, self.pools, self.now)
                verdicts.append(verdict)
                if not verdict.reasons:
                    return verdicts
        return verdicts

    def _freed_seats(self, verdict: Verdict) -> bool:
        """Close what is overdue where seats are short. Only now: as long as there
        are enough, it would change nothing, at the price of a statement."""
        short = {reason.facts["tool"] for reason in verdict.reasons if isinstance(reason, Shortage)} - self.closed
        self.closed |= short
        overdue = {name: statements.overdue(self.tools[name], self.now) for name in short}
        for name, leases in overdue.items():
            if len(leases) > statements.OVERDUE_AT_ONCE:
                raise _Pile(name)
        if not sum(_close_overdue(self.tools[name], leases, self.now) for name, leases in overdue.items()):
            return False
        self.pools = self._read()
        return True


def _verdict(
    number: int,
    items: Sequence[Item],
    subject: Subject,
    ttl: timedelta | None,
    pools: Mapping[str, Pool],
    now: datetime,
) -> Verdict:
    reasons = [
        reason
        for item in items
        for reason in policy.refusals(pools[item.tool], seats=item.seats, subject=subject, ttl=ttl, now=now)
    ]
    return Verdict(number, items, subject, reasons)


def _expected_in(verdicts: Iterable[Verdict], tools: Mapping[str, Tool]) -> timedelta | None:
    return queueing.expected_in((verdict.reasons for verdict in verdicts), tools)


def _explanation(verdicts: Sequence[Verdict], tools: Mapping[str, Tool]) -> dict[str, Any]:
    """All that stands in the way, and when a seat is expected, as facts."""
    reasons = [
        {"alternative": verdict.number}
        | ({"team": verdict.subject.team} if verdict.subject.team else {})
        | {"code": reason.code, "detail": reason.detail}
        | reason.facts
        for verdict in verdicts
        for reason in verdict.reasons
    ]
    expected = _expected_in(verdicts, tools)
    omitted = max(len(reasons) - MAX_REASONS, 0)
    return {
        "reasons": reasons[:MAX_REASONS],
        "expected_seconds": round(expected.total_seconds()) if expected is not None else None,
    } | ({"reasons_omitted": omitted} if omitted else {})


def _grant(
    verdict: Verdict,
    teams: Mapping[str, Team],
    tools: dict[str, Tool],
    pools: Mapping[str, Pool],
    ttl: timedelta | None,
    now: datetime,
    by: Actor | None,
) -> list[Lease]:
    """Write a lease an item and move the counters; all tools are locked."""
    subject = verdict.subject
    if ttl is None:
        # One heartbeat for all of a set: the shortest of their times.
        defaults = [tools[item.tool].default_ttl for item in verdict.items]
        ttl = min((default for default in defaults if default is not None), default=None)
    expires_at = _end_of(now, ttl, [tools[item.tool] for item in verdict.items])
    leases: list[Lease] = []
    for item in verdict.items:
        tool = tools[item.tool]
        tool.last_fence += 1
        tool.in_use += item.seats
        above = min(max(tool.in_use - tool.capacity, 0), item.seats)
        tool.overdraft_total += above > 0
        share = pools[tool.name].rules.shares.get(subject.team)
        if share is not None:
            tool.kept_back += _idle_after(share, item.seats)
        lease = Lease(
            tool=tool,
            part_of=leases[0] if leases else None,
            place=len(leases),
            fence=tool.last_fence,
            user=subject.user,
            team=teams.get(subject.team),
            project=subject.project,
            host=subject.host,
            seats=item.seats,
            overdraft_seats=above,
            borrowed_at=now,
            ttl=ttl,
            expires_at=expires_at,
            borrowed_by=by.label if by else "",
        )
        statements.write_lease(lease, tool=tool, rationed=share is not None)
        leases.append(lease)
    since = now - EPISODE_WINDOW - DENIED_AT_STEP
    if denied := [tool for tool in tools.values() if tool.denied_at is not None and tool.denied_at > since]:
        Denial.objects.resolve(tools=denied, user=subject.user, lease=leases[0], now=now)
    if by is not None:
        auditing.record(
            by, action=Action.BORROWED, subject=leases[0], at=now, after=_whose(leases) | {"team": subject.team or None}
        )
    return leases


def _whose(leases: Sequence[Lease]) -> dict[str, Any]:
    """Who holds these leases of one borrow, and of what, for the audit."""
    head = leases[0]
    return {"user": head.user, "host": head.host, "seats": {lease.tool.name: lease.seats for lease in leases}}


def _end_of(now: datetime, ttl: timedelta | None, tools: Iterable[Tool]) -> datetime | None:
    """When a lease ends without a heartbeat after ``now``: after its ttl, and
    with the license of each of its tools; None is never."""
    ends = [tool.valid_until for tool in tools if tool.valid_until is not None]
    if ttl is not None:
        ends.append(now + ttl)
    return min(ends, default=None)


def _record_denial(asked: Asked, refusal: Refusal, tools: dict[str, Tool], team: Team | None, now: datetime) -> None:
    if not refusal.denial:
        return
    tool = tools[refusal.facts["tool"]]
    seats = next(item.seats for items in asked.alternatives for item in items if item.tool == tool.name)
    Denial.objects.record(
        tool=tool, user=asked.user, team=team, host=asked.host, code=refusal.code, seats=seats, now=now
    )
    if tool.denied_at is None or tool.denied_at < now - DENIED_AT_STEP:
        Tool.objects.filter(pk=tool.pk).update(denied_at=now)


# --- Explaining -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a borrow would be answered now. ``alternative`` and ``team`` are what
    would be granted; ``reasons`` are all that stands in the way of each
    alternative that wouldn't."""

    granted: bool
    alternative: int | None
    team: str | None
    reasons: list[dict[str, Any]]
    expected_seconds: int | None
    reasons_omitted: int = 0


def explain(asked: Asked, *, vouched: frozenset[str] = frozenset()) -> Explanation:
    """Why a borrow would be granted or not. Changes nothing and locks nothing,
    so that the answer may be otherwise a moment later.

    Raises UnknownTool or NotAMember.
    """
    teams = _with_vouched(statements.teams_of(asked.user), vouched)
    tools = {tool.name: tool for tool in Tool.objects.with_levels().filter(name__in=asked.tools())}
    if missing := asked.tools() - tools.keys():
        raise UnknownTool(tool=min(missing))
    subjects = _subjects(asked, teams)
    if not subjects:
        raise NotAMember(user=asked.user, team=asked.team or "")
    now = database_now()
    if limited := _lease_limit(asked.user, asked.alternatives[0][0], now):
        reason = {"alternative": 0, "code": limited.code, "detail": limited.detail} | limited.facts
        return Explanation(granted=False, alternative=None, team=None, reasons=[reason], expected_seconds=None)
    seen = pools.seen(tools.values(), subjects, now)
    verdicts = [
        _verdict(number, items, subject, asked.ttl, seen, now)
        for number, items in enumerate(asked.alternatives)
        for subject in subjects
    ]
    best = next((verdict for verdict in verdicts if not verdict.reasons), None)
    explanation = _explanation(verdicts[: verdicts.index(best)] if best else verdicts, tools)
    return Explanation(
        granted=best is not None,
        alternative=best.number if best else None,
        team=(best.subject.team or None) if best else None,
        reasons=explanation["reasons"],
        expected_seconds=0 if best else explanation["expected_seconds"],
        reasons_omitted=explanation.get("reasons_omitted", 0),
    )


def available_to(*, tool: Tool, user: str, team: str | None) -> int:
    """The most seats of a tool from ``with_levels`` that one borrow of this
    subject would be granted now; ``user`` '' is somebody without a team or a
    limit. Raises NotAMember."""
    teams = _with_vouched(statements.teams_of(user), frozenset()) if user else {}
    if team is not None and not user:
        teams = {found.name: found for found in Team.objects.filter(name=team)}
    subjects = _subjects(Asked(user=user, alternatives=(), team=team), teams)
    if not subjects:
        raise NotAMember(user=user or "Somebody", team=team or "")
    now = database_now()
    if user and _lease_limit(user, Item(tool.name), now):
        return 0
    pool = pools.seen([tool], subjects, now)[tool.name]
    return max(policy.available(pool, subject, now) for subject in subjects)


# --- Retries ----------------------------------------------------------------


# New keys of each caller, in this process.
_new_keys = Buckets()
_new_keys_of_all = itertools.count(1)


def _count_key(retry: Retry, asked: Asked) -> None:
    """Count a new key; raises TooManyKeys."""
    if not settings.LICENSE_KEYS_PER_DAY:
        return
    per_day = settings.LICENSE_KEYS_PER_DAY
    wait = _new_keys.take(retry.caller.encode(), rate=per_day / 86_400, size=per_day, now=time.monotonic())
    if wait:
        raise TooManyKeys(user=asked.user, limit=per_day, wait=math.ceil(wait))


def _forget_keys_at_times() -> None:
    """Delete some old keys after every so many new ones: where no sweeper runs,
    more go than come."""
    if next(_new_keys_of_all) % NEW_KEYS_A_TIDYING == 0:
        # The borrow is decided; the next tidying comes soon.
        with suppress(Refusal, DatabaseError):
            _forget_keys()


def _short(facts: dict[str, Any]) -> str:
    """Facts as JSON of at most ``KEPT_BYTES``: with as many reasons as fit."""
    text = json.dumps(facts)
    reasons = list(facts.get("reasons", ()))
    left_out = facts.get("reasons_omitted", 0)
    while len(text) > KEPT_BYTES and reasons:
        reasons.pop()
        left_out += 1
        text = json.dumps(facts | {"reasons": reasons, "reasons_omitted": left_out})
    return text


def _keep(kept: BorrowKey, outcome: Outcome) -> None:
    """Write down what the first call with a key was answered."""
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
    kept.save(update_fields=["lease", "alternative", "expires_at", "ticket", "refusal", "detail", "facts"])


def _recall(kept: BorrowKey, asked: Asked) -> Outcome | Ticket:
    """What the first call with a key was answered; raises KeyReused.

    A lease is told as it was then, whatever has become of it: the answers to
    one key are the same. A ticket is told as it is now.
    """
    if kept.fingerprint != asked.fingerprint():
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


# --- Waiting ----------------------------------------------------------------


def poll(*, ticket_id: uuid.UUID, by: Actor | None = None) -> Granted | Waiting:
    """Ask for the seats that a ticket waits for; keeps its place.

    Asked again after the seats were granted, it tells the lease again. ``by`` is
    as in ``borrow``. Raises UnknownTicket, QueueTimeout, QueueDropped, QueueLeft
    or Busy.
    """
    start = time.perf_counter()
    outcome, closed = _poll(ticket_id=ticket_id, by=by)
    if closed is not None:
        tool = outcome.head.tool.name if isinstance(outcome, Granted) else queueing.first_item(closed).tool
        metrics.wait_ended(tool, closed)
        # Now the borrow is decided. One that was given up never was.
        if isinstance(outcome, Granted | QueueTimeout):
            _count(outcome, time.perf_counter() - start)
    if isinstance(outcome, Refusal):
        raise outcome
    return outcome


@_transaction
def _poll(*, ticket_id: uuid.UUID, by: Actor | None) -> tuple[Outcome, Ticket | None]:
    """The outcome, and the ticket if this has closed it."""
    ticket, tools, now = _lock_ticket(ticket_id)
    if ticket.lease_id is not None:
        leases = list(Lease.objects.borrowed_as(ticket.lease_id).select_related("tool", "team"))
        return Granted(leases, now, ticket.alternative), None
    if ticket.state != TicketState.WAITING:
        return queueing.ended(ticket), None
    if ticket.alive_until <= now:
        queueing.close_as_dead(ticket, now)
        return queueing.ended(ticket), ticket
    teams = {team.name: team for team in [*statements.teams_of(ticket.user), *([ticket.team] if ticket.team else [])]}
    subject = Subject(
        user=ticket.user,
        team=ticket.team.name if ticket.team else "",
        teams=frozenset(teams),
        host=ticket.host,
        project=ticket.project,
    )
    desk = _Desk(tools, [subject], now, ahead_of=ticket)
    verdicts = desk.verdicts(queueing.asked_for(ticket), ticket.ttl)
    best = verdicts[-1]
    if not best.reasons:
        leases = _grant(best, teams, tools, desk.pools, ticket.ttl, now, by)
        queueing.close(ticket, TicketState.GRANTED, now, lease=leases[0], alternative=best.number)
        return Granted(leases, now, best.number), ticket
    return queueing.keep_place(ticket, tools, now, _expected_in(verdicts, tools)), None


def leave(*, ticket_id: uuid.UUID, by: Actor | None = None) -> None:
    """Give up waiting; harmless if the wait is over already.

    ``by`` is as in ``borrow``. Raises UnknownTicket, Busy, or AlreadyGranted if
    there is a lease now.
    """
    closed = _leave(ticket_id=ticket_id, by=by)
    if closed is not None:
        metrics.wait_ended(queueing.first_item(closed).tool, closed)


@_transaction
def _leave(*, ticket_id: uuid.UUID, by: Actor | None) -> Ticket | None:
    ticket, _, now = _lock_ticket(ticket_id)
    if ticket.state == TicketState.GRANTED:
        raise AlreadyGranted(lease=str(ticket.lease_id))
    if ticket.state != TicketState.WAITING:
        return None
    queueing.close(ticket, TicketState.LEFT, now)
    if by is not None:
        auditing.record(
            by, action=Action.LEFT, subject=ticket, at=now, before={"user": ticket.user, "host": ticket.host}
        )
    return ticket


def _lock_ticket(ticket_id: uuid.UUID) -> tuple[Ticket, dict[str, Tool], datetime]:
    """A ticket, with its tools locked while it is open; raises UnknownTicket."""
    ticket = Ticket.objects.filter(id=ticket_id).first()
    if ticket is None:
        raise UnknownTicket
    if ticket.state != TicketState.WAITING:
        return ticket, {}, database_now()
    # A ticket never changes what it asks for, so that may be read before the lock.
    tools, now = _lock({item.tool for items in queueing.asked_for(ticket).values() for item in items})
    for name in tools:
        # This worker may not have heard of them: a ticket outlives workers.
        metrics.know(name)
    ticket.refresh_from_db()
    return ticket, tools, now


# --- Renewing ---------------------------------------------------------------


@_transaction
def renew(*, lease_id: uuid.UUID, by: Actor | None = None) -> Held:
    """Extend a live lease by its ttl, counted from now; the heartbeat.

    Locks no tool. A lease whose time is over is never revived, closed or not:
    that raises LeaseEnded with the reason. ``by`` is who acts for the holder, if
    not the holder; recorded once for each lease, since heartbeats are many.
    Raises UnknownLease or Busy too.
    """
    leases, now = _find(lease_id), database_now()
    if any(lease.is_over(now) for lease in leases):
        raise _ended(leases, now)
    expires_at = _end_of(now, leases[0].ttl, [lease.tool for lease in leases])
    if expires_at is None or expires_at > now:
        # Decided by the rows themselves: the time may have come since, and the
        # seats may be somebody else's already.
        live = Lease.objects.filter(pk__in=[lease.pk for lease in leases]).active(Now())
        if live.update(expires_at=expires_at) != len(leases):
            # Some rows may be extended: undone with the transaction.
            raise _ended(_find(lease_id), database_now())
        for lease in leases:
            lease.expires_at = expires_at
    if by is not None and by.label != leases[0].borrowed_by and not auditing.is_recorded(by, Action.RENEWED, leases[0]):
        auditing.record(by, action=Action.RENEWED, subject=leases[0], at=now, before=_whose(leases))
    return Held(leases, now)


def _find(lease_id: uuid.UUID) -> list[Lease]:
    """The leases of one borrow; raises UnknownLease."""
    leases = list(Lease.objects.borrowed_as(lease_id).select_related("tool", "team"))
    if not leases:
        raise UnknownLease
    return leases


def _ended(leases: Sequence[Lease], now: datetime) -> LeaseEnded:
    """Why a borrow is over: its first lease that is."""
    lease = next((lease for lease in leases if lease.is_over(now)), leases[0])
    lease.end_when_over(now)
    return LeaseEnded(
        reason=lease.end_reason or EndReason.EXPIRED,
        note=lease.end_note,
        ended_at=lease.ended_at or now,
        ended_by=lease.ended_by,
    )


# --- Ending -----------------------------------------------------------------


@_transaction
def give_back(*, lease_id: uuid.UUID, by: Actor | None = None) -> list[Lease]:
    """Return the seats of a borrow, all of them; harmless if they are back.

    The seats are freed once, however often and from however many places this
    is called. ``by`` is who acts for the holder, if not the holder; kept on the
    lease and in the audit. Raises UnknownLease or Busy.
    """
    leases, ended = _end(lease_id, EndReason.RETURNED, by=by)
    _record_end(by, Action.RETURNED, leases, ended)
    return leases


@_transaction
def force_return(*, lease_id: uuid.UUID, note: str, by: Actor) -> list[Lease]:
    """Take the seats of a borrow back from their holder; ``note`` says why.

    It is recorded in the audit that ``by`` did it. A lease that has ended keeps
    the reason it ended with, and nothing is recorded. Raises UnknownLease or Busy.
    """
    return _force(lease_id, note, by)


def end_all_of(*, user: str, by: Actor, force_note: str = "") -> tuple[list[uuid.UUID], list[uuid.UUID]]:
    """Close the open tickets of a user, and with a ``force_note``, the reason, force
    their open leases back; return the ids of both. Part of the caller's transaction."""
    waiting = list(Ticket.objects.waiting().filter(user=user))
    heads = list(Lease.objects.open().heads().held_by(user).with_items()) if force_note else []
    names = {item.tool for ticket in waiting for items in queueing.asked_for(ticket).values() for item in items}
    names |= {lease.tool.name for head in heads for lease in head.items}
    if not names:
        return [], []
    # All of their tools before any row, as everybody locks them.
    tools, now = _lock(names)
    tickets = list(Ticket.objects.waiting().filter(pk__in=[ticket.pk for ticket in waiting]))
    for ticket in tickets:
        queueing.close(ticket, TicketState.LEFT, now)
        transaction.on_commit(partial(_count_left, ticket, list(tools)))
    ended = [
        head.pk
        for head in heads
        if any(lease.end_reason == EndReason.FORCED for lease in _force(head.pk, force_note, by))
    ]
    return [ticket.id for ticket in tickets], ended


def _count_left(ticket: Ticket, tools: Iterable[str]) -> None:
    for name in tools:
        # This worker may not have heard of them: a ticket outlives workers.
        metrics.know(name)
    metrics.wait_ended(queueing.first_item(ticket).tool, ticket)


def _force(lease_id: uuid.UUID, note: str, by: Actor) -> list[Lease]:
    leases, ended = _end(lease_id, EndReason.FORCED, note, by=by)
    _record_end(by, Action.FORCE_RETURNED, leases, ended, note)
    return leases


def _record_end(
    by: Actor | None, action: Action, leases: Sequence[Lease], ended: Sequence[Lease], note: str = ""
) -> None:
    """Record in the audit which of the leases of a borrow ``by`` has ended just now."""
    own = [lease for lease in ended if lease.end_reason in (EndReason.FORCED, EndReason.RETURNED)]
    if by is None or not own:
        return
    auditing.record(
        by,
        action=action,
        subject=leases[0],
        before=_whose(own) | {"ended_at": None},
        after={"ended_at": own[0].ended_at},
        note=note,
    )


def _end(
    lease_id: uuid.UUID, reason: EndReason, note: str = "", *, by: Actor | None
) -> tuple[list[Lease], list[Lease]]:
    """The leases of a borrow, and those of them that were open until now."""
    leases, now = statements.lock_for_return(lease_id)
    if not leases:
        raise UnknownLease
    shares = _shares_of(leases[0].team_id, [lease.tool for lease in leases])
    ended = []
    for lease in leases:
        tool = lease.tool
        if lease.ended_at is not None:
            continue
        ended.append(lease)
        lease.end_when_over(now)
        if lease.ended_at is None:
            # A clock that was set back must not end a lease before it began.
            lease.ended_at, lease.end_reason, lease.end_note = max(now, lease.borrowed_at), reason, note
            lease.ended_by = by.label if by else ""
        share = shares.get(tool.pk)
        tool.in_use -= lease.seats
        tool.held_for(lease.duration(now))
        if share is not None:
            tool.kept_back += _idle_after(share, -lease.seats)
        statements.write_end(lease, tool=tool, rationed=share is not None)
    return leases, ended


def _shares_of(team_id: int | None, tools: Iterable[Tool]) -> dict[int, Share]:
    """What a team may have of each of these locked tools, where that is said."""
    ruled = [tool for tool in tools if tool.has_rules]
    if team_id is None or not ruled:
        return {}
    return {found.tool_id: found.share for found in Allotment.objects.filter(tool__in=ruled, team=team_id)}


def _idle_after(share: Share, seats: int) -> int:
    """By how much the team's idle reserved seats change when it gets so many more."""
    return replace(share, in_use=share.in_use + seats).idle - share.idle


def _close_overdue(tool: Tool, leases: Sequence[Lease], now: datetime) -> int:
    """Close these leases of a locked tool, whose time is over, as of their end."""
    if not leases:
        return 0
    seats_of_team: Counter[int] = Counter()
    for lease in leases:
        lease.tool = tool
        lease.end_when_over(now)
        tool.in_use -= lease.seats
        tool.held_for(lease.duration(now))
        if lease.team_id is not None:
            seats_of_team[lease.team_id] += lease.seats
    if tool.has_rules:
        for allotment in Allotment.objects.filter(tool=tool, team__in=seats_of_team):
            seats = seats_of_team[allotment.team_id]
            tool.kept_back += _idle_after(allotment.share, -seats)
            Allotment.objects.filter(pk=allotment.pk).update(in_use=F("in_use") - seats)
    ended = Counter(lease.end_reason for lease in leases)
    for reason in ended:
        mine = [lease.pk for lease in leases if lease.end_reason == reason]
        Lease.objects.filter(pk__in=mine).update(ended_at=F("expires_at"), end_reason=reason)
    Tool.objects.filter(pk=tool.pk).update(
        in_use=tool.in_use,
        kept_back=tool.kept_back,
        holding_time=tool.holding_time,
        **{f"{reason}_total": F(f"{reason}_total") + count for reason, count in ended.items()},
    )
    return len(leases)


@_transaction
def skip_fences() -> None:
    """Let every tool go on with fences above all that it ever gave out, after a
    restore forgot the last of them. Raises Busy."""
    Tool.objects.update(last_fence=F("last_fence") + FENCES_AT_MOST)


def follow_validity(*, tool: str) -> None:
    """Let the open leases of a tool end with its license, after its dates were
    changed: those that lasted longer end earlier, and those without a heartbeat
    last as long as it does. Part of the caller's transaction."""
    with transaction.atomic():
        tools, now = _lock([tool])
        until = tools[tool].valid_until
        live = Lease.objects.filter(tool=tools[tool]).active(now)
        end = max(until, now) if until is not None else None
        live.filter(ttl__isnull=True).update(expires_at=end)
        if end is not None:
            live.filter(expires_at__gt=end).update(expires_at=end)


@dataclass(frozen=True, slots=True)
class Tidied:
    """How many rows a tidying has closed or deleted."""

    leases: int
    tickets: int
    keys: int


def tidy() -> Tidied:
    """Close leases and tickets whose time is over, and delete old keys.

    Nobody waits for it: seats are free at their lease's end, and places in the
    queue at their ticket's, whether or not this runs. Safe to run in many
    copies at once. Raises Busy.
    """
    now = database_now()
    overdue = Lease.objects.overdue(now).order_by().values_list("tool__name", flat=True).distinct()
    leases = sum(_close_all(tool=name) for name in list(overdue))
    tickets = sum(
        _tidy_ticket(ticket_id=ticket) for ticket in list(Ticket.objects.dead(now).values_list("id", flat=True))
    )
    keys = 0
    while deleted := _forget_keys():
        keys += deleted
    Sweep.objects.finished()
    return Tidied(leases, tickets, keys)


def _close_all(*, tool: str) -> int:
    """Close all leases of a tool whose time is over, some at a time."""
    closed = some = _close_some(tool=tool)
    while some == statements.OVERDUE_AT_ONCE:
        some = _close_some(tool=tool)
        closed += some
    return closed


@_transaction
def _close_some(*, tool: str) -> int:
    # One tool a transaction and not too many leases, so that no borrow waits for
    # the whole tidying.
    tools, now = _lock([tool])
    return _close_overdue(tools[tool], statements.overdue(tools[tool], now)[: statements.OVERDUE_AT_ONCE], now)


@_transaction
def _forget_keys() -> int:
    return BorrowKey.objects.forget(database_now(), at_most=KEYS_AT_ONCE)


@_transaction
def _tidy_ticket(*, ticket_id: uuid.UUID) -> bool:
    ticket, _, now = _lock_ticket(ticket_id)
    if ticket.state != TicketState.WAITING or ticket.alive_until > now:
        return False
    queueing.close_as_dead(ticket, now)
    return True
