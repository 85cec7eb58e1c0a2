"""Callers that send too many wrong credentials must wait, and others need not."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.hashers import MD5PasswordHasher
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from licenses.access.throttling import WINDOW
from licenses.client_addresses import client_address, network_of
from licenses.models import FailureCount
from licenses.models import failure_count as failure_module
from licenses.signin import passwords
from tests.support.api import api_with, assert_problem, basic, make_token
from tests.support.servers import Server

pytestmark = pytest.mark.django_db
PASSWORD = "a long pass phrase"


@pytest.fixture(autouse=True)
def limits(required: None, settings: Any) -> None:
    settings.LICENSE_FAILURES_PER_ACCOUNT = 3
    settings.LICENSE_FAILURES_PER_ADDRESS = 6


@pytest.fixture
def ben(db: None) -> User:
    return User.objects.create_user("ben", password=PASSWORD)


def answer_to(credential: str, address: str = "192.0.2.1", **more: str) -> Any:
    return Client().get("/licenses/status", headers={"Authorization": credential} | more, REMOTE_ADDR=address)


def password(name: str, word: str, address: str = "192.0.2.1") -> int:
    status: int = answer_to(basic(name, word)["Authorization"], address).status_code
    return status


def test_after_too_many_wrong_passwords_the_right_one_has_to_wait(ben: User, pass_time: Callable[..., None]) -> None:
    assert [password("ben", "wrong") for _ in range(3)] == [401] * 3
    answer = answer_to(basic("ben", PASSWORD)["Authorization"])
    assert_problem(answer, 429)
    assert answer.json()["code"] == "too_many_failures"
    assert 0 < int(answer["Retry-After"]) <= WINDOW.total_seconds() + 1
    # From another address too, because the limit is for the account.
    assert password("ben", PASSWORD, "192.0.2.2") == 429
    pass_time(minutes=15)
    assert password("ben", PASSWORD) == 200


def test_a_correct_password_resets_the_failures(ben: User) -> None:
    for _ in range(2):
        assert [password("ben", word) for word in ("wrong", "wrong", PASSWORD)] == [401, 401, 200]


def test_an_account_that_is_not_there_looks_like_one_that_is(ben: User) -> None:
    for name in ("ben", "nobody"):
        assert [password(name, "wrong", f"192.0.2.{number}") for number in range(5)] == [401] * 3 + [429] * 2


def test_an_address_that_tries_many_accounts_has_to_wait(ben: User) -> None:
    assert [password(f"user-{number}", "wrong") for number in range(8)] == [401] * 6 + [429] * 2
    assert password("ben", PASSWORD) == 429
    assert password("ben", PASSWORD, "192.0.2.2") == 200


def test_a_network_of_the_new_protocol_is_one_address(ben: User) -> None:
    addresses = [f"2001:db8::{number}" for number in range(8)]
    assert [password(f"user-{number}", "wrong", at) for number, at in enumerate(addresses)] == [401] * 6 + [429] * 2
    assert password("ben", PASSWORD, "2001:db8:0:1::1") == 200


def test_a_valid_token_works_while_invalid_ones_must_wait(db: None) -> None:
    good = f"Bearer {make_token(user='ben')}"
    bad = "Bearer lic_" + "a" * 43
    statuses = [answer_to(bad).status_code for _ in range(8)]
    assert statuses == [401] * 6 + [429] * 2
    assert answer_to(good).status_code == 200
    assert answer_to("Bearer a.b.c").status_code == 429
    assert answer_to(bad, "192.0.2.2").status_code == 401


def test_wrong_tokens_do_not_lock_out_passwords(ben: User) -> None:
    for _ in range(8):
        answer_to("Bearer lic_" + "a" * 43)
    assert password("ben", PASSWORD) == 200


def test_repeated_attempts_cost_no_writes(ben: User) -> None:
    bad = "Bearer lic_" + "a" * 43
    for _ in range(8):
        password("ben", "wrong")
        answer_to(bad)
    with CaptureQueriesContext(connection) as queries:
        assert (password("ben", "wrong"), answer_to(bad).status_code) == (429, 429)
    assert all(query["sql"].startswith("SELECT") for query in queries)


def test_the_sign_in_pages_say_that_one_has_to_wait(ben: User) -> None:
    browser = Client()
    for page in ("/signin/", "/admin/login/"):
        for _ in range(4):
            shown = browser.post(page, {"username": "ben", "password": "wrong"})
        assert shown.status_code == 200
        assert b"Try again in 15 min." in shown.content
        browser.post(page, {"username": "ben", "password": PASSWORD})
        assert "_auth_user_id" not in browser.session


def test_the_right_password_signs_in_by_the_page(ben: User) -> None:
    browser = Client()
    answer = browser.post("/signin/?next=/api/docs/", {"username": "ben", "password": PASSWORD, "next": "/api/docs/"})
    assert answer["Location"] == "/api/docs/"
    elsewhere = Client().post("/signin/", {"username": "ben", "password": PASSWORD, "next": "https://evil.example/"})
    assert elsewhere["Location"] == "/"


# --- Addresses --------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, "203.0.113.9", "192.0.2.1"),
        (1, "", "192.0.2.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "127.0.0.1, 203.0.113.9", "203.0.113.9"),
        (2, "10.9.9.9, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (2, "203.0.113.9", "192.0.2.1"),
        (1, "nonsense", "192.0.2.1"),
        (1, "203.0.113.9, ", "192.0.2.1"),
        (1, "::ffff:203.0.113.9", "203.0.113.9"),
        (1, "2001:DB8::1", "2001:db8::1"),
        (1, ",".join(["203.0.113.9"] * 50), "203.0.113.9"),
        # The form of some gateways (Azure, some of Amazon).
        (1, "203.0.113.9:4711", "203.0.113.9"),
        (1, "[2001:DB8::1]:4711", "2001:db8::1"),
        (1, "[2001:db8::1]", "2001:db8::1"),
        (1, "[::ffff:203.0.113.9]:80", "203.0.113.9"),
        (2, "203.0.113.9:4711, 10.0.0.1:80", "203.0.113.9"),
        (1, "fe80::1%eth0", "fe80::1"),
        (1, "203.0.113.9:", "192.0.2.1"),
        (1, "203.0.113.9:port", "192.0.2.1"),
        (1, "[203.0.113.9", "192.0.2.1"),
        (1, "[]:80", "192.0.2.1"),
    ],
)
def test_a_forwarded_address_is_trusted_only_from_trusted_proxies(
    settings: Any, proxies: int, forwarded: str, address: str
) -> None:
    settings.TRUSTED_PROXIES = proxies
    assert client_address({"REMOTE_ADDR": "192.0.2.1", "HTTP_X_FORWARDED_FOR": forwarded}) == address


def test_a_request_from_nowhere_has_an_address_too() -> None:
    assert network_of(client_address({"REMOTE_ADDR": ""})) == "unknown"


def test_an_invented_address_changes_nothing(ben: User) -> None:
    header = basic("nobody", "wrong")["Authorization"]
    statuses = [answer_to(header, **{"X-Forwarded-For": f"203.0.113.{number}"}).status_code for number in range(5)]
    assert statuses == [401] * 3 + [429] * 2


# --- The table --------------------------------------------------------------


def test_old_failures_are_deleted(ben: User, pass_time: Callable[..., None]) -> None:
    for number in range(5):
        password(f"user-{number}", "wrong", f"192.0.2.{number}")
    assert FailureCount.objects.count() == 10
    pass_time(minutes=15)
    password("ben", "wrong", "192.0.2.99")
    assert FailureCount.objects.count() == 2


def test_the_table_never_grows_beyond_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_module, "MAX_ROWS", 50)
    now = timezone.now()
    for number in range(200):
        FailureCount.objects.reserve(f"key {number}", limit=5, now=now + timedelta(milliseconds=number), window=WINDOW)
        assert FailureCount.objects.count() <= 50
    assert FailureCount.objects.filter(key="key 199").exists()


def test_the_window_begins_with_the_first_failure_and_then_again() -> None:
    now = timezone.now()

    def attempt(after: timedelta) -> bool:
        reserved = FailureCount.objects.reserve("key", limit=3, now=now + after, window=WINDOW)
        if reserved:
            FailureCount.objects.failed(["key"])
        return reserved

    afters = [timedelta(0), WINDOW / 2, WINDOW - timedelta(seconds=1), WINDOW - timedelta(seconds=1)]
    assert [attempt(after) for after in afters] == [True, True, True, False]
    assert [attempt(after) for after in [WINDOW] * 4] == [True, True, True, False]


def test_attempts_under_way_take_places_and_give_them_back() -> None:
    now = timezone.now()

    def reserve() -> bool:
        return FailureCount.objects.reserve("key", limit=2, now=now, window=WINDOW)

    assert [reserve() for _ in range(3)] == [True, True, False]
    FailureCount.objects.failed(["key"])
    assert not reserve()
    FailureCount.objects.release(["key"])
    assert [reserve() for _ in range(2)] == [True, False]
    # A correct password resets the failures, but not pending attempts.
    FailureCount.objects.forget("key")
    assert [reserve() for _ in range(2)] == [True, False]


def test_right_passwords_leave_no_row(ben: User) -> None:
    assert [password("ben", PASSWORD) for _ in range(10)] == [200] * 10
    assert not FailureCount.objects.exists()


def test_an_attempt_that_breaks_off_gives_its_place_back(ben: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OperationalError

    with monkeypatch.context() as patch:
        patch.setattr("django.contrib.auth.backends.ModelBackend.authenticate", broken)
        assert [password("ben", PASSWORD) for _ in range(4)] == [503] * 4
    assert password("ben", PASSWORD) == 200


# --- Remembered passwords ---------------------------------------------------


@pytest.fixture
def hashed(ben: User, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Provide the list of passwords that were hashed."""
    seen: list[str] = []
    verify = MD5PasswordHasher.verify

    def counted(hasher: MD5PasswordHasher, password: str, encoded: str) -> bool:
        seen.append(password)
        return verify(hasher, password, encoded)

    monkeypatch.setattr(MD5PasswordHasher, "verify", counted)
    monkeypatch.setattr(passwords, "verified", passwords.Verified())
    return seen


