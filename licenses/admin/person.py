"""Show everything about one person in one place, and end it when the person leaves."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode

from licenses.access import accounts
from licenses.access.rules import CHANGE_LEASES, VIEW_AUDIT, VIEW_DENIALS, VIEW_LEASES, VIEW_MEMBERS, is_within_own
from licenses.clock import database_now
from licenses.history.tables import counted
from licenses.models import AccountSession, ApiToken, Denial, Lease, TeamMember, Ticket
from licenses.models.lease import NOTE_LENGTH
from licenses.names import NAME_LENGTH, is_clean, is_name

from .audited import actor_of
from .ticket import tool_names, wishes

VIEW_ACCOUNTS, CHANGE_ACCOUNTS = "auth.view_user", "auth.change_user"
VIEW_TICKETS, VIEW_TOKENS = "licenses.view_ticket", "licenses.view_apitoken"
REMOVE_MEMBERS = "licenses.delete_teammember"
# Each shows a part of the page.
ANY_OF = (VIEW_ACCOUNTS, VIEW_LEASES, VIEW_TICKETS, VIEW_TOKENS, VIEW_MEMBERS)
# Rows of a part. Its link shows all.
MOST = 50
LAST_LEASES = 10
MOST_NAMES = 20
DENIALS = timedelta(days=30)
REASON_HELP = "With a reason, the open leases end now, and the holder sees it. Without one, they expire."


class EndForm(forms.Form):
    """Ask for the open leases of an account or a person that ends."""

    force_note = forms.CharField(
        required=False,
        max_length=NOTE_LENGTH,
        label="Reason for a force return",
        help_text=REASON_HELP,
        widget=forms.TextInput(attrs={"class": "vTextField"}),
    )

    def clean_force_note(self) -> str:
        note: str = self.cleaned_data["force_note"].strip()
        if not is_clean(note):
            raise ValidationError("One line, without control characters.")
        return note


def ended_in_words(ended: accounts.Ended) -> list[str]:
    """Return what ended with an account, as texts such as ``1 token``."""
    return [
        counted(len(ended.tokens), "token"),
        counted(ended.sessions, "session"),
        counted(len(ended.tickets), "ticket"),
        counted(len(ended.leases), "lease"),
    ]


@dataclass(slots=True)
class Person:
    """The rows of a user, as far as the reader may see them."""

    name: str
    now: datetime
    account: User | None = None
    leases: list[Lease] = field(default_factory=list)
    past: list[Lease] = field(default_factory=list)
    # Each ticket with what it waits for.
    waits: list[tuple[Ticket, str]] = field(default_factory=list)
    teams: list[TeamMember] = field(default_factory=list)
    tokens: list[ApiToken] = field(default_factory=list)
    sessions: list[datetime] = field(default_factory=list)
    denials: int = 0

    @property
    def is_known(self) -> bool:
        """Return whether the reader sees anything about the person."""
        rows = (self.leases, self.past, self.waits, self.teams, self.tokens, self.sessions)
        return self.account is not None or any(rows) or self.denials > 0


def person_link(name: str, text: str = "") -> str:
    """Return a link to everything about a person; nothing for a row whose name was removed."""
    if not name:
        return text or "—"
    return format_html(
        '<a href="{}?{}">{}</a>', reverse("admin:licenses_person"), urlencode({"user": name}), text or name
    )


def may_look_up(request: HttpRequest) -> bool:
    """Return whether this user may see any part of a person."""
    return any(_may(request, permission) for permission in ANY_OF)


def one_person(request: HttpRequest) -> HttpResponse:
    """Ask for a name, or show what is known about a person."""
    if not may_look_up(request):
        raise PermissionDenied
    name = request.GET.get("user", "").strip()
    if not _is_possible(name):
        return _page(request, "person", {"title": "A person", "asked": "" if not name else name[:NAME_LENGTH]})
    person = _read(request, name)
    context: dict[str, Any] = {"title": name, "asked": name, "person": person, "denial_days": DENIALS.days}
    if person.is_known:
        account = User.objects.filter(username=name).first()
        context["may_end"] = _may_end(request, account)
    else:
        context["similar"] = _similar(request, name)
    return _page(request, "person", context)


def left(request: HttpRequest) -> HttpResponse:
    """Show what ends with a person who left, and end it."""
    name = request.GET.get("user", "").strip()
    account = User.objects.filter(username=name).first() if _is_possible(name) else None
    if not _is_possible(name) or not _may_end(request, account):
        raise PermissionDenied
    form = EndForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        note = form.cleaned_data["force_note"] if _may(request, CHANGE_LEASES) else ""
        keep_teams = not _may(request, REMOVE_MEMBERS)
        done = accounts.leave(name, by=actor_of(request), force_note=note, keep_teams=keep_teams)
        ended = done.ended
        messages.success(
            request,
            f"Ended with {name}: {', '.join([*ended_in_words(ended), counted(len(done.teams), 'membership')])}.",
        )
        return HttpResponseRedirect(f"{reverse('admin:licenses_person')}?{urlencode({'user': name})}")
    everything = _read(request, name, *ANY_OF)
    context = {
        "title": f"{name} left",
        "person": everything,
        "account": account,
        "form": form,
        "may_force": _may(request, CHANGE_LEASES),
        "may_remove": _may(request, REMOVE_MEMBERS),
    }
    return _page(request, "person_left", context, status=400 if form.errors else 200)


def _may(request: HttpRequest, permission: str) -> bool:
    return bool(getattr(request.user, "has_perm", lambda permission: False)(permission))


def _may_end(request: HttpRequest, account: User | None) -> bool:
    """Return whether this user may end what acts for a person. Nobody ends their own account here."""
    if not _may(request, CHANGE_ACCOUNTS):
        return False
    return account is None or (account.pk != request.user.pk and is_within_own(request.user, account))


def _is_possible(name: str) -> bool:
    return 0 < len(name) <= NAME_LENGTH and is_name(name)


def _read(request: HttpRequest, name: str, *permissions: str) -> Person:
    """Return what this user may see about a person; with ``permissions``, what these show."""

    def may(permission: str) -> bool:
        return permission in permissions if permissions else _may(request, permission)

    now = database_now()
    person = Person(name, now)
    account = User.objects.filter(username=name).first()
    if may(VIEW_ACCOUNTS):
        person.account = account
        if account is not None:
            keys = AccountSession.objects.filter(account=account).values("session")
            ends = Session.objects.filter(pk__in=keys, expire_date__gt=now).order_by("expire_date")
            person.sessions = list(ends.values_list("expire_date", flat=True)[:MOST])
    if may(VIEW_LEASES):
        held = Lease.objects.held_by(name).heads().with_items()
        person.leases = list(held.active(now).newest_first()[:MOST])
        person.past = list(held.ended(now).newest_first()[:LAST_LEASES])
    if may(VIEW_TICKETS):
        tickets = list(Ticket.objects.live(now).filter(user=name).order_by("number")[:MOST])
        names = tool_names(tickets)
        person.waits = [(ticket, wishes(ticket, names)[0]) for ticket in tickets]
    if may(VIEW_MEMBERS):
        members = TeamMember.objects.of_users([name]).select_related("team")
        person.teams = list(members.order_by("team__name")[:MOST])
    if may(VIEW_TOKENS):
        acting = ApiToken.objects.acting_as(account) if account else ApiToken.objects.filter(user=name)
        person.tokens = list(acting.filter(revoked_at__isnull=True, expires_at__gt=now).order_by("expires_at")[:MOST])
    if may(VIEW_DENIALS):
        person.denials = Denial.objects.filter(user=name, last_at__gt=now - DENIALS).count()
    return person


def _similar(request: HttpRequest, name: str) -> list[str]:
    """Return known names that contain this one."""
    found: set[str] = set()
    if _may(request, VIEW_ACCOUNTS):
        by_name = Q(username__icontains=name) | Q(first_name__icontains=name) | Q(last_name__icontains=name)
        found |= _some(User.objects.filter(by_name).order_by("username").values_list("username", flat=True))
    if _may(request, VIEW_MEMBERS):
        members = TeamMember.objects.filter(user__icontains=name).order_by("user")
        found |= _some(members.values_list("user", flat=True).distinct())
    if _may(request, VIEW_LEASES):
        leases = Lease.objects.open().filter(user__icontains=name).order_by("user")
        found |= _some(leases.values_list("user", flat=True).distinct())
    return sorted(found)[:MOST_NAMES]


def _some(names: Any) -> set[str]:
    some: Iterable[str] = names[:MOST_NAMES]
    return set(some)


def _page(request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    page = admin.site.each_context(request) | {"may_audit": _may(request, VIEW_AUDIT)} | context
    return render(request, f"admin/licenses/{template}.html", page, status=status)
