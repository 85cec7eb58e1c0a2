"""Sessions: they end eight hours after the sign-in, and expired ones are deleted."""

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore as PlainStore
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db.models import F
from django.test import Client
from django.utils import timezone

from licenses.models import AccountSession
from licenses.signin import sessions
from tests.support.issuer import CLIENT, Issuer

pytestmark = pytest.mark.django_db

PHRASE = "a long pass phrase"


@pytest.fixture
def root(required: None) -> Client:
    User.objects.create_superuser("root", password=PHRASE)
    return signed_in()


def signed_in() -> Client:
    browser = Client()
    assert browser.post("/signin/", {"username": "root", "password": PHRASE}).status_code == 302
    return browser


def left(browser: Client) -> timedelta:
    """Return the time until the session of a browser ends."""
    return Session.objects.get(pk=browser.cookies["sessionid"].value).expire_date - timezone.now()


def age(**span: float) -> None:
    """Let every session be so much older."""
    for session in Session.objects.all():
        data = session.get_decoded()
        if "_session_expiry" in data:
            end = session.expire_date - timedelta(**span)
            session.session_data = PlainStore().encode(data | {"_session_expiry": end.isoformat()})
            session.save()
    Session.objects.update(expire_date=F("expire_date") - timedelta(**span))


def test_a_session_ends_eight_hours_after_the_sign_in(root: Client) -> None:
    assert timedelta(hours=7, minutes=59) < left(root) <= timedelta(hours=8)
    assert root.get("/licenses/status").status_code == 200
    age(hours=8)
    assert root.get("/licenses/status").status_code == 401


def test_no_page_moves_the_end_of_a_session(root: Client, issuer: Issuer, settings: Any) -> None:
    settings.LICENSE_OIDC_CLIENT_ID = CLIENT
    settings.LICENSE_OIDC_CLIENT_SECRET = "a secret"
    age(hours=7, minutes=59)
    for page in ("/", "/signin/", "/oidc/authenticate/", "/oidc/callback/?error=x", "/admin/", "/admin/auth/user/"):
        root.get(page)
    session = root.session
    session["anything"] = 1
    session.save()
    assert left(root) < timedelta(minutes=1)
    # A new password begins a new session with the same end.
    form = {"old_password": PHRASE, "new_password1": "another long phrase", "new_password2": "another long phrase"}
    before = root.cookies["sessionid"].value
    answer = root.post("/admin/password_change/", form)
    assert answer.status_code == 302
    assert root.cookies["sessionid"].value != before
    assert int(root.cookies["sessionid"]["max-age"]) <= 60
    assert left(root) < timedelta(minutes=1)
    age(minutes=1)
    assert root.get("/licenses/status").status_code == 401


def test_a_session_of_the_previous_version_keeps_its_end(root: Client) -> None:
    session = Session.objects.get()
    data = session.get_decoded()
    del data["_session_expiry"]
    session.session_data = PlainStore().encode(data)
    session.expire_date = timezone.now() + timedelta(minutes=1)
    session.save()
    changed = root.session
    changed["anything"] = 1
    changed.save()
    assert left(root) < timedelta(minutes=1)
    assert AccountSession.objects.count() == 1


def test_a_new_sign_in_ends_the_old_session(root: Client) -> None:
    stolen = Client(headers={"Cookie": f"sessionid={root.cookies['sessionid'].value}"})
    assert stolen.get("/licenses/status").status_code == 200
    age(hours=7)
    root.post("/signin/", {"username": "root", "password": PHRASE})
    assert root.get("/licenses/status").status_code == 200
    assert left(root) > timedelta(hours=7)
    assert stolen.get("/licenses/status").status_code == 401
    assert AccountSession.objects.count() == Session.objects.count() == 1


def test_the_sweeper_deletes_expired_rows_in_batches(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()
    Session.objects.bulk_create(
        Session(session_key=f"old{number:029}", session_data="", expire_date=now - timedelta(minutes=number))
        for number in range(1, 251)
    )
    monkeypatch.setattr(sessions, "BATCH", 100)
    monkeypatch.setattr(sessions, "BATCHES", 2)
    out = StringIO()
    call_command("expire_leases", stdout=out)
    assert "200 session(s)" in out.getvalue()
    assert Session.objects.count() == 51
    call_command("expire_leases", stdout=out)
    assert "50 session(s)" in out.getvalue()
    assert root.get("/licenses/status").status_code == 200
    age(hours=8)
    call_command("expire_leases", stdout=out)
    assert (Session.objects.count(), AccountSession.objects.count()) == (0, 0)
