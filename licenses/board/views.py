"""Show the board, and return a user's own seats.

The session identifies the user. ``licenses.access`` decides.
"""

import logging
import re
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any, Concatenate, ParamSpec
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import BadRequest
from django.core.paginator import Paginator
from django.db import DatabaseError, InterfaceError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.gzip import gzip_page

from licenses import database
from licenses.access.callers import Caller, Kind, Scope
from licenses.access.credentials import anonymous, caller_of_account
from licenses.access.rules import may, names_on_board, teams_led_by
from licenses.clock import database_now
from licenses.errors import LeaseEnded, Refusal
from licenses.leases import services
from licenses.models import EndReason, Lease, Tool
from licenses.names import TOOL_NAME_PATTERN, is_clean

from . import queries
from .queries import Condition, Listed

logger = logging.getLogger(__name__)

P = ParamSpec("P")
Page = Callable[Concatenate[HttpRequest, Caller, P], HttpResponse]

REFRESH_SECONDS = 15
TOOLS_A_PAGE = 25
LEASES_A_PAGE = 50
# Rows of a tool on the page of all tools, and on the tool's page.
LEASES_OF_EACH, WAITING_OF_EACH, REFUSALS_OF_ALL = 5, 3, 10
WAITING_OF_ONE, REFUSALS_OF_ONE = 50, 20
OWN_LEASES = OWN_WAITS = 10
FULL_TOOLS = 20
LONGEST_SEARCH = 64


