"""Create a superuser with Django's command, and record it in the audit."""

from typing import Any

from django.contrib.auth.management.commands import createsuperuser
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Max

from licenses import auditing
from licenses.auditing import Actor
from licenses.management.base import ServerCommand
from licenses.models import ApiToken


class Command(ServerCommand, createsuperuser.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        last = User.objects.aggregate(pk=Max("pk"))["pk"] or 0
        # Use no transaction around this, because it waits for the user's input.
        super().handle(*args, **options)
        with transaction.atomic():
            new = list(User.objects.filter(pk__gt=last, is_superuser=True))
            for account in new:
                ApiToken.objects.bind(account)
            auditing.created(new, by=Actor.of_command("createsuperuser"))
