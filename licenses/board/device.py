"""Ask a person whether a program may have a token of theirs (RFC 8628)."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from licenses.access import device_logins, tokens
from licenses.access.callers import Caller
from licenses.auditing import Actor
from licenses.client_addresses import client_address
from licenses.errors import TooManyTokens
from licenses.models import DeviceLogin
from licenses.models.device_login import read_user_code, shown_user_code

from .tokens import WHAT
from .views import error, page


@page("GET")
def overview(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Ask for the code, or show the program that has the code."""
    if caller.user is None:
        return redirect_to_login(request.get_full_path())
    typed = request.GET.get("code", "").strip()
    if not typed:
        return shown(request, caller.user)
    login = device_logins.find(typed, account=caller.user, address=client_address(request.META))
    if login is None:
        return shown(request, caller.user, status=404, typed=typed[:32], is_unknown=True)
    return shown(request, caller.user, login=login, code=shown_user_code(read_user_code(typed) or ""))


def shown(
    request: HttpRequest,
    account: User,
    *,
    status: int = 200,
    login: DeviceLogin | None = None,
    **more: Any,
) -> HttpResponse:
    """Return the page, with the program if there is one."""
    context = {"title": "Sign in a program", "now": timezone.now(), "why_not": tokens.why_no_own(account), **more}
    if login is not None:
        scopes = device_logins.scopes_to_give(login, account)
        context |= {
            "login": login,
            "scopes": [(scope, WHAT[scope]) for scope in scopes],
            "days": settings.LICENSE_OWN_TOKEN_DAYS,
        }
    return render(request, "licenses/board/device.html", context, status=status)


@page("POST", instead="Open the address that license login shows.")
def answer(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Approve or deny the program."""
    if caller.user is None:
        return redirect_to_login(reverse("device"))
    account, given = caller.user, request.POST.get("answer")
    if given not in {"approve", "deny"}:
        raise BadRequest("The answer must be approve or deny.")
    typed = request.POST.get("code", "")
    login = device_logins.find(typed, account=account, address=client_address(request.META))
    if login is None:
        return shown(request, account, status=404, is_unknown=True)
    by = Actor.of_account(account.get_username(), request.META)
    try:
        decide = device_logins.approve if given == "approve" else device_logins.deny
        done = decide(login, account, by=by)
    except (tokens.NoOwnTokens, TooManyTokens) as why:
        return error(request, 403, "The program was not signed in", str(why))
    if not done:
        return shown(request, account, status=404, is_unknown=True)
    title = "The program is signed in" if given == "approve" else "You denied the program"
    return render(request, "licenses/board/device_done.html", {"title": title, "approved": given == "approve"})
