"""The board: what it shows to whom, and the button that returns one's own seats.

How it behaves in a browser is in test_board_in_browser.
"""

import gzip
import re
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import F
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from licenses.models import AccessRule, Lease, Star, Team, Ticket, Tool
from tests.support.api import Api, assert_problem, make_token
from tests.support.quotas import allot

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]
PassTime = Callable[..., None]

NOTHING = "00000000-0000-4000-8000-000000000000"


class Reading(HTMLParser):
    """A page as somebody reads it: its text, and the cells of its tables' rows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.cells: list[list[str]] = []
        self.silent = self.in_cell = self.glued = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "wbr":
            # A place where a line may end is no space.
            self.glued = True
            return
        self.silent = tag in {"script", "style", "title"}
        if tag == "tr":
            self.cells.append([])
        elif tag in {"td", "th"}:
            self.cells[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.silent = False
        if tag in {"td", "th"}:
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        if self.silent:
            return
        if self.glued:
            self.words[-1] += data
        else:
            self.words.append(data)
        self.glued = False
        if self.in_cell:
            self.cells[-1][-1] += data

    @property
    def text(self) -> str:
        return squeezed(" ".join(self.words))

    @property
    def rows(self) -> list[list[str]]:
        return [[squeezed(cell) for cell in row] for row in self.cells]


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip(" ")


def page(client: Client, path: str = "/", **query: Any) -> str:
    """Return a page of the board."""
    answer = client.get(path, query)
    assert answer.status_code == 200, answer.content
    html: str = answer.content.decode()
    return html


def text(client: Client, path: str = "/", **query: Any) -> str:
    return Reading(page(client, path, **query)).text


def rows(client: Client, path: str = "/", **query: Any) -> list[list[str]]:
    return Reading(page(client, path, **query)).rows


def row_of(user: str, client: Client, path: str = "/") -> list[str]:
    """Return the only row of a user."""
    (row,) = [row for row in rows(client, path) if row[:1] == [user]]
    return row


def signed_in(name: str = "ben", **rights: Any) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_user(name, **rights))
    return client


def keep_waiting() -> None:
    """Keep all tickets in the queue, however slow this machine is."""
    Ticket.objects.update(alive_until=F("deadline"))


def press_return(client: Client, lease: Any, **more: str) -> Any:
    return client.post(f"/leases/{lease}/return/", more)


# --- What is there ----------------------------------------------------------


def test_a_tool_is_shown_with_its_seats_and_who_has_them(
    api: Api, make_tool: MakeTool, make_team: MakeTeam, pass_time: PassTime
) -> None:
    make_tool("cad", capacity=5, display_name="Body Designer")
    make_team("crash", "ana")
    api.borrow("cad", "ana", seats=2, host="ws1", project="door", team="crash", ttl_seconds=7200)
    pass_time(minutes=35)
    for path in ("/?show=cad", "/tools/cad/"):
        shown = text(api.client, path)
        assert "Body Designer" in shown
        assert "2 of 5 borrowed" in shown
        assert "3 free" in shown
        user, host, seats, team, project, since, until = row_of("ana", api.client, path)
        assert (user, host, seats, team, project) == ("ana", "ws1", "2", "crash", "door")
        assert since.endswith("35 min ago")
        assert until.endswith("in 1 h 25 min")
        borrowed_at = Lease.objects.get().borrowed_at
        assert f'datetime="{borrowed_at.isoformat(timespec="seconds")}"' in page(api.client, path)


def test_reserved_set_aside_and_overdraft_seats_are_shown_separately(
    api: Api, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    make_tool("noise", capacity=10)
    allot("noise", make_team("crash", "ana"), reservation=4)
    api.borrow("noise", "ben", seats=5)
    api.wait("noise", "cleo", seats=3)
    assert "0 free 1 set aside for the queue 4 reserved, idle" in text(api.client, show="noise")
    make_tool("thermal", capacity=2, overdraft=2)
    api.borrow("thermal", "ana", seats=2)
    api.borrow("thermal", "ben")
    for path in ("/?show=thermal", "/tools/thermal/"):
        shown = text(api.client, path)
        assert "3 of 2 borrowed" in shown
        assert "Overdrawn: 1 seat above the capacity" in shown
        assert "Overdraft: 1 of 2 used" in shown
        assert "1 1 above" in row_of("ben", api.client, "/tools/thermal/")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, ""),
        ({"enabled": False}, "Disabled: no seats are granted."),
        ({"valid_from": timedelta(days=3, hours=1)}, "The license begins on"),
        ({"valid_until": timedelta(days=-2)}, "The license ended on"),
        ({"valid_until": timedelta(days=12, hours=1)}, "The license ends on"),
        ({"valid_until": timedelta(days=31)}, ""),
        ({"capacity": 0}, "No seat free."),
        ({"capacity": 0, "overdraft": 1}, ""),
    ],
)
def test_a_closed_tool_shows_why_it_grants_no_seats(
    api: Api, make_tool: MakeTool, values: dict[str, Any], told: str
) -> None:
    now = timezone.now()
    values = {name: now + value if isinstance(value, timedelta) else value for name, value in values.items()}
    make_tool("cad", **values)
    for path in ("/?show=cad", "/tools/cad/"):
        shown = text(api.client, path)
        assert told in shown
        assert ("The license" in shown) == ("The license" in told)
        assert ("No seat free." in shown) == ("No seat" in told)
    grants = not told or told == "No seat free." or "ends" in told
    assert ("1 free" in shown or "0 free" in shown) == grants


def test_a_seat_whose_lease_is_over_is_free(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    ana = signed_in("ana")
    Api(ana).borrow("cad", "ana", ttl_seconds=60)
    assert "Yours" in text(ana)
    pass_time(minutes=2)
    for path in ("/?show=cad", "/tools/cad/"):
        shown = text(ana, path)
        assert "0 of 1 borrowed" in shown
        assert "No leases." in shown
        assert "Yours" not in shown


def test_a_lease_without_an_end_says_so(api: Api, make_tool: MakeTool) -> None:
    make_tool(default_ttl=None)
    api.borrow("cad", "ana")
    assert row_of("ana", api.client, "/?show=cad")[-1] == "returned"


def test_the_queue_is_shown_in_its_order(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    api.borrow("cad", "ana")
    for user in ("zoe", "ben", "cleo", "dora"):
        api.wait("cad", user, host=f"of-{user}")
    pass_time(seconds=5)
    places = [" ".join(row[:3]) for row in rows(api.client, "/tools/cad/") if row[0].isdigit()]
    assert places == ["1 zoe of-zoe", "2 ben of-ben", "3 cleo of-cleo", "4 dora of-dora"]
    assert "4 waiting for 4 seats" in text(api.client, "/tools/cad/")
    assert [row[1] for row in rows(api.client, show="cad") if row[0].isdigit()] == ["zoe", "ben", "cleo"]
    assert "All 4 tickets in the queue for cad" in text(api.client, show="cad")
    # A ticket without polls no longer waits.
    pass_time(minutes=1)
    assert "Nobody waits." in text(api.client, "/tools/cad/")


def test_refusals_say_why_and_how_they_ended(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad")
    make_tool("off", enabled=False)
    lease = api.borrow("cad", "ana").json()["id"]
    api.borrow("off", "early")
    pass_time(minutes=20)
    for user in ("ben", "ben", "cleo"):
        api.borrow("cad", user, host="ws1")
    pass_time(minutes=5)
    api.give_back(lease)
    api.borrow("cad", "ben")
    refused = {row[0]: row for row in rows(api.client) if "cad" in row or "off" in row}
    assert refused["early"][2:6] == ["off", "1", "Tool is disabled", "1"]
    assert refused["early"][6:] == [refused["early"][6], "No"]
    assert refused["ben"][:6] == ["ben", "ws1", "cad", "1", "No seat left", "2"]
    assert refused["ben"][7] == "Yes, after 5 min"
    assert refused["cleo"][7] == "Not yet"
    of_one = {row[0]: row for row in rows(api.client, "/tools/cad/") if "No seat left" in row}
    assert of_one.keys() == {"ben", "cleo"}
    pass_time(hours=24)
    assert "No refusals in the last 24 hours." in text(api.client)


def bar(client: Client, path: str = "/") -> list[tuple[str, float, float]]:
    """Return the kind, start and width of each part of a tool's bar."""
    found = re.findall(r'<rect class="([\w-]+)" fill="[^"]*" x="([\d.]+)%" width="([\d.]+)%"', page(client, path))
    return [(kind, float(start), float(width)) for kind, start, width in found]


