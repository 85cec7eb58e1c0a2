"""Show people their own API tokens, and let them make and revoke some."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import User
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from licenses.access import tokens
from licenses.access.callers import Caller, Scope
from licenses.auditing import Actor
from licenses.errors import TooManyTokens
from licenses.models.team import validate_name

from .forms import BOUNDS
from .views import error, page

WHAT = {
    Scope.READ: "See seats, queues, leases and reports.",
    Scope.BORROW: "Borrow, renew, wait and return as you.",
    Scope.ADMIN: "Administer, with all your rights.",
}
FORM = "Use the form on the page Tokens."


class TokenForm(forms.Form):
    """Ask for the purpose, life and scopes of a new token."""

    name = forms.CharField(max_length=64, validators=[validate_name])

    def __init__(self, account: User, data: Any = None) -> None:
        longest = settings.LICENSE_OWN_TOKEN_DAYS
        super().__init__(data, initial={"days": longest, "scopes": [Scope.READ, Scope.BORROW]})
        self.fields["days"] = forms.IntegerField(min_value=1, max_value=longest, error_messages=BOUNDS)
        self.fields["scopes"] = forms.MultipleChoiceField(
            choices=[(scope.value, WHAT[scope]) for scope in tokens.own_scopes(account)],
            error_messages={"required": "Choose at least one."},
        )


@page("GET")
def overview(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Show the reader's tokens, and the form for a new one."""
    if caller.user is None:
        return redirect_to_login(request.get_full_path())
    return shown(request, caller.user, TokenForm(caller.user))


def shown(request: HttpRequest, account: User, form: TokenForm, *, status: int = 200) -> HttpResponse:
    """Return the page with this form."""
    now = timezone.now()
    rows = [
        {
            "token": token,
            "scopes": ", ".join(scope for scope in Scope if scope in token.scopes),
            "expired": token.expires_at <= now,
            "ends_soon": token.ends_soon(now),
        }
        for token in tokens.own(account, now)
    ]
    context = {
        "title": "Your tokens",
        "now": now,
        "rows": rows,
        "form": form,
        "why_not": tokens.why_no_own(account),
        "longest": settings.LICENSE_OWN_TOKEN_DAYS,
        "most": settings.LICENSE_OWN_TOKENS_PER_USER,
        "chosen": form["scopes"].value() or [],
    }
    return render(request, "licenses/board/tokens.html", context, status=status)


@page("POST", instead=FORM)
def make(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Create a token and show its secret, once."""
    if caller.user is None:
        return redirect_to_login(reverse("tokens"))
    account = caller.user
    form = TokenForm(account, request.POST)
    if not form.is_valid():
        return shown(request, account, form, status=400)
    asked = form.cleaned_data
    try:
        token, secret = tokens.make_own(
            account,
            name=asked["name"],
            days=asked["days"],
            scopes=[Scope(scope) for scope in asked["scopes"]],
            by=Actor.of_account(account.get_username(), request.META),
        )
    except tokens.NoOwnTokens as why:
        return error(request, 403, "No token was created", str(why))
    except TooManyTokens as why:
        form.add_error(None, str(why))
        return shown(request, account, form, status=409)
    except ValidationError as wrong:
        form.add_error(None, wrong.messages)
        return shown(request, account, form, status=400)
    # Answer with the page: a redirect would have to store the secret.
    context = {"title": "Your new token", "token": token, "secret": secret}
    return render(request, "licenses/board/token_secret.html", context)


@page("POST", instead=FORM)
def revoke(request: HttpRequest, caller: Caller, token_id: int) -> HttpResponse:
    """Revoke a token of the reader, and of nobody else."""
    if caller.user is None:
        return redirect_to_login(reverse("tokens"))
    by = Actor.of_account(caller.user.get_username(), request.META)
    token = tokens.revoke_own(caller.user, token_id, by=by)
    if token is None:
        raise Http404("You have no token of this number.")
    messages.success(request, f"Revoked: {token.name} ({token.hint}…).")
    return HttpResponseRedirect(reverse("tokens"))
