"""Write notifications as text: what happened, which tool and lease, when, and what to do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.conf import settings
from django.urls import reverse
from django.utils.dateparse import parse_datetime

from licenses.models import Event, Notification

# The lines of a message about several occasions.
MOST_LINES = 50


@dataclass(frozen=True, slots=True)
class Message:
    """A notification for people.

    ``title`` says in a line what happened, ``text`` in a sentence or two with what to do, ``facts`` are names and
    values. ``url`` is the page to go to, or empty without ``LICENSE_PUBLIC_URL``.
    """

    title: str
    text: str
    facts: Sequence[tuple[str, str]]
    url: str


def write(notification: Notification) -> Message:
    """Return the text of a notification."""
    title, text, page, facts = WRITERS[Event(notification.event)](notification, notification.facts)
    shown = [(name, _line(value)) for name, value in facts.items() if value]
    return Message(_line(title), text, shown, address_of(page))


def write_all(notifications: Sequence[Notification]) -> Message:
    """Return one text for several notifications of the same event."""
    if len(notifications) == 1:
        return write(notifications[0])
    messages = [write(notification) for notification in notifications]
    title = f"{len(messages)} times: {Event(notifications[0].event).label}"
    lines = [message.title for message in messages[:MOST_LINES]]
    if len(messages) > MOST_LINES:
        lines.append(f"And {len(messages) - MOST_LINES} more.")
    return Message(title, "\n".join(lines), [], messages[0].url)


def address_of(page: str) -> str:
    """Return the public address of a page, or '' if the server does not know it."""
    return settings.LICENSE_PUBLIC_URL + page if settings.LICENSE_PUBLIC_URL and page else ""


def moment(value: object) -> str:
    """Return a time, or its ISO text, in the zone of messages: ``2026-11-26 18:30 CET``."""
    found = value if isinstance(value, datetime) else parse_datetime(str(value or ""))
    return f"{found.astimezone(ZoneInfo(settings.LICENSE_TIME_ZONE)):%Y-%m-%d %H:%M %Z}" if found else ""


def seats_of(items: Sequence[Mapping[str, Any]]) -> str:
    """Return seats as a text: ``2 seats of cad, 1 seat of sim``."""
    return ", ".join(f"{_count(item['seats'], 'seat')} of {item['tool']}" for item in items)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _line(text: object) -> str:
    return " ".join(str(text).split())


Written = tuple[str, str, str, dict[str, object]]
Facts = Mapping[str, Any]


def _of_lease(facts: Facts) -> dict[str, object]:
    return {
        "Seats": seats_of(facts["items"]),
        "Lease": facts["lease"],
        "Host": facts.get("host"),
        "Project": facts.get("project"),
        "Borrowed": moment(facts.get("borrowed_at")),
    }


def _seat_offered(notification: Notification, facts: Facts) -> Written:
    seats, until = seats_of(facts["items"]), moment(facts["until"])
    one = sum(item["seats"] for item in facts["items"]) == 1
    return (
        f"{seats} {'is' if one else 'are'} kept for you until {until}",
        f"Your turn in the queue for {notification.tool} has come. Take {'the seat' if one else 'the seats'} on the "
        f"page before {until}. After that the next in the queue gets {'it' if one else 'them'}.",
        reverse("board_tool", args=[notification.tool]),
        {"Seats": seats, "Ticket": facts["ticket"], "Kept until": until},
    )


def _lease_ending(notification: Notification, facts: Facts) -> Written:
    ends = moment(facts["ends_at"])
    if facts.get("with_license"):
        advice = "The license of the tool ends then, so the lease cannot be renewed. Save your work before."
    else:
        advice = (
            "No heartbeat has renewed it. If you still work, renew it, or save your work before. "
            "If not, return it now, so that others can have the seat."
        )
    title = f"Your lease of {seats_of(facts['items'])} ends at {ends}"
    return title, f"{title}. {advice}", reverse("board_yours"), _of_lease(facts) | {"Ends": ends}


def _lease_forced(notification: Notification, facts: Facts) -> Written:
    by = str(facts.get("ended_by") or "an administrator")
    title = f"Your lease of {seats_of(facts['items'])} was ended by {by}"
    text = f"{title}. Save your work: the tool may stop at its next check. Borrow again when you may go on."
    more = {"Ended": moment(facts["ended_at"]), "By": by, "Reason": facts.get("reason")}
    return title, text, reverse("board_yours"), _of_lease(facts) | more


def _token_ends(notification: Notification, facts: Facts) -> Written:
    ends = moment(facts["ends_at"])
    owner = "Your API token" if notification.user else "The API token"
    title = f"{owner} {facts['name']} ({facts['hint']}...) ends at {ends}"
    text = f"{title}. Programs that use it fail after that. Create a new token, and replace it where it is used."
    page = reverse("board") if notification.user else reverse("admin:licenses_apitoken_changelist")
    return (
        title,
        text,
        page,
        {
            "Token": f"{facts['name']} ({facts['hint']}..., number {facts['token']})",
            "Team": facts.get("team"),
            "Last used": moment(facts.get("last_used_at")) or "never",
            "Ends": ends,
        },
    )


def _license_ends(notification: Notification, facts: Facts) -> Written:
    ends = moment(facts["ends_at"])
    if facts.get("has_ended"):
        title = f"The license of {notification.tool} has ended"
        text = f"{title}, at {ends}. The server grants no more seats. Enter its new end, or disable the tool."
    else:
        title = f"The license of {notification.tool} ends at {ends}"
        text = f"{title}. Then its leases end, and the server grants no more seats. Renew it, and enter its new end."
    page = reverse("admin:licenses_tool_changelist") + f"?q={notification.tool}"
    return title, text, page, _of_tool(notification, facts) | {"Seats": facts.get("seats"), "Ends": ends}


def _of_tool(notification: Notification, facts: Facts) -> dict[str, object]:
    return {"Tool": notification.tool, "Vendor": facts.get("vendor")}


def _contract_ends(notification: Notification, facts: Facts) -> Written:
    ends, left = moment(facts["ends_at"]), _count(facts["seats_left"], "seat")
    title = f"A contract of {notification.tool} for {_count(facts['seats'], 'seat')} ends at {ends}"
    text = (
        f"{title}. Then {notification.tool} has {left} instead of {facts['seats_now']:,}. "
        "Renew it, and enter the new contract."
    )
    page = reverse("admin:licenses_contract_change", args=[facts["contract"]])
    more = {"Contract": facts["contract"], "Reference": facts.get("reference"), "Seats": facts["seats"], "Ends": ends}
    return title, text, page, {"Tool": notification.tool} | more


def _tool_exhausted(notification: Notification, facts: Facts) -> Written:
    title = f"{notification.tool} has no free seat, and {_waiting(facts)}"
    text = f"{title}. See who holds the seats, and for how long. The reports show whether more seats would help."
    return title, text, reverse("board_tool", args=[notification.tool]), _of_queue(notification, facts)


def _queue_long(notification: Notification, facts: Facts) -> Written:
    title = f"The queue for {notification.tool} is long: {_waiting(facts)}"
    text = f"{title}. See who holds the seats, and for how long."
    return title, text, reverse("board_tool", args=[notification.tool]), _of_queue(notification, facts)


def _waiting(facts: Facts) -> str:
    return f"{_count(facts['queued'], 'request')} wait" + ("s" if facts["queued"] == 1 else "")


def _of_queue(notification: Notification, facts: Facts) -> dict[str, object]:
    minutes = round(facts["oldest_wait_seconds"] / 60)
    return {
        "Tool": notification.tool,
        "Borrowed": f"{facts['borrowed']:,} of {_count(facts['capacity'], 'seat')}",
        "In the queue": f"{_count(facts['queued'], 'request')} for {_count(facts['wanted'], 'seat')}",
        "Longest wait": _count(minutes, "minute"),
        "As of": moment(facts["at"]),
    }


def _month_costs(notification: Notification, facts: Facts) -> Written:
    team, first = facts["team"], date.fromisoformat(facts["first"])
    page = reverse("board_team", args=[team]) if team else reverse("admin:licenses_money")
    query = urlencode({"since": facts["first"], "until": facts["last"]})
    title = f"Costs of team {team} in {first:%B %Y}" if team else f"Costs in {first:%B %Y}"
    return title, "The figures are only in the mail.", f"{page}?{query}", {}


def _test(notification: Notification, facts: Facts) -> Written:
    title = "A test of the license server"
    text = f"{facts.get('by') or 'Somebody'} asked for this test. Notifications arrive here."
    return title, text, reverse("board"), {"Sent for": facts.get("by")}


WRITERS: dict[Event, Callable[[Notification, Facts], Written]] = {
    Event.SEAT_OFFERED: _seat_offered,
    Event.LEASE_ENDING: _lease_ending,
    Event.LEASE_FORCED: _lease_forced,
    Event.TOKEN_ENDS: _token_ends,
    Event.LICENSE_ENDS: _license_ends,
    Event.CONTRACT_ENDS: _contract_ends,
    Event.TOOL_EXHAUSTED: _tool_exhausted,
    Event.QUEUE_LONG: _queue_long,
    Event.MONTH_COSTS: _month_costs,
    Event.TEST: _test,
}