def test_few_seats_are_drawn_one_by_one(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=5)
    api.borrow("cad", "ana", seats=2)
    assert [part[0] for part in bar(api.client)] == ["borrowed"] * 2 + ["free"] * 3
    assert [part[1:] for part in bar(api.client)] == [(start, 20) for start in (0, 20, 40, 60, 80)]


def test_many_seats_are_drawn_as_a_bar(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=16_384)
    api.borrow("cad", "ana", seats=4_096)
    assert bar(api.client) == [("borrowed", 0, 25), ("free", 25, 75)]
    assert "4,096 of 16,384 borrowed" in text(api.client)
    Tool.objects.update(capacity=2_048)
    assert bar(api.client) == [("borrowed", 0, 50), ("overdrawn", 50, 50)]


def test_a_tool_without_a_seat_has_an_empty_bar(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=0)
    assert bar(api.client) == []
    assert "0 of 0 borrowed" in text(api.client)


def test_a_board_without_tools_says_how_to_get_some(api: Api) -> None:
    assert "There are no tools yet." in text(api.client)


def test_long_lists_are_cut_and_lead_to_all_of_them(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=200)
    for number in range(120):
        api.borrow("cad", f"user{number:03}")
    first = [row[0] for row in rows(api.client, show="cad") if row[0].startswith("user")]
    assert first == [f"user{119 - n}" for n in range(5)]
    assert "All 120 leases of cad" in text(api.client, show="cad")
    assert "user119" not in text(api.client)
    seen = []
    for place, told in (("1", "1 to 50"), ("2", "51 to 100"), ("3", "101 to 120")):
        assert f"Leases {told} of 120" in text(api.client, "/tools/cad/", page=place)
        seen += [row[0] for row in rows(api.client, "/tools/cad/", page=place) if row[0].startswith("user")]
    assert seen == [f"user{119 - n:03}" for n in range(120)]
    # A missing page is not an error, because leases end while a user reads.
    assert "Leases 101 to 120" in text(api.client, "/tools/cad/", page="999999999")


