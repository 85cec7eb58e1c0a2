"""Create the first administrator from environment variables."""

from typing import Any

from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.db import transaction

from licenses import auditing
from licenses.auditing import Actor
from licenses.management.base import ServerCommand
from licenses.models import ApiToken
from licenseserver import environment


class Command(ServerCommand):
    help = "Create the superuser ADMIN_USERNAME with ADMIN_PASSWORD, unless an account has that name."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            username = environment.text("ADMIN_USERNAME")
            password = environment.text("ADMIN_PASSWORD")
        except environment.SettingError as error:
            raise CommandError(str(error)) from None
        users = User.objects
        if users.filter(username=username).exists():
            self.stdout.write(f"{username}: exists, not changed")
            return
        try:
            validate_password(password, User(username=username))
        except ValidationError as error:
            raise CommandError(f"ADMIN_PASSWORD: {' '.join(error.messages)}") from None
        with transaction.atomic():
            user = users.create_superuser(username=username, password=password)
            ApiToken.objects.bind(user)
            auditing.created([user], by=Actor.of_command("ensure_admin"))
        self.stdout.write(f"{username}: created")
