"""Show the page on which people choose which notifications they get, and how."""

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from licenses.access.callers import Caller
from licenses.notifications import preferences

from .views import page


@page("GET")
def show(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Show the choices of the reader."""
    if caller.user is None:
        return redirect_to_login(request.get_full_path())
    choices = preferences.choices_of(caller.user)
    wanted = choices.wanted
    channels: list[tuple[str, str, int | None]] = [("mail", "Mail", None)] if choices.mail else []
    channels += [(str(webhook.pk), webhook.name, webhook.pk) for webhook in choices.webhooks]
    rows = [
        (
            event,
            [
                (f"{event}.{key}" if channel in choices.channels_of(event) else "", name, (event, channel) in wanted)
                for key, name, channel in channels
            ],
        )
        for event in choices.events
    ]
    context = {"title": "Your notifications", "account": caller.user, "channels": channels, "rows": rows}
    return render(request, "licenses/board/notifications.html", context | {"can_mail": choices.mail})


@page("POST")
def save(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Store the choices of the reader."""
    if caller.user is None:
        return redirect_to_login(reverse("board_notifications"))
    wanted = set()
    for event, channel in preferences.choices_of(caller.user).all:
        if f"{event}.{'mail' if channel is None else channel}" in request.POST:
            wanted.add((event, channel))
    preferences.choose(caller.user, wanted=wanted)
    messages.success(request, "Saved.")
    return HttpResponseRedirect(reverse("board_notifications"))
