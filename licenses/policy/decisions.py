"""Ask the rules: what refuses a borrow, and how many seats can be had."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from licenses.errors import Refusal

from .availability import Availability, behind_the_queue
from .pool import NOBODY, Pool, Subject
from .rules import CHECKS, Attempt, Shortage


def refusals(
    pool: Pool, *, seats: int, now: datetime, subject: Subject = NOBODY, ttl: timedelta | None = None
) -> Iterator[Refusal]:
    """Yield every refusal of ``seats`` seats for a subject at ``now``, in the order of the rules.

    ``ttl`` is the requested one, or None.
    """
    attempt = Attempt(behind_the_queue(pool, now), seats, subject, ttl)
    for check in CHECKS:
        if (refusal := check(attempt)) is not None:
            yield refusal


def refusal(
    pool: Pool, *, seats: int, now: datetime, subject: Subject = NOBODY, ttl: timedelta | None = None
) -> Refusal | None:
    """Return the first refusal, or None if the seats can be granted."""
    return next(refusals(pool, seats=seats, now=now, subject=subject, ttl=ttl), None)


def in_line(pool: Pool, now: datetime) -> Iterator[bool]:
    """Yield for each claim of the queue, in its order, whether its seats could be granted at ``now``."""
    left = Availability(pool, now)
    for claim in pool.claims:
        attempt = Attempt(left, claim.seats, claim.subject)
        yield all(check(attempt) is None for check in CHECKS)
        left.set_aside(claim)


def available(pool: Pool, subject: Subject, now: datetime) -> int:
    """Return the most seats that a subject can borrow at ``now`` in one call."""
    left = behind_the_queue(pool, now)
    attempt = Attempt(left, left.free(subject.team), subject)
    for check in CHECKS:
        refused = check(attempt)
        if isinstance(refused, Shortage):
            attempt.seats = max(attempt.seats - refused.short_by, 0)
        elif refused is not None:
            return 0
    return attempt.seats
