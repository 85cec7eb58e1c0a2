"""Write notifications as text: what happened, which tool and lease, when, and what to do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.conf import settings
from django.urls import reverse
from django.utils.dateparse import parse_datetime

from licenses.history.tables import counted
from licenses.models import Event, Notification, Tool

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


class Names(dict[str, str]):
    """The names of tools for people, by their names. A tool that is not known keeps its name."""

    def __missing__(self, tool: str) -> str:
        return tool

    @classmethod
    def of(cls, notifications: Sequence[Notification]) -> "Names":
        """Read the names of the tools of these notifications, in one query."""
        tools = {notification.tool for notification in notifications}
        tools |= {item["tool"] for notification in notifications for item in notification.facts.get("items", ())}
        return cls(Tool.objects.filter(name__in=tools - {""}).display_names())


def write(notification: Notification) -> Message:
    """Return the text of a notification."""
    return _write(notification, Names.of([notification]))


def _write(notification: Notification, names: Names) -> Message:
    title, text, page, facts = WRITERS[Event(notification.event)](notification, notification.facts, names)
    shown = [(name, _line(value)) for name, value in facts.items() if value]
    return Message(_line(title), text, shown, address_of(page))


def write_all(notifications: Sequence[Notification]) -> Message:
    """Return one text for several notifications of the same event."""
    if len(notifications) == 1:
        return write(notifications[0])
    names = Names.of(notifications)
    messages = [_write(notification, names) for notification in notifications]
    title = f"{len(messages)} times: {Event(notifications[0].event).label}"
    lines = [message.title for message in messages[:MOST_LINES]]
    if len(messages) > MOST_LINES:
        lines.append(f"And {len(messages) - MOST_LINES} more.")
    pages = {message.url for message in messages}
    return Message(title, "\n".join(lines), [], pages.pop() if len(pages) == 1 else address_of(reverse("board")))


def address_of(page: str) -> str:
    """Return the public address of a page, or '' if the server does not know it."""
    return settings.LICENSE_PUBLIC_URL + page if settings.LICENSE_PUBLIC_URL and page else ""


def moment(value: object) -> str:
    """Return a time, or its ISO text, in the zone of messages: ``2026-11-26 18:30 CET``."""
    found = value if isinstance(value, datetime) else parse_datetime(str(value or ""))
    return f"{found.astimezone(ZoneInfo(settings.LICENSE_TIME_ZONE)):%Y-%m-%d %H:%M %Z}" if found else ""


def seats_of(items: Sequence[Mapping[str, Any]], names: Names) -> str:
    """Return seats as a text: ``2 seats of CAD, 1 seat of Mesher``."""
    return ", ".join(f"{counted(item['seats'], 'seat')} of {names[item['tool']]}" for item in items)


def _line(text: object) -> str:
    return " ".join(str(text).split())


Written = tuple[str, str, str, dict[str, object]]
Facts = Mapping[str, Any]


def _of_lease(facts: Facts, names: Names) -> dict[str, object]:
    return {
        "Seats": seats_of(facts["items"], names),
        "Lease": facts["lease"],
        "Host": facts.get("host"),
        "Project": facts.get("project"),
        "Borrowed": moment(facts.get("borrowed_at")),
    }


def _seat_offered(notification: Notification, facts: Facts, names: Names) -> Written:
    seats, until = seats_of(facts["items"], names), moment(facts["until"])
    one = sum(item["seats"] for item in facts["items"]) == 1
    return (
        f"Take {seats} before {until}",
        f"Your turn in the queue for {names[notification.tool]} has come. Take {'the seat' if one else 'the seats'} on "
        f"the page before {until}. After that the next in the queue gets {'it' if one else 'them'}.",
        reverse("board_tool", args=[notification.tool]),
        {"Seats": seats, "Ticket": facts["ticket"], "Kept until": until},
    )


def _lease_ending(notification: Notification, facts: Facts, names: Names) -> Written:
    ends = moment(facts["ends_at"])
    what = f"lease of {seats_of(facts['items'], names)} ends at {ends}"
    if facts.get("with_license"):
        title = f"Save your work: your {what}"
        advice = "The license of the tool ends then, so the lease cannot be renewed. Save your work before."
    else:
        title = f"Renew or return: your {what}"
        advice = (
            "No heartbeat has renewed it. If you still work, renew it, or save your work before. "
            "If not, return it now, so that others can have the seat."
        )
    return title, f"Your {what}. {advice}", reverse("board_yours"), _of_lease(facts, names) | {"Ends": ends}


def _lease_forced(notification: Notification, facts: Facts, names: Names) -> Written:
    by = str(facts.get("ended_by") or "an administrator").removeprefix("account ")
    what = f"lease of {seats_of(facts['items'], names)} was ended by {by}"
    text = f"Your {what}. Save your work: the tool may stop at its next check. If you still need a seat, borrow again."
    more = {"Ended": moment(facts["ended_at"]), "By": by, "Reason": facts.get("reason")}
    return f"Save your work: your {what}", text, reverse("board_yours"), _of_lease(facts, names) | more


def _token_ends(notification: Notification, facts: Facts, names: Names) -> Written:
    ends, token = moment(facts["ends_at"]), f"API token {facts['name']} ({facts['hint']}...)"
    owner = "your" if notification.user else "the"
    text = f"{owner.capitalize()} {token} ends at {ends}. Programs that use it fail after that. "
    login = " If it is of `license login`, run that command again." if notification.user else ""
    page = reverse("tokens") if notification.user else reverse("admin:licenses_apitoken_changelist")
    return (
        f"Replace {owner} {token}: it ends at {ends}",
        f"{text}Create a new token, and replace it where it is used.{login}",
        page,
        {
            "Token": f"{facts['name']} ({facts['hint']}..., number {facts['token']})",
            "Team": facts.get("team"),
            "Last used": moment(facts.get("last_used_at")) or "never",
            "Ends": ends,
        },
    )


def _license_ends(notification: Notification, facts: Facts, names: Names) -> Written:
    ends, license = moment(facts["ends_at"]), f"license of {names[notification.tool]}"
    if facts.get("has_ended"):
        title = f"Renew the {license}: it has ended"
        text = f"The {license} has ended, at {ends}. The server grants no more seats. "
        text += "Enter its new end, or disable the tool."
    else:
        title = f"Renew the {license}: it ends at {ends}"
        text = f"The {license} ends at {ends}. Then its leases end, and the server grants no more seats. "
        text += "Renew it, and enter its new end."
    page = reverse("admin:licenses_tool_changelist") + f"?q={notification.tool}"
    return title, text, page, _of_tool(notification, facts, names) | {"Seats": facts.get("seats"), "Ends": ends}


def _of_tool(notification: Notification, facts: Facts, names: Names) -> dict[str, object]:
    return {"Tool": names[notification.tool], "Vendor": facts.get("vendor")}


def _contract_ends(notification: Notification, facts: Facts, names: Names) -> Written:
    tool, left = names[notification.tool], counted(facts["seats_left"], "seat")
    contract = f"contract for {counted(facts['seats'], 'seat')} of {tool}"
    # The previous version compared with the seats of today.
    before = facts["seats_before"] if "seats_before" in facts else facts["seats_now"]
    # It ends with its last day, in UTC.
    ends = parse_datetime(str(facts["ends_at"]))
    last_day = (ends.astimezone(UTC) - timedelta(days=1)).date() if ends else ""
    text = (
        f"The last day of the {contract} is {last_day}. Then {tool} has {left} instead of {before:,}. "
        "Renew it, and enter the new contract."
    )
    page = reverse("admin:licenses_contract_change", args=[facts["contract"]])
    more = {"Reference": facts.get("reference"), "Seats": facts["seats"], "Last day": last_day}
    return f"Renew the {contract}: its last day is {last_day}", text, page, {"Tool": tool} | more


def _tool_exhausted(notification: Notification, facts: Facts, names: Names) -> Written:
    title = f"{names[notification.tool]} has no free seat, and {_waiting(facts)}"
    text = f"{title}. See who holds the seats, and for how long. The reports show whether more seats would help."
    return title, text, reverse("board_tool", args=[notification.tool]), _of_queue(notification, facts, names)


def _queue_long(notification: Notification, facts: Facts, names: Names) -> Written:
    title = f"The queue for {names[notification.tool]} is long: {_waiting(facts)}"
    text = f"{title}. See who holds the seats, and for how long."
    return title, text, reverse("board_tool", args=[notification.tool]), _of_queue(notification, facts, names)


def _waiting(facts: Facts) -> str:
    return f"{counted(facts['queued'], 'request')} wait" + ("s" if facts["queued"] == 1 else "")


def _of_queue(notification: Notification, facts: Facts, names: Names) -> dict[str, object]:
    minutes = round(facts["oldest_wait_seconds"] / 60)
    return {
        "Tool": names[notification.tool],
        "Borrowed": f"{facts['borrowed']:,} of {counted(facts['capacity'], 'seat')}",
        "In the queue": f"{counted(facts['queued'], 'request')} for {counted(facts['wanted'], 'seat')}",
        "Longest wait": counted(minutes, "minute"),
        "As of": moment(facts["at"]),
    }


def _month_costs(notification: Notification, facts: Facts, names: Names) -> Written:
    team, first = facts["team"], date.fromisoformat(facts["first"])
    page = reverse("board_team", args=[team]) if team else reverse("admin:licenses_money")
    query = urlencode({"since": facts["first"], "until": facts["last"]})
    title = f"Costs of team {team} in {first:%B %Y}" if team else f"Costs in {first:%B %Y}"
    return title, "The figures are only in the mail.", f"{page}?{query}", {}


def _test(notification: Notification, facts: Facts, names: Names) -> Written:
    title = "A test of the license server"
    text = f"{facts.get('by') or 'Somebody'} asked for this test. Notifications arrive here."
    return title, text, reverse("board"), {}


WRITERS: dict[Event, Callable[[Notification, Facts, Names], Written]] = {
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
