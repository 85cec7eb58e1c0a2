"""Store Django's sessions with a fixed end and with their account."""

from datetime import timedelta
from typing import Any

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.models import Session
from django.db import InterfaceError, OperationalError, transaction
from django.utils import timezone

from licenses.models import AccountSession

# The rows per delete of expired sessions, and the deletes per sweep.
BATCH = 1000
BATCHES = 100


class SessionStore(db.SessionStore):
    """Django's sessions in the database. They end ``SESSION_COOKIE_AGE`` seconds after the sign-in,
    whatever is written to them."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key != SESSION_KEY:
            super().__setitem__(key, value)
            return
        if SESSION_KEY in self:
            # A new sign-in gets a new key, so that a stolen session ends.
            self.cycle_key()
        super().__setitem__(key, value)
        self.set_expiry(timezone.now() + timedelta(seconds=self.get_session_cookie_age()))

    def load(self) -> dict[str, Any]:
        stored = self._get_session_from_db()  # type: ignore[attr-defined]
        data: dict[str, Any] = self.decode(stored.session_data) if stored else {}
        if stored and SESSION_KEY in data:
            # A session of the previous version keeps its end.
            data.setdefault("_session_expiry", stored.expire_date.isoformat())
        return data

    def save(self, must_create: bool = False) -> None:
        try:
            super().save(must_create)
        except UpdateError as error:
            # Django takes every failure for a session that is gone: 400.
            if isinstance(error.__context__, (OperationalError, InterfaceError)):
                raise error.__context__ from None
            raise
        account = self.get(SESSION_KEY)
        if account is not None and self.session_key is not None:
            row = AccountSession(session_id=self.session_key, account_id=int(account))
            AccountSession.objects.bulk_create([row], ignore_conflicts=True)


def delete_expired() -> int:
    """Delete expired sessions, at most ``BATCHES`` times ``BATCH``, each batch in its own transaction.

    Return their number.
    """
    deleted = 0
    for _ in range(BATCHES):
        with transaction.atomic():
            expired = Session.objects.filter(expire_date__lt=timezone.now()).select_for_update(skip_locked=True)
            keys = list(expired.order_by("expire_date").values_list("pk", flat=True)[:BATCH])
            AccountSession.objects.filter(pk__in=keys).delete()
            Session.objects.filter(pk__in=keys).delete()
        deleted += len(keys)
        if len(keys) < BATCH:
            break
    return deleted
