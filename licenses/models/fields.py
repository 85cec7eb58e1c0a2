"""Fields that several tables have."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models

# Longest name of an actor for another user, with its kind.
ACTOR_LENGTH = 300


def actor_field(help_text: str) -> "models.CharField[str, str]":
    """Return a field for the account or token that acted for the user; empty if the user did."""
    return models.CharField(
        max_length=ACTOR_LENGTH, blank=True, db_default="", default="", editable=False, help_text=help_text
    )


def optional_account(on_delete: Callable[..., Any]) -> "models.ForeignKey[User | None, User | None]":
    """Return a reference to an account, or to none, without a constraint in the database.

    So the value can stay when the account is deleted (``DO_NOTHING``), and the previous version of the server
    can delete accounts without a table that it does not know.
    """
    return models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=on_delete,
        related_name="+",
        editable=False,
        db_constraint=False,
    )