def test_many_tools_stand_on_pages(api: Api, make_tool: MakeTool) -> None:
    for number in range(120):
        make_tool(f"tool{number:03}")
    api.borrow("tool115", "ana")
    shown = text(api.client)
    assert "120 seats of 120 tools: 1 borrowed , 119 free" in shown
    assert "Tools 1 to 100 of 120" in shown
    # Tools on other pages without a free seat are named too.
    assert "No seat free: tool115 ." in shown
    assert "tool119" not in shown
    assert "tool119" in text(api.client, page="2")
    assert '<a id="next" rel="next" href="?q=tool&amp;page=2">' in page(api.client, q="tool")


def names_shown(client: Client, **query: Any) -> list[str]:
    """Return the names of the tools on the board, in their order."""
    return re.findall(r'id="tool-([^"]+)"', page(client, **query))


def test_tools_can_be_looked_for(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", display_name="Body Designer", vendor="Acme")
    make_tool("sim", vendor="Other & Sons")
    for search in ("CAD", "body", "acme"):
        assert names_shown(api.client, q=search) == ["cad"]
    assert names_shown(api.client, vendor="Other & Sons") == ["sim"]
    assert "No tool matches." in text(api.client, q="nope")
    assert "Shown: 0 tools." in text(api.client, vendor="nobody")
    assert names_shown(api.client) == ["cad", "sim"]


def test_tools_with_a_free_seat_can_be_chosen(api: Api, make_tool: MakeTool) -> None:
    for name in ("full", "free"):
        make_tool(name)
    make_tool("above", overdraft=1)
    make_tool("off", enabled=False)
    for name in ("full", "above"):
        api.borrow(name)
    assert names_shown(api.client, free="1") == ["above", "free"]


def test_tools_of_a_team_can_be_chosen(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    crash = make_team("crash", "ana")
    for name in ("used", "reserved", "allowed", "other", "excluded"):
        make_tool(name, capacity=3)
    api.borrow("used", "ana", team="crash")
    allot("reserved", crash, reservation=1)
    AccessRule.objects.create(tool=Tool.objects.get(name="allowed"), effect="include", kind="team", team=crash)
    AccessRule.objects.create(tool=Tool.objects.get(name="excluded"), effect="exclude", kind="team", team=crash)
    api.borrow("other", "zoe")
    assert names_shown(api.client, team="crash") == ["allowed", "reserved", "used"]
    assert names_shown(api.client, team="nobody") == []


def test_teams_have_their_names_for_people(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool("cad", capacity=1)
    for name in ("crash", "noise"):
        make_team(name, "ana")
    Team.objects.filter(name="crash").update(display_name="Vehicle Safety")
    api.borrow(user="ana", team="crash", ttl_seconds=3600)
    api.borrow(user="ana", team="crash", wait_seconds=60)
    keep_waiting()
    ana = signed_in("ana")
    for path in ("/", "/?show=cad", "/tools/cad/", "/yours/"):
        # Those of the lists; the choices have both.
        cells = [cell for row in rows(ana, path) for cell in row]
        assert "crash" not in cells
        assert path == "/" or "Vehicle Safety" in cells
    for path in ("/", "/tools/cad/"):
        assert '<option value="crash">Vehicle Safety</option>' in page(ana, path)
        assert '<option value="noise">noise</option>' in page(ana, path)


def test_a_column_without_a_value_is_left_out(
    api: Api, make_tool: MakeTool, make_team: MakeTeam, pass_time: PassTime, settings: Any
) -> None:
    make_tool("cad", capacity=3)

    def columns() -> list[str]:
        (heads,) = [row for row in rows(api.client, "/tools/cad/") if row[:1] == ["User"]]
        return heads

    api.borrow(user="ana", ttl_seconds=3600)
    assert columns() == ["User", "Seats", "Since", "Until"]
    make_team("crash", "ben")
    lease = api.borrow(user="ben", team="crash", host="ws1", project="door", ttl_seconds=3600).json()["id"]
    assert columns() == ["User", "Host", "Seats", "Team", "Project", "Since", "Until"]
    pass_time(minutes=1)
    api.renew(lease)
    assert columns() == ["User", "Host", "Seats", "Team", "Project", "Since", "Heartbeat", "Until"]
    assert {len(row) for row in rows(api.client, "/tools/cad/") if row} == {8}
    # No host is shown without the name of its user.
    settings.LICENSE_SHOW_HOLDERS = "nobody"
    assert "Host" not in columns()


def test_own_tools_can_be_chosen(api: Api, make_tool: MakeTool) -> None:
    ben = signed_in("ben")
    for name in ("held", "waited", "starred", "other"):
        make_tool(name)
    api.borrow("held", "ben")
    api.borrow("waited", "ana")
    api.wait("waited", "ben")
    keep_waiting()
    press_star(ben, "starred")
    assert names_shown(ben, mine="1") == ["starred", "held", "waited"]
    assert names_shown(signed_in("eve"), mine="1") == []
    assert "you have 1" in text(ben)
    assert "you wait" in text(ben)


def test_tools_are_sorted_by_what_the_reader_chooses(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("a", capacity=2, display_name="Zeta")
    make_tool("b", capacity=9)
    make_tool("c", capacity=1)
    make_tool("d", capacity=4, enabled=False)
    for tool, seats, hours in (("a", 2, 1), ("b", 3, 2), ("c", 1, 2)):
        lease = api.borrow(tool, seats=seats).json()["id"]
        pass_time(hours=hours)
        api.give_back(lease)
    for tool, seats in (("a", 2), ("b", 3), ("c", 1)):
        api.borrow(tool, seats=seats)
    api.wait("c")
    keep_waiting()
    assert names_shown(api.client) == ["b", "c", "d", "a"]
    assert names_shown(api.client, sort="free") == ["b", "c", "d", "a"]
    assert names_shown(api.client, sort="queue")[0] == "c"
    assert names_shown(api.client, sort="use") == ["c", "a", "b", "d"]
    # A free seat, half an hour, four hours, never.
    assert names_shown(api.client, sort="expected") == ["b", "a", "c", "d"]


def test_a_tool_without_a_free_seat_says_when_one_is_expected(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool("cad", capacity=2)
    assert " now " in text(api.client)
    leases = [api.borrow(user=f"user{number}").json()["id"] for number in range(2)]
    assert "unknown" in text(api.client)
    assert "there is no estimate" in text(api.client, "/tools/cad/")
    pass_time(hours=3)
    api.give_back(leases[0])
    api.borrow(user="ana")
    assert "about 1 h 30 min" in text(api.client)
    for path in ("/?show=cad", "/tools/cad/"):
        shown = text(api.client, path)
        assert "People hold a seat for about 3 h." in shown
        assert "can expect a seat in about 1 h 30 min. This is an estimate" in shown


def test_the_estimate_is_that_of_the_queue(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", capacity=3)
    leases = [api.borrow(user=f"user{number}").json()["id"] for number in range(3)]
    pass_time(minutes=90)
    api.give_back(leases[0])
    api.borrow(user="ana")
    api.wait(user="cleo")
    keep_waiting()
    assert "about 1 h Details" in text(api.client)
    expected = api.borrow(user="zoe", wait_seconds=600).json()["eta_seconds"]
    assert 3600 <= expected < 3660


def test_a_heartbeat_is_shown_where_a_program_sends_them(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", capacity=2)
    lease = api.borrow(user="ana", ttl_seconds=3600).json()["id"]
    api.borrow(user="ben")
    pass_time(minutes=10)
    api.renew(lease)
    pass_time(minutes=4)
    assert row_of("ana", api.client, "/tools/cad/")[-2] == "4 min ago"
    assert row_of("ben", api.client, "/tools/cad/")[-2] == ""


# --- Stars ------------------------------------------------------------------


def press_star(client: Client, tool: str, starred: str = "1", **more: str) -> Any:
    return client.post(f"/tools/{tool}/star/", {"starred": starred, **more})


def test_starred_tools_come_first_for_their_account_only(api: Api, make_tool: MakeTool) -> None:
    ben, eve = signed_in("ben"), signed_in("eve")
    for name in ("a", "b", "c"):
        make_tool(name)
    assert press_star(ben, "c", next="/?sort=free")["Location"] == "/?sort=free"
    press_star(ben, "c")
    assert names_shown(ben) == ["c", "a", "b"]
    assert names_shown(ben, sort="free")[0] == "c"
    assert names_shown(eve) == names_shown(Client()) == ["a", "b", "c"]
    assert 'aria-pressed="true"' in page(ben)
    press_star(ben, "c", "0")
    assert names_shown(ben) == ["a", "b", "c"]


def test_nobody_stars_without_an_account(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    assert press_star(Client(), "cad")["Location"] == "/signin/?next=/"
    assert Star.objects.count() == 0
    assert press_star(signed_in(), "nope").status_code == 404


# --- Contacts ---------------------------------------------------------------


def test_the_mail_of_a_holder_is_linked_where_the_site_allows_it(api: Api, make_tool: MakeTool, settings: Any) -> None:
    make_tool("cad", capacity=3)
    User.objects.create_user("ana", email="ana+cad@example.com")
    User.objects.create_user("gone", email="gone@example.com", is_active=False)
    for user in ("ana", "gone", "program"):
        api.borrow(user=user)
    settings.LICENSE_SHOW_CONTACTS = False
    assert "mailto:" not in page(api.client, "/tools/cad/")
    settings.LICENSE_SHOW_CONTACTS = True
    ana = Client()
    ana.force_login(User.objects.get(username="ana"))
    for path in ("/tools/cad/", "/?show=cad"):
        assert re.findall(r'href="(mailto:[^"]*)"', page(api.client, path)) == ["mailto:ana%2Bcad@example.com"]
        # Nobody writes to themselves.
        assert "mailto:" not in page(ana, path)
    settings.LICENSE_SHOW_HOLDERS = "nobody"
    assert "mailto:" not in page(signed_in("ben"), "/tools/cad/")


# --- Refreshes --------------------------------------------------------------


def refresh(client: Client, path: str, tag: str = "") -> Any:
    return client.get(path, headers={"X-Refresh": "1"} | ({"If-None-Match": tag} if tag else {}))


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the minute of the board's tag stay the same."""
    monkeypatch.setattr("licenses.board.views.minute_of", lambda now: now.replace(minute=0, second=0, microsecond=0))


@pytest.mark.parametrize("path", ["/", "/?show=cad", "/tools/cad/", "/yours/"])
def test_a_refresh_of_an_unchanged_page_is_empty_and_cheap(
    api: Api, make_tool: MakeTool, still: None, path: str
) -> None:
    make_tool("cad", capacity=3)
    ben = signed_in()
    api.borrow()
    tag = refresh(ben, path)["ETag"]
    with CaptureQueriesContext(connection) as queries:
        answer = refresh(ben, path, tag)
    assert (answer.status_code, answer.content, answer["ETag"]) == (304, b"", tag)
    assert len(queries) <= 8
    # The page itself is always sent.
    assert ben.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_every_change_of_the_board_is_sent(api: Api, make_tool: MakeTool, still: None) -> None:
    make_tool()
    ben = signed_in()
    lease, tickets = "", []

    def borrow() -> None:
        nonlocal lease
        lease = api.borrow().json()["id"]

    changes: list[Callable[[], Any]] = [
        borrow,
        lambda: api.borrow(user="refused"),
        lambda: tickets.append(api.wait(user="ben")),
        lambda: api.give_back(lease),
        lambda: api.leave(tickets[0]),
        lambda: press_star(ben, "cad"),
        lambda: Tool.objects.update(display_name="Other"),
        lambda: make_tool("sim"),
    ]
    for change in changes:
        tag = refresh(ben, "/")["ETag"]
        assert refresh(ben, "/", tag).status_code == 304
        change()
        assert refresh(ben, "/", tag).status_code == 200


def test_names_from_outside_are_text_and_nothing_else(
    api: Api, make_tool: MakeTool, make_team: MakeTeam, settings: Any
) -> None:
    hostile = '"><script>alert(1)</script>'
    settings.LICENSE_AUTH = "open"
    make_tool("cad", display_name=hostile, vendor=hostile)
    api.borrow("cad", hostile, host=hostile, project=hostile)
    api.wait("cad", hostile, host=hostile, project=hostile)
    api.borrow("cad", hostile + "2", host=hostile)
    client = Client()
    client.force_login(User.objects.create_user(hostile))
    make_token(user=hostile, name=hostile)
    for query in ({"show": "cad"}, {"q": hostile[:10], "vendor": hostile, "team": hostile}):
        assert "<script>" not in page(client, "/", **query)
    for path in ("/", "/tools/cad/", "/yours/", "/tokens/"):
        html = page(client, path).replace("<wbr>", "")
        assert "<script>" not in html
        assert "alert(1)&lt;/script&gt;" in html
    assert text(client, "/tools/cad/").count(hostile) >= 8


@pytest.mark.parametrize("path", ["/", "/tools/cad/", "/yours/", "/tokens/", "/nope", "/tools/nope/", "/?page=x"])
def test_a_page_may_load_only_from_this_server(api: Api, make_tool: MakeTool, path: str) -> None:
    make_tool()
    client = signed_in()
    Api(client).borrow("cad", "ben")
    answer = client.get(path)
    policy = dict(part.split(" ", 1) for part in answer["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "form-action": "'self'",
    }
    html = answer.content.decode()
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", html)
    assert not re.search(r"(src|href)=\"(https?:)?//", html)
    if answer.status_code == 200:
        assert "no-store" in answer["Cache-Control"]


def test_a_page_is_compressed_for_browsers_that_accept_it(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    answer = api.client.get("/", headers={"Accept-Encoding": "gzip"})
    assert answer["Content-Encoding"] == "gzip"
    assert b"License board" in gzip.decompress(answer.content)


def test_a_refresh_gets_only_the_live_part(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    client = signed_in()
    lease = Api(client).borrow("cad", "ben").json()["id"]
    press_return(client, lease)
    living = client.get("/", headers={"X-Refresh": "1"})
    assert living.content.decode().strip().startswith('<div id="live"')
    assert "X-Refresh" in living["Vary"]
    # The message for the reader is kept for the next page.
    assert "Returned: 1 seat of cad." in text(client)
    assert "Returned" not in text(client)


# --- In a bounded number of statements --------------------------------------


def statements(client: Client, path: str) -> int:
    client.get(path)
    with CaptureQueriesContext(connection) as queries:
        assert client.get(path).status_code == 200
    return len(queries)


PAGES = ("/", "/?show=tool0&show=tool1&mine=1&sort=expected", "/?team=team0", "/tools/tool0/", "/yours/")


def test_the_number_of_statements_does_not_grow(make_tool: MakeTool, make_team: MakeTeam, api: Api) -> None:
    client = signed_in()

    def fill(tools: range, leases: int) -> None:
        for number in tools:
            make_tool(f"tool{number}", capacity=leases + 3, user_limit=10_000)
            allot(f"tool{number}", make_team(f"team{number}", "ben", f"user{number}"), reservation=2)
            for lease in range(leases):
                api.borrow(f"tool{number}", "ben" if lease % 2 else f"user{number}")
            api.borrow_set((f"tool{number}", 1), ("tool0", 1), user="ben")
            api.borrow(f"tool{number}", "zoe", seats=leases + 1)
            for user in ("ben", "cleo", f"user{number}"):
                api.borrow(f"tool{number}", user, seats=leases + 1, wait_seconds=600)
        keep_waiting()

    fill(range(2), 2)
    before = [statements(client, path) for path in PAGES]
    fill(range(2, 24), 8)
    assert [statements(client, path) for path in PAGES] == before
    assert max(before) <= 28


# --- For whom ---------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/?page=2", "/tools/cad/", "/tools/nope/", "/yours/", "/tokens/"])
def test_a_reader_without_a_session_is_sent_to_sign_in_and_back(required: None, make_tool: MakeTool, path: str) -> None:
    make_tool()
    client = Client()
    answer = client.get(path)
    address = urlsplit(answer["Location"])
    assert (answer.status_code, address.path, parse_qs(address.query)["next"]) == (302, "/signin/", [path])
    User.objects.create_user("ben", password="a long pass phrase")
    signed = client.post(answer["Location"], {"username": "ben", "password": "a long pass phrase"})
    assert signed["Location"] == path


def test_a_sign_in_leads_to_the_board(required: None, db: None) -> None:
    User.objects.create_user("ben", password="a long pass phrase")
    answer = Client().post("/signin/", {"username": "ben", "password": "a long pass phrase"}, follow=True)
    assert answer.redirect_chain == [("/", 302)]
    assert "Signed in as ben" in Reading(answer.content.decode()).text


def test_a_locked_account_sees_nothing(required: None, db: None) -> None:
    client = signed_in()
    assert client.get("/").status_code == 200
    User.objects.update(is_active=False)
    assert client.get("/").status_code == 302


def test_a_token_is_no_session(required: None, api: Api) -> None:
    answer = Client(headers={"Authorization": "Bearer lic_" + "x" * 43}).get("/")
    assert answer.status_code == 302


def test_an_open_board_is_for_everybody_to_read(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    api.borrow("cad", "ana")
    html = page(Client())
    assert "Sign in" in html
    assert '<form method="post"' not in html
    assert "Yours" not in html
    assert "Sign in to get a seat here." in text(Client(), "/tools/cad/")


def test_signed_in_users_see_their_own_seats_first(
    required: None, api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool("cad", capacity=2)
    make_tool("sim", capacity=3)
    ben = signed_in("ben")
    lease = Api(ben).borrow_set(("cad", 1), ("sim", 2), user="ben", host="ws1").json()["id"]
    ana = signed_in("ana")
    Api(ana).borrow("cad", "ana")
    Api(ana).wait("cad", "ana")
    keep_waiting()
    for path in ("/", "/tools/cad/", "/tools/sim/", "/yours/"):
        assert rows(ben, path)[1][:2] == ["1 of cad, 2 of sim", "ws1"]
        assert re.findall(r'action="/leases/([^/]+)/return/"', page(ben, path)) == [lease]
    assert "ben you" in text(ben, show="cad")
    assert "ana you" not in text(ben, show="cad")
    assert "You wait for 1 seat of cad : position 1" in text(ana)
    assert "You wait" not in text(ana, "/tools/sim/")
    assert "1 of cad" not in text(ana, "/tools/sim/")
    assert "/return/" not in page(signed_in("eve"))


def test_more_own_seats_than_are_shown_have_a_page(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=60)
    ben = signed_in()
    for _ in range(55):
        Api(ben).borrow("cad", "ben")
    assert page(ben).count("/return/") == 10
    assert "All your 55 leases" in text(ben)
    assert page(ben, "/yours/").count("/return/") == 50
    assert page(ben, "/yours/", page="2").count("/return/") == 5
    assert Client().get("/yours/").status_code == 302


def test_a_name_that_no_lease_can_be_held_under_has_none(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    client = signed_in("x" * 100)
    assert "Yours" not in text(client)
    assert "You have no seats." in text(client, "/yours/")
    assert press_return(client, NOTHING).status_code == 404


def test_the_way_to_the_admin_is_shown_to_staff(db: None) -> None:
    assert 'href="/admin/"' in page(signed_in("ana", is_staff=True))
    assert 'href="/admin/"' not in page(signed_in("ben"))
    assert 'href="/api/docs/"' in page(signed_in("cleo"))


def test_one_signs_out_by_a_button(required: None, db: None) -> None:
    client = signed_in()
    assert re.search(r'<form method="post" action="/signout/">.*Sign out', page(client))
    client.post("/signout/")
    assert client.get("/").status_code == 302


# --- Returning --------------------------------------------------------------


def is_out(lease: Any) -> bool:
    return Lease.objects.get(pk=lease).ended_at is None


def test_a_button_returns_own_seats(required: None, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=2)
    make_tool("sim", capacity=3)
    ben = signed_in()
    lease = Api(ben).borrow_set(("cad", 1), ("sim", 2), user="ben").json()["id"]
    answer = press_return(ben, lease, next="/tools/sim/?page=1")
    assert (answer.status_code, answer["Location"]) == (302, "/tools/sim/?page=1")
    assert "Returned: 1 seat of cad, 2 seats of sim." in text(ben)
    assert list(Lease.objects.values_list("end_reason", flat=True)) == ["returned", "returned"]
    assert list(Tool.objects.values_list("borrowed", flat=True)) == [0, 0]


def test_to_return_twice_is_harmless(make_tool: MakeTool, api: Api) -> None:
    make_tool()
    ben = signed_in()
    lease = Api(ben).borrow("cad", "ben").json()["id"]
    press_return(ben, lease)
    ended_at = Lease.objects.get().ended_at
    text(ben)
    assert press_return(ben, lease)["Location"] == "/"
    assert "Already ended: 1 seat of cad. It was returned." in text(ben)
    assert Lease.objects.get().ended_at == ended_at


def test_an_expired_lease_says_why_it_ended(make_tool: MakeTool, api: Api, pass_time: PassTime) -> None:
    make_tool()
    ben = signed_in()
    lease = Api(ben).borrow("cad", "ben", ttl_seconds=60).json()["id"]
    pass_time(minutes=2)
    press_return(ben, lease)
    assert "Already ended: 1 seat of cad. No heartbeat came in time" in text(ben)
    assert Lease.objects.get().end_reason == "expired"


@pytest.mark.parametrize("mode", ["open", "required"])
@pytest.mark.parametrize("rights", [{}, {"is_superuser": True, "is_staff": True}])
def test_nobody_returns_the_seats_of_another_user(
    api: Api, make_tool: MakeTool, settings: Any, mode: str, rights: dict[str, bool]
) -> None:
    make_tool()
    lease = api.borrow("cad", "ana").json()["id"]
    settings.LICENSE_AUTH = mode
    ben = signed_in("ben", **rights)
    answer = press_return(ben, lease)
    assert answer.status_code == 404
    # It looks like a missing page.
    pages = [found.content.decode() for found in (answer, press_return(ben, NOTHING))]
    assert len({re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", page) for page in pages}) == 1
    assert is_out(lease)


def test_a_part_of_a_set_is_not_returned_by_itself(make_tool: MakeTool, api: Api) -> None:
    make_tool("cad")
    make_tool("sim")
    ben = signed_in()
    Api(ben).borrow_set(("cad", 1), ("sim", 1), user="ben")
    part = Lease.objects.get(part_of__isnull=False)
    assert press_return(ben, part.pk).status_code == 404
    assert is_out(part.pk)


@pytest.mark.parametrize("mode", ["open", "required"])
def test_a_reader_without_a_session_returns_nothing(api: Api, make_tool: MakeTool, settings: Any, mode: str) -> None:
    make_tool()
    lease = api.borrow("cad", "ana").json()["id"]
    settings.LICENSE_AUTH = mode
    answer = press_return(Client(), lease)
    assert (answer.status_code, answer["Location"]) == (302, "/signin/?next=/")
    assert is_out(lease)


def test_another_site_can_press_no_button(make_tool: MakeTool, api: Api) -> None:
    make_tool()
    ben = Client(enforce_csrf_checks=True, raise_request_exception=False)
    ben.force_login(User.objects.create_user("ben"))
    lease = api.borrow("cad", "ben").json()["id"]
    answer = press_return(ben, lease)
    assert answer.status_code == 403
    assert "Back to the board" in Reading(answer.content.decode()).text
    assert is_out(lease)
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page(ben))
    assert found
    assert press_return(ben, lease, csrfmiddlewaretoken=found[1]).status_code == 302
    assert not is_out(lease)


@pytest.mark.parametrize(
    "following",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\n/x", "\0"],
)
def test_nobody_is_sent_elsewhere_after_a_return(make_tool: MakeTool, api: Api, following: str) -> None:
    make_tool()
    ben = signed_in()
    lease = Api(ben).borrow("cad", "ben").json()["id"]
    assert_page_of_error(press_return(ben, lease, next=following), 400)
    assert is_out(lease)


# --- What makes no sense ----------------------------------------------------


def assert_page_of_error(answer: Any, status: int) -> None:
    assert answer.status_code == status
    assert answer["Content-Type"] == "text/html; charset=utf-8"
    shown = Reading(answer.content.decode()).text
    assert "License board" in shown
    assert "Back to the board" in shown


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/?page=abc", 400),
        ("/?page=0", 400),
        ("/?page=-1", 400),
        ("/?page=1.5", 400),
        ("/?page=", 400),
        ("/?page=%EF%BC%91", 400),
        ("/?page=%00", 400),
        ("/?page=" + "9" * 5000, 400),
        ("/tools/cad/?page=abc", 400),
        ("/yours/?page=abc", 400),
        ("/?q=%00", 400),
        ("/?q=a%0Ab", 400),
        ("/?q=" + "x" * 65, 400),
        ("/?vendor=%00", 400),
        ("/?team=a%0Ab", 400),
        ("/?sort=price", 400),
        ("/tools/nope/get/", 405),
        ("/tools/cad/star/", 405),
        (f"/tickets/{NOTHING}/take/", 405),
        (f"/tickets/{NOTHING}/leave/", 405),
        ("/tools/nope/", 404),
        ("/tools/CAD/", 404),
        ("/tools/a%00b/", 404),
        ("/tools/..%2Fcad/", 404),
        ("/tools/" + "x" * 5000 + "/", 404),
        ("/tools/' OR 1=1 --/", 404),
        ("/nonsense", 404),
        ("/leases/1/return/", 404),
        (f"/leases/{NOTHING}/return/", 405),
    ],
)
def test_an_address_that_makes_no_sense_gets_a_page_that_says_so(make_tool: MakeTool, path: str, status: int) -> None:
    make_tool()
    assert_page_of_error(signed_in().get(path), status)


@pytest.mark.parametrize("path", ["/", "/tools/cad/", "/yours/"])
def test_the_pages_are_for_reading(make_tool: MakeTool, path: str) -> None:
    make_tool()
    client = signed_in()
    answer = client.post(path, {"x": "y"})
    assert_page_of_error(answer, 405)
    assert answer["Allow"] == "GET, HEAD"
    assert client.head(path).status_code == 200


def test_errors_of_the_api_stay_problem_documents(api: Api) -> None:
    for path in ("/api/v1/nope", "/licenses/nope"):
        assert_problem(api.client.get(path), 404)


@pytest.mark.parametrize("path", ["/", "/tools/cad/"])
def test_a_failing_database_is_reported_on_a_page(make_tool: MakeTool, path: str) -> None:
    make_tool()
    client = signed_in()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE licenses_denial RENAME TO licenses_elsewhere")
    answer = client.get(path)
    assert_page_of_error(answer, 503)
    assert answer["Retry-After"] == "30"