def page(
    method: str, *, instead: str = "Use the Return button on the board."
) -> Callable[[Page[P]], Callable[Concatenate[HttpRequest, P], HttpResponse]]:
    """Wrap a page: send users without access to the sign-in, and show refusals as pages.

    ``instead`` says what to do to a user who opens the address of a form.
    """
    methods, needed = (["GET", "HEAD"], Scope.READ) if method == "GET" else ([method], Scope.BORROW)

    def decorate(view: Page[P]) -> Callable[Concatenate[HttpRequest, P], HttpResponse]:
        # Compress pages. Django adds random bytes, so that the length reveals nothing.
        @gzip_page
        @never_cache
        @wraps(view)
        def run(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
            if request.method not in methods:
                detail = "This page accepts only GET." if needed == Scope.READ else instead
                answer = error(request, 405, "Method not allowed", detail)
                answer["Allow"] = ", ".join(methods)
                return answer
            try:
                caller = reader_of(request)
                if not may(caller, needed):
                    return redirect_to_login(request.get_full_path() if method == "GET" else reverse("board"))
                return view(request, caller, *args, **kwargs)
            except BadRequest as wrong:
                return error(request, 400, "Invalid address", str(wrong))
            except Http404 as missing:
                return error(request, 404, "Not found", str(missing))
            except Refusal as refusal:
                database.log_failure(refusal)
                return refused(request, refusal)
            except (DatabaseError, InterfaceError) as failure:
                logger.error("The database failed: %s", database.reason(failure))
                return refused(request, database.refusal(failure))

        return run

    return decorate


def reader_of(request: HttpRequest) -> Caller:
    """Return the caller who reads the board."""
    return caller_of_account(request.user, Kind.SESSION) if request.user.is_authenticated else anonymous()


def error(request: HttpRequest, status: int, title: str, detail: str) -> HttpResponse:
    """Return a page about an error. Does not query the database, which may be the cause."""
    context = {"title": title, "detail": detail, "asks_no_database": status >= 500}
    return render(request, "licenses/board/error.html", context, status=status)


def refused(request: HttpRequest, refusal: Refusal) -> HttpResponse:
    """Return the page of a refusal."""
    answer = error(request, refusal.status, refusal.title, refusal.detail)
    if refusal.retry_after:
        answer["Retry-After"] = str(refusal.retry_after)
    return answer


def shown(request: HttpRequest, template: str, caller: Caller, context: dict[str, Any]) -> HttpResponse:
    """Return a page that refreshes itself. Its script asks only for the live part."""
    context |= {"reader": caller, "refresh_seconds": REFRESH_SECONDS, "living_part": f"licenses/board/{template}"}
    whole = "X-Refresh" not in request.headers
    answer = render(request, "licenses/board/page.html" if whole else "licenses/board/living.html", context)
    patch_vary_headers(answer, ["X-Refresh"])
    return answer


def page_number(request: HttpRequest) -> int:
    """Return the number of the page. Raises BadRequest.

    A number that is too high stands for the last page, because lists get shorter
    while a user reads them.
    """
    text = request.GET.get("page", "1")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise BadRequest("The page must be a whole number from 1.")
    return int(text)


def search_text(request: HttpRequest) -> str:
    """Return the search for tools. Raises BadRequest."""
    text = request.GET.get("q", "").strip()
    if len(text) > LONGEST_SEARCH or not is_clean(text):
        raise BadRequest(f"A search has at most {LONGEST_SEARCH} characters, on one line.")
    return text


# --- Pages ------------------------------------------------------------------


@page("GET")
def overview(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Show all tools with their seats, leases and queues, and the latest refusals."""
    number, search, now = page_number(request), search_text(request), database_now()
    entries = queries.entries(now)
    tools = Paginator([entry for entry in entries if matches(entry.tool, search)], TOOLS_A_PAGE).get_page(number)
    full = [entry.tool for entry in entries if Condition.FULL in entry.conditions]
    context = {
        "title": "Tools and their seats",
        "now": now,
        "totals": queries.totals(entries),
        "full": Listed(full[:FULL_TOOLS], len(full)),
        "search": search,
        "searchable": search or tools.paginator.num_pages > 1,
        "page": tools,
        "entries": queries.with_people(list(tools.object_list), now, leases=LEASES_OF_EACH, waiting=WAITING_OF_EACH),
        "refusals": queries.refusals(now, REFUSALS_OF_ALL),
        "names": names_on_board(caller),
    }
    return shown(request, "overview.html", caller, context | own(caller, now))


def matches(tool: Tool, search: str) -> bool:
    """Return whether the search matches one of the tool's names."""
    return any(search.lower() in name.lower() for name in (tool.name, tool.display_name, tool.vendor))


@page("GET")
def one_tool(request: HttpRequest, caller: Caller, name: str) -> HttpResponse:
    """Show one tool with all its leases, in pages."""
    number, now = page_number(request), database_now()
    entry = queries.entry(name, now) if re.fullmatch(TOOL_NAME_PATTERN, name) else None
    if entry is None:
        raise Http404("No tool has this name.")
    tool = entry.tool
    context = {
        "title": tool.display_name or tool.name,
        "now": now,
        "entry": entry,
        "tool": tool,
        "page": Paginator(queries.leases(tool, now), LEASES_A_PAGE).get_page(number),
        "waiting": Listed(list(queries.queue(tool, now)[:WAITING_OF_ONE]), tool.queued),
        "refusals": queries.refusals(now, REFUSALS_OF_ONE, tool),
        "names": names_on_board(caller),
    }
    return shown(request, "tool.html", caller, context | own(caller, now, tool))


@page("GET")
def yours(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Show all leases of the reader, in pages."""
    if caller.user is None:
        return redirect_to_login(request.get_full_path())
    number, now = page_number(request), database_now()
    leases = Paginator(queries.held_by(caller.name, now), LEASES_A_PAGE).get_page(number)
    context = {"title": "Your seats", "now": now, "page": leases, "led_teams": teams_led_by(caller)}
    return shown(request, "yours.html", caller, context)


def own(caller: Caller, now: datetime, tool: Tool | None = None) -> dict[str, Any]:
    """Return the reader's leases and tickets."""
    if not caller.name:
        return {"own_leases": Listed(), "own_waits": Listed()}
    leases = Paginator(queries.held_by(caller.name, now, tool), OWN_LEASES).get_page(1)
    return {
        "own_leases": Listed(list(leases.object_list), leases.paginator.count),
        "own_waits": queries.waits_of(caller.name, now, OWN_WAITS, tool),
    }


# --- Returning --------------------------------------------------------------


@page("POST")
def give_back(request: HttpRequest, caller: Caller, lease_id: UUID) -> HttpResponse:
    """Return a lease of the reader, and of no other user. Harmless if it was returned before."""
    back = request.POST.get("next") or reverse("board")
    if not (is_clean(back) and url_has_allowed_host_and_scheme(back, allowed_hosts=None)):
        raise BadRequest("The page to return to must be on this server.")
    if caller.user is None:
        return redirect_to_login(back)
    lease = queries.own_lease(caller.name, lease_id)
    if lease is None:
        raise Http404("You do not have this lease. Maybe it was borrowed under another name.")
    if lease.ended_at is None:
        leases = services.give_back(lease_id=lease_id)
        lease.ended_at, lease.end_reason = leases[0].ended_at, leases[0].end_reason
        if lease.end_reason == EndReason.RETURNED:
            messages.success(request, f"Returned: {what(lease)}.")
            return HttpResponseRedirect(back)
    messages.info(request, f"Already ended: {what(lease)}. {LeaseEnded.WHY[lease.end_reason]}")
    return HttpResponseRedirect(back)


def what(lease: Lease) -> str:
    """Return the seats of a lease as a text."""
    return ", ".join(f"{part.seats} {'seat' if part.seats == 1 else 'seats'} of {part.tool}" for part in lease.items)
