"""A program without a browser gets a token that a person approves (RFC 8628)."""

import html
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.test import Client

from licenses.access import accounts, device_logins, throttling
from licenses.auditing import Actor
from licenses.models import ActorKind, ApiToken, AuditRecord, DeviceLogin, FailureCount, Tool
from tests.support.api import api_with, assert_problem, make_token

pytestmark = pytest.mark.django_db

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
FORM = "application/x-www-form-urlencoded"
ROOT = Actor(ActorKind.ACCOUNT, "root", "192.0.2.1")


class Program:
    """A program that signs in, as ``license login`` does."""

    def __init__(self, address: str = "198.51.100.7") -> None:
        self.client = Client(raise_request_exception=False, REMOTE_ADDR=address)

    def post(self, call: str, **form: str) -> Any:
        return self.client.post(f"/api/v1/login/{call}", urlencode(form), content_type=FORM)

    def begin(self, **form: str) -> Any:
        return self.post("device", **{"client_id": "license", "device_name": "ws-17"} | form)

    def poll(self, device_code: str) -> Any:
        return self.post("token", client_id="license", grant_type=GRANT, device_code=device_code)


@pytest.fixture
def program(required: None) -> Program:
    return Program()


@pytest.fixture
def ana(required: None) -> User:
    return User.objects.create_user("ana", password="a long pass phrase")


@pytest.fixture
def browser(ana: User) -> Client:
    """Provide ana's browser."""
    browser = Client(raise_request_exception=False)
    browser.force_login(ana)
    return browser


def text_of(answer: Any) -> str:
    """Return a page as text on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())).split())


def answer_on_page(browser: Client, code: str, answer: str = "approve") -> Any:
    return browser.post("/device/answer/", {"code": code, "answer": answer})


def assert_error(answer: Any, code: str, status: int = 400) -> str:
    """Check that this is a problem document and OAuth's error document. Return the text."""
    assert_problem(answer, status)
    body = answer.json()
    assert (body["code"], body["error"], body["error_description"]) == (code, code, body["detail"])
    assert code in device_logins.CODES
    assert answer["Cache-Control"] == "no-store"
    return str(body["detail"])


def test_a_person_approves_a_program_and_it_acts_as_them(
    program: Program, browser: Client, ana: User, make_tool: Callable[..., Tool], pass_time: Callable[..., None]
) -> None:
    make_tool()
    begun = program.begin().json()
    assert begun["verification_uri"] == "http://testserver/device/"
    assert begun["verification_uri_complete"] == f"http://testserver/device/?code={begun['user_code']}"
    assert re.fullmatch(r"[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}", begun["user_code"])
    assert (begun["expires_in"], begun["interval"]) == (600, 5)
    assert_error(program.poll(begun["device_code"]), "authorization_pending")
    shown = browser.get(f"/device/?code={begun['user_code']}")
    for expected in (
        begun["user_code"],
        "license on ws-17",
        "198.51.100.7",
        "read :",
        "borrow :",
        "90 days",
        "act as ana",
    ):
        assert expected in text_of(shown)
    assert "Approve only if you ran license login yourself" in text_of(shown)
    assert "The program is signed in" in text_of(answer_on_page(browser, begun["user_code"]))
    pass_time(seconds=5)
    signed = program.poll(begun["device_code"])
    assert signed["Cache-Control"] == "no-store"
    body = signed.json()
    assert (body["token_type"], body["scope"], body["user"], body["expires_in"]) == (
        "Bearer",
        "borrow read",
        "ana",
        90 * 86_400,
    )
    lease = api_with(f"Bearer {body['access_token']}").post("/licenses/borrow", {"tool": "cad"})
    assert lease.json()["user"] == "ana"
    token = ApiToken.objects.get()
    assert (token.name, token.user, token.account, token.created_by) == ("license login on ws-17", "ana", ana, ana)
    assert "license login on ws-17" in text_of(browser.get("/tokens/"))
    # The code was valid once.
    assert_error(program.poll(begun["device_code"]), "invalid_grant")
    assert not DeviceLogin.objects.exists()
    records = AuditRecord.objects.order_by("pk").values_list("actor", "action", "subject_kind", "origin", "note")
    assert list(records) == [
        ("ana", "approved", "device_login", "127.0.0.1", ""),
        ("ana", "created", "token", "198.51.100.7", "license login from 198.51.100.7"),
    ]
    assert AuditRecord.objects.earliest("pk").after == {
        "device": "ws-17",
        "address": "198.51.100.7",
        "scopes": "read borrow",
    }


def test_a_person_denies_a_program(program: Program, browser: Client, pass_time: Callable[..., None]) -> None:
    begun = program.begin().json()
    assert "You denied the program" in text_of(answer_on_page(browser, begun["user_code"], "deny"))
    assert_error(program.poll(begun["device_code"]), "access_denied")
    # The answer stands.
    assert answer_on_page(browser, begun["user_code"]).status_code == 404
    assert_error(program.poll(begun["device_code"]), "access_denied")
    assert not ApiToken.objects.exists()
    assert AuditRecord.objects.get().action == "denied"


