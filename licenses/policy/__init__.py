"""Decide about seats with pure functions: numbers and rules in, refusals out.

``rules`` declares each rule once, in the order in which they apply. Lists, quotas and
reservations correspond to FlexNet's EXCLUDE, INCLUDE, MAX and RESERVE lines.
"""

from .availability import Availability, Levels, behind_the_queue, levels
from .decisions import available, in_line, refusal, refusals
from .pool import NO_RULES, NOBODY, Claim, Item, Pool, Rules, Subject, TeamAllotment
from .rules import BORROW_REFUSALS, RULES, Rule, Shortage, State

__all__ = [
    "BORROW_REFUSALS",
    "NOBODY",
    "NO_RULES",
    "RULES",
    "Availability",
    "Claim",
    "Item",
    "Levels",
    "Pool",
    "Rule",
    "Rules",
    "Shortage",
    "State",
    "Subject",
    "TeamAllotment",
    "available",
    "behind_the_queue",
    "in_line",
    "levels",
    "refusal",
    "refusals",
]
