"""Change a password with Django's command, and record it in the audit."""

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
        # Use no transaction around this, because it waits for the user's input.
        done = super().handle(*args, **options)
        after = User.objects.get(pk=before.pk) if before else None
        if before and after and after.password != before.password:
            with transaction.atomic():
                auditing.password_changed(after, by=Actor.of_command("changepassword"))
        return done