def test_codes_end_after_ten_minutes(program: Program, browser: Client, pass_time: Callable[..., None]) -> None:
    approved, waiting = program.begin().json(), program.begin().json()
    answer_on_page(browser, approved["user_code"])
    pass_time(minutes=10)
    assert browser.get(f"/device/?code={waiting['user_code']}").status_code == 404
    assert answer_on_page(browser, waiting["user_code"]).status_code == 404
    for begun in (approved, waiting):
        assert_error(program.poll(begun["device_code"]), "expired_token")
    assert not ApiToken.objects.exists()
    pass_time(minutes=10)
    device_logins.forget_expired()
    assert not DeviceLogin.objects.exists()
    assert_error(program.poll(waiting["device_code"]), "invalid_grant")


def test_a_program_that_polls_too_often_must_slow_down(program: Program, pass_time: Callable[..., None]) -> None:
    code = program.begin().json()["device_code"]
    assert_error(program.poll(code), "authorization_pending")
    assert "10 s" in assert_error(program.poll(code), "slow_down")
    pass_time(seconds=5)
    assert "15 s" in assert_error(program.poll(code), "slow_down")
    pass_time(seconds=15)
    assert_error(program.poll(code), "authorization_pending")
    for _ in range(20):
        assert_error(program.poll(code), "slow_down")
    assert DeviceLogin.objects.get().interval == 60


def test_codes_are_stored_as_hashes(program: Program) -> None:
    begun = program.begin().json()
    row = str(DeviceLogin.objects.values().get())
    for code in (begun["device_code"], begun["user_code"], begun["user_code"].replace("-", "")):
        assert code not in row


@pytest.mark.parametrize("typed", ["{}", "{lower}", " {lower} ", "{bare}", "{spaced}"])
def test_a_code_is_read_as_people_type_it(program: Program, browser: Client, typed: str) -> None:
    code = program.begin().json()["user_code"]
    forms = {"lower": code.lower(), "bare": code.replace("-", ""), "spaced": " ".join(code)}
    shown = browser.get("/device/", {"code": typed.format(code, **forms)})
    assert "A program wants to act as ana" in text_of(shown)


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"client_id": ""}, "invalid_request"),
        ({"client_id": "other"}, "invalid_client"),
        ({"scope": "read root"}, "invalid_scope"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"device_name": "d" * 65}, "invalid_request"),
        ({"device_name": "two\nlines"}, "invalid_request"),
        ({"device_name": "a\0b"}, "invalid_request"),
        ({"device_name": "a\u202eb"}, "invalid_request"),
    ],
)
def test_a_wrong_beginning_is_refused(program: Program, form: dict[str, str], code: str) -> None:
    assert_error(program.begin(**form), code)
    assert not DeviceLogin.objects.exists()


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "password", "client_id": "license"}, "unsupported_grant_type"),
        ({"grant_type": GRANT}, "invalid_request"),
        ({"grant_type": GRANT, "client_id": "other"}, "invalid_client"),
        ({"grant_type": GRANT, "client_id": "license"}, "invalid_request"),
        ({"grant_type": GRANT, "client_id": "license", "device_code": "x" * 9000}, "invalid_grant"),
        ({"grant_type": GRANT, "client_id": "license", "device_code": "a\0\ud7ff"}, "invalid_grant"),
    ],
)
def test_a_wrong_poll_is_refused(program: Program, form: dict[str, str], code: str) -> None:
    assert_error(program.post("token", **form), code)


def test_a_parameter_comes_once_and_a_body_is_a_form(program: Program) -> None:
    twice = program.client.post("/api/v1/login/device", "client_id=license&client_id=license", content_type=FORM)
    assert_error(twice, "invalid_request")
    for call in ("device", "token", "revoke"):
        path = f"/api/v1/login/{call}"
        assert_problem(program.client.post(path, {"client_id": "license"}, content_type="application/json"), 415)
        assert_problem(program.client.get(path), 405)
        assert_error(program.client.post(path, "", content_type=FORM), "invalid_request")
        assert_error(program.client.generic("POST", path, content_type=""), "invalid_request")
        assert_problem(program.client.post(f"{path}?x=1", urlencode({}), content_type=FORM), 400)


