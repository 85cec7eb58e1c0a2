"""The costs of a month by mail: to those who want them and may see them, with the figures of the pages."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from licenses.models import (
    Contract,
    Delivery,
    EndReason,
    Event,
    Lease,
    Notification,
    NotificationPreference,
    Sweep,
    Team,
    TeamMember,
    Tool,
    Webhook,
)
from licenses.notifications import delivery, month_costs, occasions, preferences
from licenses.notifications.delivery import Delivered
from tests.support.groups import managers
from tests.support.receivers import HOST, MailServer, running_mail_server

pytestmark = pytest.mark.django_db

PAGE = "/notifications/"
WANTED = {(str(Event.MONTH_COSTS), None)}


@pytest.fixture(scope="module")
def shared_mail_server() -> Iterator[MailServer]:
    with running_mail_server() as mail_server:
        yield mail_server


@pytest.fixture(autouse=True)
def mail_server(shared_mail_server: MailServer, settings: Any, db: None) -> MailServer:
    """Provide a mail server that the server uses."""
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = HOST, shared_mail_server.port
    settings.EMAIL_USE_TLS, settings.DEFAULT_FROM_EMAIL = False, "Licenses <licenses@example.com>"
    settings.LICENSE_PUBLIC_URL, settings.LICENSE_CURRENCY = "https://licenses.example.com", "EUR"
    settings.LICENSE_TIME_ZONE = "Europe/Berlin"
    shared_mail_server.mails.clear()
    shared_mail_server.recipients.clear()
    return shared_mail_server


@pytest.fixture
def leases(db: None) -> list[Lease]:
    """Provide leases and contracts of the last weeks, of two teams, with and without prices."""
    now, made = timezone.now(), []
    crash, aero = Team.objects.create(name="crash"), Team.objects.create(name="aero")
    for name, price in (("cad", "2.5"), ("sim", "4"), ("free", None)):
        tool = Tool.objects.create(name=name, capacity=9, vendor="Acme & Söhne", seat_hour_price=price)
        day = now.date()
        Contract.objects.create(
            tool=tool, seats=9, price=3650, first_day=day - timedelta(99), last_day=day + timedelta(200)
        )
        for number in range(80):
            start = now - timedelta(hours=24 * number + 3)
            made.append(
                Lease(
                    tool=tool,
                    user="ana",
                    team=[crash, aero, None][number % 3],
                    project=["", "<b>x42</b>", f"p{number}"][number % 3],
                    seats=1 + number % 2,
                    borrowed_at=start,
                    ended_at=start + timedelta(hours=2),
                    end_reason=EndReason.RETURNED,
                )
            )
    return Lease.objects.bulk_create(made)


def make_manager(name: str = "mia", *, wants: bool = True) -> User:
    account = User.objects.create_user(name, f"{name}@example.com", is_staff=True)
    account.groups.add(managers())
    if wants:
        preferences.choose(account, wanted=WANTED)
    return account


def make_lead(name: str, *teams: str) -> User:
    account = User.objects.create_user(name, f"{name}@example.com")
    for team in teams:
        TeamMember.objects.create(team=Team.objects.get_or_create(name=team)[0], user=name, is_lead=True)
    preferences.choose(account, wanted=WANTED)
    return account


def a_month_passes() -> None:
    """Let the last look for notifications be of the month before this one."""
    Sweep.objects.update_or_create(
        pk=1, defaults={"finished_at": timezone.now(), "looked_at": timezone.now() - timedelta(days=40)}
    )


def sent(mail_server: MailServer) -> list[EmailMessage]:
    """Look for what is to be sent after the end of a month, send it, and return the mails."""
    a_month_passes()
    occasions.look()
    delivery.deliver()
    return mail_server.mails


def part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    text: str = body.get_content()
    return text.replace("\r\n", "\n")


def files(mail: EmailMessage) -> dict[str, str]:
    return {str(each.get_filename()): each.get_content().replace("\r\n", "\n") for each in mail.iter_attachments()}


def rows(text: str, title: str) -> dict[str, list[str]]:
    """Return the cells of a table of the text, by the first."""
    table = text[text.index(f"\n{title}\n") :].strip().partition("\n\n")[0]
    cells = [re.split(r"  +", line) for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def cells_of(html: str, title: str) -> dict[str, list[str]]:
    """Return the cells of a table of a page or of the mail, by the first."""
    section = html[html.index(f">{title}</h2>") :].partition("</table>")[0]
    cells = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", section, re.DOTALL)
    ]
    texts = [[unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in row] for row in cells]
    return {row[0]: row[1:] for row in texts if row and row[0] not in {"Total", "Vendor", "Team", "Project", "Tool"}}


def month_of(notification: Notification) -> tuple[str, str, str]:
    first = date.fromisoformat(notification.facts["first"])
    return notification.facts["first"], notification.facts["last"], f"{first:%B %Y}"


# --- Managers ---------------------------------------------------------------


def test_a_manager_gets_the_figures_of_the_page(mail_server: MailServer, leases: list[Lease], client: Client) -> None:
    mia = make_manager()
    (mail,) = sent(mail_server)
    assert mail_server.recipients == ["mia@example.com"]
    first, last, month = month_of(Notification.objects.get())
    assert mail["Subject"] == f"Costs in {month}"
    client.force_login(mia)
    page = client.get(f"/admin/reports/money/?since={first}&until={last}").content.decode()
    text, html = part(mail, "plain"), part(mail, "html")
    for name, id in (
        ("Cost of use", "total-cost"),
        ("Cost of contracts", "total-contracts"),
        ("Idle cost", "total-idle"),
        ("Seat-hours", "total-hours"),
    ):
        (figure,) = re.findall(rf'id="{id}">([^<]*)<', page)
        assert re.search(rf"^{name}: +{re.escape(figure)}$", text, re.MULTILINE), name
        assert f'<th scope="row" align="left">{name}</th><td align="right">{figure}</td>' in html
    (without,) = re.findall(r"([\d,.]+) seat-hours of tools without a price", page)
    assert f"{without} seat-hours of tools without a price are not in the cost of use" in text
    for title in ("By vendor", "By team", "By project"):
        of_page = cells_of(page, title)
        found = rows(text, title)
        assert found
        assert found.items() <= of_page.items()
        assert list(found) == list(of_page)[: len(found)]
        assert cells_of(html, title) == found
    assert rows(text, "Tools by cost").keys() == {"cad", "sim", "free"}
    assert "<b>x42" not in html
    # A mail program with dark colors needs to know that the text has none of its own.
    assert '<meta name="color-scheme" content="light dark">' in html
    assert "&lt;b&gt;x42" in html
    assert f"https://licenses.example.com/admin/reports/money/?since={first}&until={last}" in text
    assert "https://licenses.example.com/notifications/" in text


def test_the_attached_files_are_those_of_the_page(mail_server: MailServer, leases: list[Lease], client: Client) -> None:
    mia = make_manager()
    (mail,) = sent(mail_server)
    first, last, _ = month_of(Notification.objects.get())
    client.force_login(mia)
    days = f"since={first}&until={last}&tz=Europe/Berlin&format=csv"
    assert files(mail) == {
        f"{name}-{first[:7]}.csv": client.get(f"/api/v1/reports/{address}{days}").content.decode().replace("\r\n", "\n")
        for name, address in {
            "usage": "usage?by=team,project,vendor,tool&",
            "tools": "tool-costs?",
            "contracts": "contracts?",
        }.items()
    }
    assert len(files(mail)[f"usage-{first[:7]}.csv"].splitlines()) > 20


def test_a_long_table_says_where_the_rest_is(
    mail_server: MailServer, leases: list[Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(month_costs, "MOST", 2)
    make_manager()
    (mail,) = sent(mail_server)
    assert len(rows(part(mail, "plain"), "By team")) == 2
    for kind in ("plain", "html"):
        assert "2 of 3. The attached file has all." in part(mail, kind)


def test_a_long_name_does_not_widen_the_tables_of_the_text(mail_server: MailServer, leases: list[Lease]) -> None:
    Tool.objects.filter(name="cad").update(display_name=("Außenaerodynamik " * 7).strip())
    make_manager()
    (mail,) = sent(mail_server)
    rows_of_tool = [line for line in part(mail, "plain").splitlines() if line.startswith("Außen")]
    assert rows_of_tool
    for row in rows_of_tool:
        assert row[: month_costs.LONGEST_NAME].endswith("…")
    assert ("Außenaerodynamik " * 7).strip() in part(mail, "html")


def test_a_month_is_mailed_once(mail_server: MailServer, leases: list[Lease]) -> None:
    make_manager()
    make_manager("max", wants=False)
    assert len(sent(mail_server)) == 1
    # Another sweeper that has seen nothing of it, and the next rounds.
    a_month_passes()
    assert occasions.look() == 0
    assert occasions.look() == 0
    assert delivery.deliver() == Delivered()


def test_nothing_comes_within_a_month_and_at_the_first_look_of_all(mail_server: MailServer) -> None:
    make_manager()
    assert occasions.look() == 0
    assert occasions.look() == 0
    assert not Notification.objects.exists()


def test_a_month_without_use_and_tools_has_a_mail(mail_server: MailServer) -> None:
    make_manager()
    (mail,) = sent(mail_server)
    assert re.search("^Cost of use: +0.00 EUR$", part(mail, "plain"), re.MULTILINE)
    assert "By team\nNone." in part(mail, "plain")


def test_two_people_with_one_address_get_a_mail_each(mail_server: MailServer, leases: list[Lease]) -> None:
    for name in ("mia", "max"):
        User.objects.filter(pk=make_manager(name).pk).update(email="finance@example.com")
    mails = sent(mail_server)
    assert mail_server.recipients == ["finance@example.com"] * 2
    assert len({mail["Message-ID"] for mail in mails}) == 2
    assert all("Cost of use: " in part(mail, "plain") for mail in mails)


# --- Those who may not ------------------------------------------------------


def lose_the_role(account: User) -> None:
    account.groups.clear()


def lose_the_staff(account: User) -> None:
    User.objects.filter(pk=account.pk).update(is_staff=False)


def leave(account: User) -> None:
    User.objects.filter(pk=account.pk).update(is_active=False)


def move(account: User) -> None:
    User.objects.filter(pk=account.pk).update(email="new@example.com")


def change_their_mind(account: User) -> None:
    preferences.choose(account, wanted=())


CHANGES = [lose_the_role, lose_the_staff, leave, move, change_their_mind]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_right_is_asked_again_when_the_mail_is_sent(
    mail_server: MailServer, leases: list[Lease], change: Any
) -> None:
    mia = make_manager()
    a_month_passes()
    assert occasions.look() == 1
    change(mia)
    assert delivery.deliver() == Delivered()
    assert mail_server.mails == []
    row = Delivery.objects.get()
    assert row.state == "withdrawn"
    assert row.answer
    # It is no failure that an alert reports.
    levels = {channel.channel: channel.failed + channel.waiting for channel in Delivery.objects.levels(timezone.now())}
    assert levels == {"mail": 0, "webhook": 0}


@pytest.mark.parametrize("change", [lose_the_role, lose_the_staff, leave, change_their_mind])
def test_who_may_not_see_the_page_is_no_reader(mail_server: MailServer, leases: list[Lease], change: Any) -> None:
    change(make_manager())
    assert sent(mail_server) == []
    assert not Notification.objects.exists()


def test_no_webhook_gets_the_costs(mail_server: MailServer, leases: list[Lease]) -> None:
    mia = make_manager()
    chat = Webhook.objects.create(
        name="chat", host="h", sealed_url="", sealed_secret="", events=list(Event), for_people=True
    )
    NotificationPreference.objects.create(account=mia, event=Event.MONTH_COSTS, webhook=chat)
    assert len(sent(mail_server)) == 1
    assert not Delivery.objects.filter(webhook=chat).exists()


# --- Leads ------------------------------------------------------------------


def test_a_lead_gets_the_own_team_and_no_other(mail_server: MailServer, leases: list[Lease], client: Client) -> None:
    lea = make_lead("lea", "crash")
    Tool.objects.filter(name="cad").update(display_name="CAD Suite")
    (mail,) = sent(mail_server)
    first, last, month = month_of(Notification.objects.get())
    assert mail["Subject"] == f"Costs of team crash in {month}"
    client.force_login(lea)
    page = client.get(f"/teams/crash/?since={first}&until={last}").content.decode()
    text, html = part(mail, "plain"), part(mail, "html")
    (cost,) = re.findall(r"Cost of use: <b>([^<]*)</b>", page)
    assert re.search(rf"^Cost of use: +{re.escape(cost)}$", text, re.MULTILINE)
    found = rows(text, "By project")
    assert found
    assert found.items() <= cells_of(page, "By project").items()
    assert "CAD Suite" in rows(text, "By tool")
    for name, cells in rows(text, "By tool").items():
        borrows, hours, _, amount = cells_of(page, "By tool")[name]
        assert cells == [borrows, hours, amount]
    assert "aero" not in text + html + "".join(files(mail).values())
    (table,) = files(mail).values()
    assert {line.split(",")[0] for line in table.splitlines()[1:]} == {'"crash"'}
    assert f"https://licenses.example.com/teams/crash/?since={first}&until={last}" in text


def test_a_lead_of_two_teams_gets_two_mails_and_after_the_lead_of_one_ends_one(
    mail_server: MailServer, leases: list[Lease]
) -> None:
    make_lead("lea", "crash", "aero")
    a_month_passes()
    assert occasions.look() == 2
    TeamMember.objects.filter(team__name="aero").update(is_lead=False)
    delivery.deliver()
    assert [mail["Subject"].split(" in ")[0] for mail in mail_server.mails] == ["Costs of team crash"]


# --- The time ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "last_look", "now", "days"),
    [
        ("Europe/Berlin", "2026-10-31T22:59:50", "2026-10-31T23:00:05", ("2026-10-01", "2026-10-31")),
        ("Europe/Berlin", "2026-10-31T22:59:35", "2026-10-31T22:59:50", None),
        ("Europe/Berlin", "2026-10-31T23:00:05", "2026-10-31T23:00:20", None),
        ("UTC", "2026-10-31T23:00:00", "2026-10-31T23:59:59", None),
        ("Asia/Kolkata", "2027-02-28T18:00:00", "2027-02-28T18:30:00", ("2027-02-01", "2027-02-28")),
        ("UTC", "2027-12-31T12:00:00", "2028-01-03T12:00:00", ("2027-12-01", "2027-12-31")),
        ("UTC", "2026-05-20T12:00:00", "2026-10-03T12:00:00", ("2026-09-01", "2026-09-30")),
    ],
    ids=["at midnight", "before", "already done", "in UTC", "in India", "down on the first", "down for months"],
)
def test_a_month_ends_in_the_zone_of_the_site(
    settings: Any, zone: str, last_look: str, now: str, days: tuple[str, str] | None
) -> None:
    settings.LICENSE_TIME_ZONE = zone
    make_manager()
    found = month_costs.occasions(_moment(now), _moment(last_look))
    assert [(str(each.facts["first"]), str(each.facts["last"])) for each in found] == ([days] if days else [])


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- The choice -------------------------------------------------------------


def test_the_choice_is_offered_to_those_who_may_see_costs(client: Client) -> None:
    Webhook.objects.create(name="chat", host="h", sealed_url="", sealed_secret="", for_people=True)
    for account, offered in (
        (make_manager(wants=False), True),
        (make_lead("lea", "crash"), True),
        (User.objects.create_superuser("root"), True),
        (User.objects.create_user("ana"), False),
        (User.objects.create_user("otto", is_staff=True), False),
    ):
        client.force_login(account)
        page = client.get(PAGE).content.decode()
        assert re.findall(r'name="(month_costs[^"]*)"', page) == (["month_costs.mail"] if offered else [])
        client.post(f"{PAGE}save/", {"month_costs.mail": "on"})
        chosen = NotificationPreference.objects.filter(account=account, event=Event.MONTH_COSTS, wanted=True)
        assert chosen.exists() is offered


def test_the_pages_lead_to_the_choice(client: Client, leases: list[Lease], settings: Any) -> None:
    link = "Get these figures by mail each month"
    mia, lea = make_manager(wants=False), make_lead("lea", "crash")
    for account, path, shown in (
        (mia, "/admin/reports/money/", True),
        (mia, "/teams/crash/", False),
        (lea, "/teams/crash/", True),
    ):
        client.force_login(account)
        assert (link in client.get(path).content.decode()) is shown
    settings.EMAIL_HOST = ""
    assert link not in client.get("/teams/crash/").content.decode()


def test_it_is_off_unless_the_person_wants_it(client: Client) -> None:
    mia = make_manager(wants=False)
    client.force_login(mia)
    box = r'name="month_costs.mail"[^>]*checked'
    assert not re.search(box, client.get(PAGE).content.decode())
    client.post(f"{PAGE}save/", {"month_costs.mail": "on"})
    assert re.search(box, client.get(PAGE).content.decode())
    client.post(f"{PAGE}save/", {})
    assert not NotificationPreference.objects.filter(account=mia, event=Event.MONTH_COSTS).exists()


def test_administrators_choose_no_webhook_for_it(admin_client: Client) -> None:
    mia = make_manager(wants=False)
    chat = Webhook.objects.create(name="chat", host="h", sealed_url="", sealed_secret="", for_people=True)
    assert b'value="month_costs"' not in admin_client.get("/admin/licenses/webhook/add/").content
    add = "/admin/licenses/notificationpreference/add/"
    form = {"account": mia.pk, "event": "month_costs", "wanted": "on"}
    assert b"This comes only by mail." in admin_client.post(add, form | {"webhook": chat.pk}).content
    assert admin_client.post(add, form).status_code == 302
    assert NotificationPreference.objects.get(account=mia).webhook is None


def test_the_list_of_deliveries_has_no_figures(
    admin_client: Client, mail_server: MailServer, leases: list[Lease]
) -> None:
    make_manager()
    sent(mail_server)
    page = admin_client.get(f"/admin/licenses/delivery/{Delivery.objects.get().pk}/change/").content.decode()
    assert "Costs in " in page
    assert "The figures are only in the mail." in page
    assert "EUR" not in page
