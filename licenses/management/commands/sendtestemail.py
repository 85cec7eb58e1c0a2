"""Send a test mail with Django's command, and say what became of it."""

import smtplib
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.core.management.commands import sendtestemail

from licenses.management.base import ServerCommand
from licenses.notifications import mail


class Command(ServerCommand, sendtestemail.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.EMAIL_HOST:
            raise CommandError("LICENSE_EMAIL_HOST is not set, so the server sends no mail.")
        try:
            super().handle(*args, **options)
        except (OSError, smtplib.SMTPException) as error:
            raise CommandError(mail.reason(error)) from None
        self.stdout.write(f"Accepted by {settings.EMAIL_HOST}")