def test_a_right_password_is_hashed_once(hashed: list[str]) -> None:
    assert [password("ben", PASSWORD) for _ in range(5)] == [200] * 5
    assert hashed == [PASSWORD]


def test_a_wrong_password_is_hashed_each_time_and_never_remembered(hashed: list[str]) -> None:
    password("ben", PASSWORD)
    assert [password("ben", PASSWORD + "x"), password("ben", "wrong")] == [401, 401]
    assert hashed == [PASSWORD, PASSWORD + "x", "wrong"]


def test_a_changed_password_is_forgotten_at_once(ben: User, hashed: list[str]) -> None:
    assert password("ben", PASSWORD) == 200
    ben.set_password("another long pass phrase")
    ben.save()
    assert password("ben", PASSWORD) == 401
    assert password("ben", "another long pass phrase") == 200


@pytest.mark.parametrize("change", ["locked", "deleted", "renamed", "replaced"])
def test_an_account_that_is_gone_is_forgotten_at_once(ben: User, hashed: list[str], change: str) -> None:
    assert password("ben", PASSWORD) == 200
    if change == "locked":
        User.objects.update(is_active=False)
    elif change == "renamed":
        User.objects.update(username="benjamin")
    else:
        ben.delete()
    if change == "replaced":
        User.objects.create_user("ben", password="another long pass phrase")
    assert password("ben", PASSWORD) == 401


