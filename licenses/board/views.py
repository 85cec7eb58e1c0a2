"""Show the board.

The session identifies the user. ``licenses.access`` decides.
"""

import logging
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import BadRequest
from django.core.paginator import Paginator
from django.db import DatabaseError, InterfaceError
from django.http import Http404, HttpRequest, HttpResponse
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
from licenses.errors import Refusal
from licenses.models import Tool
from licenses.names import TOOL_NAME_PATTERN, is_clean
from licenses.tools import texts

from . import queries
from .commands import commands_for
from .forms import SeatForm
from .queries import Entry, Listed
from .selection import SORTS, Selection

logger = logging.getLogger(__name__)

P = ParamSpec("P")
Page = Callable[Concatenate[HttpRequest, Caller, P], HttpResponse]

REFRESH_SECONDS = 15
TOOLS_A_PAGE = 100
LEASES_A_PAGE = 50
# Rows of a tool in the list of tools, and on the tool's page.
LEASES_OF_EACH, WAITING_OF_EACH, REFUSALS_OF_ALL = 5, 3, 10
WAITING_OF_ONE, REFUSALS_OF_ONE = 50, 20
OWN_LEASES = OWN_WAITS = 10
FULL_TOOLS = 20
# What a person can do about a refusal, beyond what it says.
ADVICE = {
    "exhausted": "Choose how long you want to wait, and get a place in the queue.",
    "reserved": "Choose how long you want to wait, or ask a member of the team with the reservation.",
    "quota": "Choose how long you want to wait, or ask a colleague of your team to return a seat.",
    "user_limit": "Return one of your seats: they are listed under Yours.",
    "lease_limit": "Return one of your seats, or leave a queue: they are listed under Your seats.",
    "too_many_tickets": "Leave the queue with one of your tickets: they are listed under Yours.",
    "ttl_too_long": "Choose a shorter time.",
    "key_reused": "This form was sent before, with other values. Send it again now.",
}


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


def shown(
    request: HttpRequest, template: str, caller: Caller, context: dict[str, Any], *, status: int = 200, tag: str = ""
) -> HttpResponse:
    """Return a page that refreshes itself. Its script asks only for the live part, and sends the ``tag`` back."""
    context.setdefault("here", request.get_full_path())
    context |= {"reader": caller, "refresh_seconds": REFRESH_SECONDS, "living_part": f"licenses/board/{template}"}
    whole = "X-Refresh" not in request.headers
    template = "licenses/board/page.html" if whole else "licenses/board/living.html"
    answer = render(request, template, context, status=status)
    if tag:
        answer["ETag"] = tag
    patch_vary_headers(answer, ["X-Refresh"])
    return answer


def tag_of(caller: Caller, now: datetime) -> str:
    """Return the entity tag of a page that nothing but the board's rows and the reader determine."""
    return f'W/"{queries.version(caller, minute_of(now))}"'


def minute_of(now: datetime) -> datetime:
    """Return the minute of a moment. Distances such as "5 min ago" change with it."""
    return now.replace(second=0, microsecond=0)


def is_unchanged(request: HttpRequest, tag: str) -> bool:
    """Return whether the script that refreshes a page has this state of it."""
    return "X-Refresh" in request.headers and request.headers.get("If-None-Match") == tag


def unchanged(tag: str) -> HttpResponse:
    """Return the answer to a refresh of a page that is the same as before."""
    answer = HttpResponse(status=304, headers={"ETag": tag})
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


def following(request: HttpRequest) -> str:
    """Return the page that follows a form. Raises BadRequest if it is not on this server."""
    back = request.POST.get("next") or reverse("board")
    if not (is_clean(back) and url_has_allowed_host_and_scheme(back, allowed_hosts=None)):
        raise BadRequest("The page to return to must be on this server.")
    return back


# --- Pages ------------------------------------------------------------------


