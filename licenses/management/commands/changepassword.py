"""``manage.py changepassword``: Django's, and on record."""

import getpass
from typing import Any

from django.contrib.auth.management.commands import changepassword
from django.contrib.auth.models import User
from django.db import transaction

from licenses import auditing
from licenses.auditing import Actor


class Command(changepassword.Command):
    def handle(self, *args: Any, **options: Any) -> Any:
        before = User.objects.filter(username=options["username"] or getpass.getuser()).first()
        # Not in one transaction with the record: it asks for the password meanwhile.
        done = super().handle(*args, **options)
        after = User.objects.get(pk=before.pk) if before else None
        if before and after and after.password != before.password:
            with transaction.atomic():
                auditing.password_changed(after, by=Actor.of_command("changepassword"))
        return done