def test_a_remembered_password_has_to_wait_like_any(ben: User, hashed: list[str]) -> None:
    """Otherwise a correct guess would differ from the others while all are refused."""
    assert password("ben", PASSWORD) == 200
    for _ in range(3):
        password("ben", "wrong", "192.0.2.2")
    assert password("ben", PASSWORD) == 429


def test_a_remembered_password_is_hashed_again_after_a_while(
    hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    password("ben", PASSWORD)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + passwords.REMEMBERED + 1)
    password("ben", PASSWORD)
    assert hashed == [PASSWORD] * 2


def test_the_number_of_remembered_passwords_has_a_limit(ben: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "REMEMBERED_AT_MOST", 3)
    verified = passwords.Verified()
    macs = [verified.mac(ben, f"password {number}") for number in range(5)]
    for mac in macs:
        verified.add(mac)
    assert [mac in verified for mac in macs] == [False, False, True, True, True]


def test_a_remembered_password_costs_two_statements_and_no_writing(ben: User) -> None:
    password("ben", PASSWORD)
    with CaptureQueriesContext(connection) as queries:
        answer_to(basic("ben", PASSWORD)["Authorization"])
    statements = [query["sql"] for query in queries]
    assert all(statement.startswith("SELECT") for statement in statements)
    assert sum("licenses_failurecount" in statement for statement in statements) == 1
    assert sum("auth_user" in statement for statement in statements) == 1


def test_of_many_simultaneous_guesses_only_as_many_as_may_fail_are_checked(required_server: Server) -> None:
    """Sixty wrong passwords at once, at four workers."""
    import httpx

    def attempt(_: int) -> int:
        return httpx.get(f"{required_server.url}/licenses/status", auth=("nobody", "wrong"), timeout=60).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(attempt, range(60)))
    assert set(statuses) == {401, 429}
    # Of many simultaneous attempts only as many are checked as may fail.
    assert statuses.count(401) == 5


def test_a_password_that_was_typed_as_a_name_is_not_stored(ben: User, caplog: pytest.LogCaptureFixture) -> None:
    """Users often type a password as a name."""
    for number, name in enumerate(("qS3cr3t phrase", "ben")):
        for _ in range(4):
            password(name, "wrong", f"192.0.2.{number}")
    kept = [count.key for count in FailureCount.objects.all()]
    assert len(kept) == 4
    assert not [key for key in kept if "qS3cr3t" in key or "ben" in key]
    logged = [record.getMessage() for record in caplog.records if record.name == "licenses.access.throttling"]
    assert logged == [
        "Too many failed credentials: an account that does not exist. Further attempts must wait.",
        "Too many failed credentials: account ben. Further attempts must wait.",
    ]


def test_an_open_server_throttles_too(settings: Any, ben: User) -> None:
    settings.LICENSE_AUTH = "open"
    assert api_with("").client.get("/licenses/status").status_code == 200
    assert [password("ben", "wrong") for _ in range(4)] == [401] * 3 + [429]