def test_a_page_of_another_site_begins_nothing(program: Program) -> None:
    answer = program.client.post(
        "/api/v1/login/device",
        urlencode({"client_id": "license"}),
        content_type=FORM,
        headers={"Origin": "https://evil.example"},
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
    assert not DeviceLogin.objects.exists()


# --- Limits ---------------------------------------------------------------------


def test_nobody_fills_the_table(program: Program, settings: Any, pass_time: Callable[..., None]) -> None:
    settings.LICENSE_LOGINS, settings.LICENSE_LOGINS_PER_ADDRESS = 3, 2
    for _ in range(2):
        assert program.begin().status_code == 200
    refused = program.begin()
    assert_error(refused, "temporarily_unavailable", 429)
    assert 0 < int(refused["Retry-After"]) <= 600
    # The others of an IPv6 network share its limit.
    other, neighbor = Program("2001:db8::1"), Program("2001:db8::2")
    assert other.begin().status_code == 200
    settings.LICENSE_LOGINS = 100
    assert neighbor.begin().status_code == 200
    assert_error(neighbor.begin(), "temporarily_unavailable", 429)
    settings.LICENSE_LOGINS = 4
    assert_error(Program("203.0.113.1").begin(), "temporarily_unavailable", 429)
    pass_time(minutes=10)
    assert program.begin().status_code == 200
    pass_time(minutes=10)
    program.begin()
    # Those that expired long ago are gone, without the sweeper.
    assert DeviceLogin.objects.count() == 2


def test_guesses_of_codes_are_limited_by_account_and_by_address(
    program: Program, browser: Client, settings: Any
) -> None:
    settings.LICENSE_FAILURES_PER_ACCOUNT, settings.LICENSE_FAILURES_PER_ADDRESS = 3, 4
    code = program.begin().json()["user_code"]
    wrong = "BBBB-BBBB" if code != "BBBB-BBBB" else "CCCC-CCCC"
    assert [browser.get("/device/", {"code": wrong}).status_code for _ in range(2)] == [404, 404]
    assert answer_on_page(browser, wrong).status_code == 404
    stopped = browser.get("/device/", {"code": code})
    assert (stopped.status_code, stopped["Retry-After"].isdigit()) == (429, True)
    assert answer_on_page(browser, code).status_code == 429
    # Another account at this address has one guess left.
    other = Client()
    other.force_login(User.objects.create_user("ben"))
    assert other.get("/device/", {"code": wrong}).status_code == 404
    assert other.get("/device/", {"code": code}).status_code == 429
    assert DeviceLogin.objects.get().state == "pending"


def test_of_many_guesses_at_once_only_as_many_are_looked_at_as_may_fail(
    program: Program, browser: Client, ana: User, settings: Any
) -> None:
    settings.LICENSE_FAILURES_PER_ACCOUNT = 2
    code = program.begin().json()["user_code"]
    others = throttling.of_user_codes("203.0.113.9", ana)
    # These guesses have begun, and are not counted as failures yet.
    others.reserve()
    others.reserve()
    assert browser.get("/device/", {"code": code}).status_code == 429
    others.release()
    assert browser.get("/device/", {"code": code}).status_code == 200
    assert not FailureCount.objects.filter(failures=0, pending=0).exists()


def test_what_can_be_no_code_is_no_guess(browser: Client, settings: Any) -> None:
    settings.LICENSE_FAILURES_PER_ACCOUNT = 1
    for typed in ("BBBB", "AEIO-1234", "x" * 500, "a\0b", "<script>"):
        assert browser.get("/device/", {"code": typed}).status_code == 404
    assert browser.get("/device/").status_code == 200


# --- Who approves ---------------------------------------------------------------


def test_a_person_signs_in_and_comes_back(program: Program, ana: User, settings: Any) -> None:
    code = program.begin().json()["user_code"]
    for auth in ("required", "open"):
        settings.LICENSE_AUTH = auth
        browser = Client()
        answer = browser.get(f"/device/?code={code}")
        assert answer["Location"] == f"/signin/?next=/device/%3Fcode%3D{code}"
        signed = browser.post(answer["Location"], {"username": "ana", "password": "a long pass phrase"})
        assert signed["Location"] == f"/device/?code={code}"
        assert answer_on_page(Client(), code).status_code == 302
    assert DeviceLogin.objects.get().state == "pending"


def test_a_page_of_another_site_approves_nothing(program: Program, ana: User) -> None:
    code = program.begin().json()["user_code"]
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(ana)
    assert answer_on_page(browser, code).status_code == 403
    # A link alone does nothing either.
    browser.get(f"/device/?code={code}&answer=approve")
    assert browser.get("/device/answer/", {"code": code, "answer": "approve"}).status_code == 405
    assert DeviceLogin.objects.get().state == "pending"


def test_an_answer_is_approve_or_deny(program: Program, browser: Client) -> None:
    code = program.begin().json()["user_code"]
    for wrong in ("", "yes", "Approve"):
        assert answer_on_page(browser, code, wrong).status_code == 400
    assert DeviceLogin.objects.get().state == "pending"


def test_what_a_program_says_of_itself_is_no_markup(program: Program, browser: Client) -> None:
    code = program.begin(device_name="<script>alert(1)</script>").json()["user_code"]
    page = browser.get(f"/device/?code={code}").content.decode()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page


def test_a_program_gets_only_scopes_that_it_asks_for_and_the_person_has(
    program: Program, browser: Client, settings: Any
) -> None:
    settings.LICENSE_OWN_TOKEN_SCOPES = ["read", "borrow", "admin"]
    for scope, got in (("read", "read"), ("admin read", "read"), ("", "borrow read")):
        begun = program.begin(scope=scope).json()
        answer_on_page(browser, begun["user_code"])
        assert program.poll(begun["device_code"]).json()["scope"] == got
    begun = program.begin(scope="admin").json()
    assert "You can give none" in text_of(answer_on_page(browser, begun["user_code"]))
    assert_error(program.poll(begun["device_code"]), "authorization_pending")
    User.objects.update(is_superuser=True)
    answer_on_page(browser, begun["user_code"])
    assert program.poll(begun["device_code"]).json()["scope"] == "admin"


@pytest.mark.parametrize("who", ["staff", "nobody"])
def test_the_site_says_who_may(program: Program, browser: Client, settings: Any, who: str) -> None:
    begun = program.begin().json()
    settings.LICENSE_OWN_TOKENS = who
    assert "only" in text_of(browser.get(f"/device/?code={begun['user_code']}"))
    assert answer_on_page(browser, begun["user_code"]).status_code == 403
    assert DeviceLogin.objects.get().state == "pending"
    if who == "nobody":
        assert_error(program.begin(), "unauthorized_client")


def test_a_limit_of_tokens_holds_at_the_approval_and_at_the_end(
    program: Program, browser: Client, settings: Any
) -> None:
    settings.LICENSE_OWN_TOKENS_PER_USER = 1
    first, second = program.begin().json(), program.begin().json()
    for begun in (first, second):
        answer_on_page(browser, begun["user_code"])
    assert program.poll(first["device_code"]).status_code == 200
    assert "You have 1 valid token," in assert_error(program.poll(second["device_code"]), "access_denied")
    third = program.begin().json()
    assert "You have 1 valid token," in text_of(answer_on_page(browser, third["user_code"]))
    assert ApiToken.objects.count() == 1


@pytest.mark.parametrize("end", [accounts.deactivate, accounts.delete])
def test_the_end_of_an_account_ends_what_it_approved(
    program: Program, browser: Client, ana: User, end: Callable[..., accounts.Ended]
) -> None:
    begun = program.begin().json()
    answer_on_page(browser, begun["user_code"])
    assert end(ana, by=ROOT).logins == 1
    assert_error(program.poll(begun["device_code"]), "invalid_grant")
    assert not ApiToken.objects.exists()
    assert AuditRecord.objects.get(action="ended").before["logins"] == 1


def test_a_token_that_a_program_got_ends_with_the_account(program: Program, browser: Client, ana: User) -> None:
    begun = program.begin().json()
    answer_on_page(browser, begun["user_code"])
    secret = program.poll(begun["device_code"]).json()["access_token"]
    accounts.deactivate(ana, by=ROOT)
    assert api_with(f"Bearer {secret}").client.get("/licenses/status").status_code == 401


# --- Revocation -----------------------------------------------------------------


def test_who_has_a_token_can_revoke_it(program: Program) -> None:
    secret, other = make_token(user="ana"), make_token(user="ana")
    answer = program.post("revoke", token=secret)
    assert (answer.status_code, answer["Cache-Control"]) == (200, "no-store")
    assert api_with(f"Bearer {secret}").client.get("/licenses/status").status_code == 401
    assert api_with(f"Bearer {other}").client.get("/licenses/status").status_code == 200
    record = AuditRecord.objects.get()
    token = ApiToken.objects.get(revoked_at__isnull=False)
    assert (record.actor_kind, record.actor, record.action) == ("token", f"token {token.pk}", "revoked")
    assert (record.subject, record.origin) == (str(token.pk), "198.51.100.7")


def test_an_unknown_token_gets_the_same_answer(program: Program) -> None:
    secret = make_token(user="ana")
    known = program.post("revoke", token=secret)
    for token in (secret, "lic_" + "a" * 43, "nonsense", "a\0b"):
        assert program.post("revoke", token=token).content == known.content
    assert AuditRecord.objects.count() == 1


def test_the_life_of_a_token_is_the_sites(program: Program, browser: Client, settings: Any) -> None:
    settings.LICENSE_OWN_TOKEN_DAYS = 2
    begun = program.begin().json()
    answer_on_page(browser, begun["user_code"])
    assert program.poll(begun["device_code"]).json()["expires_in"] == 2 * 86_400
    token = ApiToken.objects.get()
    assert token.expires_at - token.created_at == timedelta(days=2)