@page("GET")
def overview(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Show all tools with their seats and queues, the details of some, and the latest refusals."""
    number, selection, now = page_number(request), Selection.of(request.GET), database_now()
    tag = tag_of(caller, now)
    if is_unchanged(request, tag):
        return unchanged(tag)
    account = caller.user.pk if caller.user is not None else None
    entries = queries.for_reader(queries.entries(now), caller.name, account, selection.shown)
    of_team = queries.tools_of_team(selection.team) if selection.team else set()
    chosen = selection.ordered(entry for entry in entries if selection.matches(entry, of_team))
    tools = Paginator(chosen, TOOLS_A_PAGE).get_page(number)
    full = [entry.tool for entry in entries if entry.is_full]
    listed = queries.with_people(list(tools.object_list), now, leases=LEASES_OF_EACH, waiting=WAITING_OF_EACH)
    names = names_on_board(caller)
    context = {
        "title": "Tools and their seats",
        "now": now,
        "totals": queries.totals(entries),
        "full": Listed(full[:FULL_TOOLS], len(full)),
        "selection": selection,
        "sorts": SORTS,
        "vendors": sorted({entry.tool.vendor for entry in entries if entry.tool.vendor}, key=str.casefold),
        "teams": queries.teams_to_choose(),
        "page": tools,
        "entries": listed,
        "refusals": queries.refusals(now, REFUSALS_OF_ALL),
        "names": names,
        "contacts": queries.contacts((lease for entry in listed for lease in entry.leases.rows), names),
    }
    return shown(request, "overview.html", caller, context | own(caller, now), tag=tag)


@page("GET")
def one_tool(request: HttpRequest, caller: Caller, name: str) -> HttpResponse:
    """Show one tool with all its leases, in pages, and the form for a seat."""
    tag = tag_of(caller, database_now())
    return unchanged(tag) if is_unchanged(request, tag) else tool_page(request, caller, name, tag=tag)


def tool_page(
    request: HttpRequest,
    caller: Caller,
    name: str,
    *,
    form: SeatForm | None = None,
    refusal: Refusal | None = None,
    status: int = 200,
    tag: str = "",
) -> HttpResponse:
    """Return the page of a tool; with a ``form`` that was sent, and why it was refused. Raises Http404."""
    number, now = page_number(request), database_now()
    account = caller.user.pk if caller.user is not None else None
    (entry,) = queries.for_reader([find_entry(name, now)], caller.name, account, ())
    tool, names = entry.tool, names_on_board(caller)
    leases = Paginator(queries.leases(tool, now), LEASES_A_PAGE).get_page(number)
    if form is None and caller.name and caller.user is not None:
        form = SeatForm(tool=tool, teams=queries.teams_of(caller))
    context = {
        "title": entry.name,
        "now": now,
        "entry": entry,
        "tool": tool,
        "page": leases,
        "waiting": Listed(list(queries.queue(tool, now)[:WAITING_OF_ONE]), tool.queued),
        "refusals": queries.refusals(now, REFUSALS_OF_ONE, tool),
        "names": names,
        "contacts": queries.contacts(leases.object_list, names),
        "form": form,
        "here": request.get_full_path() if status == 200 else reverse("board_tool", args=[tool.name]),
        "refused": refusal,
        "why": texts.of_refusal(refusal) if refusal is not None else "",
        "advice": ADVICE.get(refusal.code, "") if refusal is not None else "",
        "commands": commands_for(tool.name, request.build_absolute_uri(reverse("board")).rstrip("/")),
        "offer_window": timedelta(minutes=settings.LICENSE_OFFER_MINUTES),
    }
    return shown(request, "tool.html", caller, context | own(caller, now, tool), status=status, tag=tag)


def find_entry(name: str, now: datetime) -> Entry:
    """Return the tool of this name. Raises Http404."""
    entry = queries.entry(name, now) if re.fullmatch(TOOL_NAME_PATTERN, name) else None
    if entry is None:
        raise Http404("No tool has this name.")
    return entry


@page("GET")
def yours(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Show all leases of the reader, in pages."""
    if caller.user is None:
        return redirect_to_login(request.get_full_path())
    number, now = page_number(request), database_now()
    tag = tag_of(caller, now)
    if is_unchanged(request, tag):
        return unchanged(tag)
    leases = Paginator(queries.held_by(caller.name, now), LEASES_A_PAGE).get_page(number)
    context = {
        "title": "Your seats",
        "now": now,
        "page": leases,
        "own_waits": queries.waits_of(caller.name, now, LEASES_A_PAGE),
        "led_teams": teams_led_by(caller),
    }
    return shown(request, "yours.html", caller, context, tag=tag)


def own(caller: Caller, now: datetime, tool: Tool | None = None) -> dict[str, Any]:
    """Return the reader's leases and tickets."""
    if not caller.name:
        return {"own_leases": Listed(), "own_waits": Listed()}
    leases = Paginator(queries.held_by(caller.name, now, tool), OWN_LEASES).get_page(1)
    return {
        "own_leases": Listed(list(leases.object_list), leases.paginator.count),
        "own_waits": queries.waits_of(caller.name, now, OWN_WAITS, tool),
    }
