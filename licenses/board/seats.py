"""Get, return and wait for seats, and star tools: what the buttons of the board do.

The session identifies the user. A user acts here only for themselves.
"""

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from licenses.access.callers import Caller
from licenses.access.rules import require_may_act_for, team_for
from licenses.clock import database_now
from licenses.errors import AlreadyGranted, DatabaseRefusal, LeaseEnded, QueueEnded, Refusal
from licenses.leases import services
from licenses.leases.requests import Granted, Waiting
from licenses.models import EndReason, Lease, Star, Ticket
from licenses.tools import texts

from . import queries
from .forms import SeatForm
from .views import error, find_entry, following, page, tool_page

FORM = "Use the form on the page of the tool."
QUEUE = "Use the buttons under Yours."


@page("POST", instead=FORM)
def get(request: HttpRequest, caller: Caller, name: str) -> HttpResponse:
    """Borrow seats for the reader, or join the queue. A refusal is shown at the form."""
    here = reverse("board_tool", args=[name])
    if caller.user is None:
        return redirect_to_login(here)
    tool = find_entry(name, database_now()).tool
    if not caller.name:
        return error(request, 403, "Not allowed", "No lease can have the name of your account.")
    require_may_act_for(caller, caller.name)
    form = SeatForm(request.POST, tool=tool, teams=queries.teams_of(caller))
    if not form.is_valid():
        return tool_page(request, caller, name, form=form, status=400)
    wanted = form.request(caller.name, caller.teams)
    try:
        team_for(caller, wanted.team)
        outcome = services.borrow(wanted, key=form.idempotency_key(caller.name))
    except DatabaseRefusal:
        raise
    except Refusal as refusal:
        return tool_page(request, caller, name, form=form, refusal=refusal, status=refusal.status)
    if isinstance(outcome, Granted):
        messages.success(request, f"You have {what_of(outcome.head)}{until(outcome.head)}.")
    else:
        messages.success(request, waiting_text(outcome))
    return HttpResponseRedirect(here)


@page("POST", instead=QUEUE)
def take(request: HttpRequest, caller: Caller, ticket_id: UUID) -> HttpResponse:
    """Take the seats that a ticket of the reader was offered."""
    back = following(request)
    if caller.user is None:
        return redirect_to_login(back)
    find_ticket(caller, ticket_id)
    try:
        outcome = services.poll(ticket_id=ticket_id)
    except QueueEnded as over:
        messages.error(request, texts.of_refusal(over))
        return HttpResponseRedirect(back)
    if isinstance(outcome, Granted):
        messages.success(request, f"You have {what_of(outcome.head)}{until(outcome.head)}.")
    else:
        messages.info(request, f"The seat is gone again. {waiting_text(outcome)}")
    return HttpResponseRedirect(back)


@page("POST", instead=QUEUE)
def leave(request: HttpRequest, caller: Caller, ticket_id: UUID) -> HttpResponse:
    """Leave the queue with a ticket of the reader. Harmless if the wait is over."""
    back = following(request)
    if caller.user is None:
        return redirect_to_login(back)
    ticket = find_ticket(caller, ticket_id)
    try:
        services.leave(ticket_id=ticket.id)
    except AlreadyGranted as granted:
        messages.info(request, granted.detail)
    else:
        messages.success(request, "You left the queue.")
    return HttpResponseRedirect(back)


def find_ticket(caller: Caller, ticket_id: UUID) -> Ticket:
    """Return the ticket of this id. Raises Http404, also if it is of another user."""
    ticket = queries.own_ticket(caller.name, ticket_id)
    if ticket is None:
        raise Http404("You do not have this place in a queue. Maybe it was taken under another name.")
    return ticket


@page("POST")
def give_back(request: HttpRequest, caller: Caller, lease_id: UUID) -> HttpResponse:
    """Return a lease of the reader, and of no other user. Harmless if it was returned before.

    If a program still extends the lease, ask once.
    """
    back = following(request)
    if caller.user is None:
        return redirect_to_login(back)
    lease = queries.own_lease(caller.name, lease_id)
    if lease is None:
        raise Http404("You do not have this lease. Maybe it was borrowed under another name.")
    now = database_now()
    if not lease.is_over(now) and lease.has_program and "confirmed" not in request.POST:
        context = {"title": "Return a seat that is in use?", "lease": lease, "seats": what(lease), "now": now}
        return render(request, "licenses/board/confirm.html", context | {"back": back})
    if lease.ended_at is None:
        leases = services.give_back(lease_id=lease_id)
        lease.ended_at, lease.end_reason = leases[0].ended_at, leases[0].end_reason
        if lease.end_reason == EndReason.RETURNED:
            messages.success(request, f"Returned: {what(lease)}.")
            return HttpResponseRedirect(back)
    messages.info(request, f"Already ended: {what(lease)}. {LeaseEnded.WHY[lease.end_reason]}")
    return HttpResponseRedirect(back)


@page("POST", instead="Use the stars on the board.")
def star(request: HttpRequest, caller: Caller, name: str) -> HttpResponse:
    """Star a tool for the reader's account, or remove its star."""
    back = following(request)
    if caller.user is None:
        return redirect_to_login(back)
    tool = find_entry(name, database_now()).tool
    Star.objects.put(user=caller.user, tool=tool, starred=request.POST.get("starred") == "1")
    return HttpResponseRedirect(back)


# --- Texts ------------------------------------------------------------------


def what(lease: Lease) -> str:
    """Return the seats of a borrow as a text."""
    return ", ".join(what_of(part) for part in lease.items)


def what_of(lease: Lease) -> str:
    """Return the seats of one tool as a text."""
    return f"{lease.seats} {'seat' if lease.seats == 1 else 'seats'} of {lease.tool}"


def until(lease: Lease) -> str:
    """Return the end of a lease as a text."""
    return f" until {lease.expires_at:%Y-%m-%d %H:%M} UTC" if lease.expires_at is not None else ""


def waiting_text(place: Waiting) -> str:
    """Return a place in the queue as a text."""
    return f"You wait at position {place.position}. The server keeps your place, also when you close this page."
