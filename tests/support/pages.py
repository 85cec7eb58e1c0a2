"""Name each page of the server, for the pictures (scripts/screenshots.py) and for the checks in a browser.

The addresses are those of ``tests.support.example_site``.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import httpx

from tests.support.example_settings import ADMINISTRATOR, ANA, VISITOR

if TYPE_CHECKING:
    from playwright.sync_api import Page

LICENSE_FILE = b"INCREMENT mesher acme 1.0 permanent 12\nINCREMENT post acme 1.0 permanent 2\nNONSENSE here\n"
# Lists of the admin, and those of them to which one can add a row.
LISTS_WITH_FORMS = (
    *("tool", "contract", "team", "teammember", "allotment", "userlimit", "accessrule", "apitoken", "identity"),
    *("webhook", "notificationpreference"),
)
LISTS = (*LISTS_WITH_FORMS, "jwtcaller", "retiredname", "lease", "ticket", "denial", "auditrecord", "delivery")
WITH_LINES = ("accessrule", "userlimit", "teammember")
OF_ACCOUNTS = ("user", "group")


@dataclass(frozen=True)
class Shown:
    """A page: its view, an address, its reader, and what the reader does at the address until the page is there."""

    view: str
    path: str
    reader: str = ANA
    act: "Callable[[Page], object] | None" = None

    @property
    def name(self) -> str:
        """Return a name for files and tests."""
        act = getattr(self.act, "func", self.act)
        acted = f" {act.__name__}" if act is not None else ""
        arguments = "".join(f" {value}" for value in getattr(self.act, "args", ()))
        text = f"{self.reader or 'visitor'}{self.path}{acted}{arguments}"
        return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


# --- What a reader does ------------------------------------------------------


def return_a_seat(page: "Page") -> None:
    _click(page, "button[id^=return-]")


def get_a_seat(page: "Page") -> None:
    _click(page, "#get-button")


def get_no_seat(page: "Page") -> None:
    _let_send_anything(page, "form.get")
    page.locator("#id_seats").fill("0")
    get_a_seat(page)


def send_too_much(page: "Page") -> None:
    field = page.locator("#id_project")
    field.evaluate("field => { field.removeAttribute('maxlength'); field.value = 'p'.repeat(70000); }")
    get_a_seat(page)


def create_a_token(page: "Page") -> None:
    page.get_by_label("Name").fill("nightly build of the body")
    _click(page, "form.stacked button")


def create_a_token_without_a_name(page: "Page") -> None:
    _let_send_anything(page, "form.stacked")
    _click(page, "form.stacked button")


def open_a_code(page: "Page") -> None:
    form = {"client_id": "license", "device_name": "ws-17"}
    url = page.url.partition("/device/")[0]
    code = httpx.post(f"{url}/api/v1/login/device", data=form).raise_for_status().json()["user_code"]
    page.goto(f"{url}/device/?code={code}")


def answer_a_code(answer: str, page: "Page") -> None:
    open_a_code(page)
    _click(page, f"button[value={answer}]")


def sign_in_with_a_wrong_password(page: "Page") -> None:
    page.fill("[name=username]", "hugo")
    page.fill("[name=password]", "wrong")
    _click(page, "#login-form [type=submit]")


def open_the_first_row(page: "Page") -> None:
    _click(page, "#result_list tbody th a")


def choose(action: str, page: "Page") -> None:
    page.locator("#result_list [name=_selected_action]").first.check()
    page.select_option("select[name=action]", action)
    _click(page, ".actions button")


def follow(link: str, page: "Page") -> None:
    open_the_first_row(page)
    _click(page, f"#content-main a:has-text('{link}')")


def save_an_empty_form(page: "Page") -> None:
    _let_send_anything(page, "#content-main form")
    _click(page, "[name=_save]")


def upload(page: "Page") -> None:
    page.set_input_files("[name=license]", {"name": "acme.lic", "mimeType": "text/plain", "buffer": LICENSE_FILE})
    _click(page, ".submit-row input")


def save_a_token(page: "Page") -> None:
    ends = datetime.now(UTC) + timedelta(days=30)
    page.locator("[name=name]").fill("scheduler")
    page.locator("[name=user]").fill("ana")
    page.locator("[name=may_read]").check()
    page.locator("[name=expires_at_0]").fill(f"{ends:%Y-%m-%d}")
    page.locator("[name=expires_at_1]").fill("12:00:00")
    _click(page, "[name=_save]")


def save_a_webhook(page: "Page") -> None:
    page.locator("[name=name]").fill(f"dashboard {datetime.now(UTC):%H:%M:%S.%f}")
    page.locator("[name=address]").fill("https://dashboard.example.com/hook")
    _click(page, "[name=_save]")


def _click(page: "Page", selector: str) -> None:
    """Click on the first of these, and wait for the next page, which can have the same address."""
    with page.expect_navigation():
        page.locator(selector).first.click()


def _let_send_anything(page: "Page", form: str) -> None:
    """Let the browser send a form that it would refuse."""
    page.locator(form).first.evaluate("form => { form.noValidate = true; }")


# --- The pages ---------------------------------------------------------------


def _board() -> Iterator[Shown]:
    yield Shown("board", "/", VISITOR)
    yield Shown("board", "/?free=1&sort=free", VISITOR)
    yield Shown("board_tool", "/tools/cad_tool/", VISITOR)
    yield Shown("signin", "/signin/", VISITOR)
    yield Shown("signin", "/signin/", VISITOR, sign_in_with_a_wrong_password)
    for query in ("", "?show=simulation&show=crash_solver", "?vendor=Fabrikam+EDA", "?mine=1", "?q=nothing"):
        yield Shown("board", f"/{query}")
    for tool in ("simulation", "cad_tool", "viewer", "crash_solver", "plotter_driver", "optimizer"):
        yield Shown("board_tool", f"/tools/{tool}/")
    yield Shown("board_get", "/tools/plotter_driver/", act=get_a_seat)
    yield Shown("board_get", "/tools/viewer/", act=get_no_seat)
    yield Shown("board_get", "/tools/viewer/", act=send_too_much)
    yield Shown("board_return", "/tools/cad_tool/", act=return_a_seat)
    yield Shown("board_yours", "/yours/")
    yield Shown("board_team", "/teams/crash/")
    yield Shown("board_notifications", "/notifications/")
    yield Shown("tokens", "/tokens/")
    yield Shown("tokens_new", "/tokens/", act=create_a_token)
    yield Shown("tokens_new", "/tokens/", act=create_a_token_without_a_name)
    yield Shown("device", "/device/")
    yield Shown("device", "/device/?code=nonsense")
    yield Shown("device", "/device/", act=open_a_code)
    for answer in ("approve", "deny"):
        yield Shown("device_answer", "/device/", act=partial(answer_a_code, answer))


def _admin() -> Iterator[Shown]:
    yield Shown("admin:login", "/admin/login/", VISITOR)
    yield from (
        _of_admin(view, path)
        for view, path in (
            ("index", ""),
            ("app_list", "licenses/"),
            ("password_change", "password_change/"),
            ("password_change_done", "password_change/done/"),
            ("licenses_reports", "reports/"),
            ("licenses_money", "reports/money/"),
            ("licenses_report_table", "reports/tables/tool-costs/"),
            ("licenses_report", "reports/mesher/?capacity=6,8,10"),
            ("licenses_report", "reports/mesher/?capacity=x"),
            ("licenses_flexlm", "flexlm/"),
            ("licenses_person", "person/"),
            ("licenses_person", "person/?user=ana"),
            ("licenses_person", "person/?user=an"),
            ("licenses_person_left", "person/left/?user=ana"),
        )
    )
    yield _of_admin("licenses_flexlm", "flexlm/", upload)
    for app, rows in (*(("licenses", rows) for rows in LISTS), *(("auth", rows) for rows in OF_ACCOUNTS)):
        path, names = f"{app}/{rows}/", f"{app}_{rows}"
        yield _of_admin(f"{names}_changelist", path)
        yield _of_admin(f"{names}_change", path, open_the_first_row)
        if rows in LISTS_WITH_FORMS or app == "auth":
            yield _of_admin(f"{names}_add", f"{path}add/")
        if rows in WITH_LINES:
            yield _of_admin(f"{names}_lines", f"{path}lines/")
    yield _of_admin("licenses_tool_changelist", "licenses/tool/?q=nothing")
    yield _of_admin("licenses_tool_add", "licenses/tool/add/", save_an_empty_form)
    yield _of_admin("licenses_auditrecord_changelist", "licenses/tool/", partial(follow, "History"))
    yield _of_admin("licenses_lease_changelist", "licenses/lease/?user=ana", partial(choose, "force_return"))
    yield _of_admin("licenses_team_changelist", "licenses/team/", partial(choose, "delete_selected"))
    yield _of_admin("licenses_team_delete", "licenses/team/", partial(follow, "Delete"))
    yield _of_admin("licenses_apitoken_add", "licenses/apitoken/add/", save_a_token)
    yield _of_admin("licenses_webhook_add", "licenses/webhook/add/", save_a_webhook)
    yield _of_admin("auth_user_changelist", "auth/user/?q=ana", partial(choose, "deactivate"))
    yield _of_admin("auth_user_delete", "auth/user/?q=ana", partial(follow, "Delete"))
    yield _of_admin("auth_user_password_change", "auth/user/?q=ana", partial(follow, "Reset password"))


def _of_admin(view: str, path: str, act: "Callable[[Page], object] | None" = None) -> Shown:
    return Shown(f"admin:{view}", f"/admin/{path}", ADMINISTRATOR, act)


def _errors() -> Iterator[Shown]:
    yield Shown("", "/nothing/here/", VISITOR)
    yield Shown("", "/nothing/here/")
    yield Shown("board", "/?page=x")
    yield Shown("board_tool", "/tools/nothing/")
    yield Shown("board_take", "/tickets/00000000-0000-4000-8000-000000000000/take/")
    yield Shown("signout", "/signout/")
    yield Shown("", "/admin/nothing/", ADMINISTRATOR)


PAGES = (*_board(), *_admin(), *_errors())
