"""Ask the rules of ``licenses.access`` for DRF. Views and their permissions hold no rule."""

import uuid
from functools import partial
from typing import Any, TypedDict
from urllib.parse import urlsplit

from django.conf import settings
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from licenses.access import rules
from licenses.access.callers import Caller, Kind, Scope
from licenses.auditing import Actor
from licenses.errors import Refusal
from licenses.leases import sql
from licenses.models import Lease, Ticket
from licenseserver.hub import aside

from .authentication import caller_of


class FromAnotherSite(PermissionDenied):
    default_code = "cross_site"
    default_detail = "A page of another site sent this request. Send it from this server, or with a token."


def require_own_page(request: Request, caller: Caller) -> None:
    """Raise FromAnotherSite for a change that a page of another site, the ``Origin``, sent through a browser.

    This concerns requests without a credential, or with the password that the
    browser keeps. A session has its CSRF token, and a page cannot make a browser
    send a token in a header.
    """
    origin = request.META["HTTP_ORIGIN"]
    if caller.kind not in {Kind.ANONYMOUS, Kind.PASSWORD}:
        return
    if request.method not in SAFE_METHODS and origin not in settings.CSRF_TRUSTED_ORIGINS:
        try:
            host = urlsplit(origin).netloc
        except ValueError:
            host = ""
        if host != request.get_host():
            raise FromAnotherSite


class HasScope(BasePermission):
    """Require a scope: ``read`` to look, ``borrow`` to change, or the one that the view's
    ``scopes`` names for its action."""

    def has_permission(self, request: Request, view: Any) -> bool:
        caller = caller_of(request)
        if "HTTP_ORIGIN" in request.META:
            require_own_page(request, caller)
        needed = Scope.READ if request.method in SAFE_METHODS else Scope.BORROW
        needed = getattr(view, "scopes", {}).get(getattr(view, "action", None), needed)
        return rules.may(caller, needed)


class IsKnown(BasePermission):
    """Let callers with any credential in, or everybody if the server is open."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return rules.is_known(caller_of(request))


class MayScrape(HasScope):
    """Let a caller with scope ``read`` scrape, or everybody if configured."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return settings.LICENSE_METRICS_PUBLIC or super().has_permission(request, view)


class MayChangeLeases(BasePermission):
    """Let administrators with the permission change leases of other users."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return caller_of(request).is_admin(rules.CHANGE_LEASES)


class MayReadAudit(BasePermission):
    """Let administrators with the permission read the audit."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return caller_of(request).is_admin(rules.VIEW_AUDIT)


class MaySeeSite(BasePermission):
    """Let administrators who may see everything that the document of a site has."""

    def has_permission(self, request: Request, view: Any) -> bool:
        caller = caller_of(request)
        if "HTTP_ORIGIN" in request.META:
            require_own_page(request, caller)
        return rules.may_see_site(caller)


class MayAdminister(BasePermission):
    """Let administrators with one of the permissions that the view needs for this method."""

    def has_permission(self, request: Request, view: Any) -> bool:
        caller = caller_of(request)
        if "HTTP_ORIGIN" in request.META:
            require_own_page(request, caller)
        return any(caller.is_admin(permission) for permission in view.needed(request.method))


class MayReadDenials(BasePermission):
    """Let administrators read all denials, users their own, and a team's token its team's."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return not rules.names_on_denials(caller_of(request)).none


def actor_for(request: Request, caller: Caller, user: str) -> Actor | None:
    """Return the caller if it acts for this user.

    None if the caller is the user, or is unknown because of ``LICENSE_AUTH=open``.
    """
    if caller.kind == Kind.ANONYMOUS or caller.name == user:
        return None
    return Actor.of_call(caller, request.META)


class Acting(TypedDict):
    """Who acts on a lease or ticket, as the services take it."""

    by: Actor | None
    holder: str | None


def acting_on(request: Request, model: type[Lease] | type[Ticket], row_id: uuid.UUID, unknown: type[Refusal]) -> Acting:
    """Return who acts on a lease or ticket, for services that refuse one of another holder. Raises ``unknown``."""
    caller = caller_of(request)
    if holder := rules.only_holder(caller):
        # The service compares it with the locked row, which saves a query.
        return {"by": None, "holder": holder}
    user = rules.require_own(caller, partial(aside, sql.owner_of, model, row_id), unknown)
    return {"by": None if user is None else actor_for(request, caller, user), "holder": None}
