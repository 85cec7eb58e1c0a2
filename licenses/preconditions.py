"""Refuse a change of a row that is not the one that the caller has read.

A service calls its ``check`` with the row before the change, under the lock, or with None if
there is no row. So of two callers who have read the same row, only one changes it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils.crypto import salted_hmac

from . import auditing
from .errors import OutOfDate
from .models import Tool

# Takes the row before the change, or None. Raises a Refusal.
Check = Callable[[Any], None]


def accept(row: Any) -> None:
    """Accept every row: the default check of the services."""


def version_of(row: models.Model) -> str:
    """Return the version of a row: a hash of its editable fields, and of the contracts of a tool. Borrowed
    seats do not change it. The hash has a key, so that nobody finds a hidden price by trying."""
    state = auditing.state(row)
    if isinstance(row, Tool):
        state["contracts"] = [auditing.state(contract) | {"id": contract.pk} for contract in row.contracts.all()]
    text = json.dumps([row._meta.model_name, row.pk, state], cls=DjangoJSONEncoder, sort_keys=True)
    return salted_hmac("licenses.version", text, algorithm="sha256").hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Precondition:
    """What ``If-Match`` and ``If-None-Match`` ask for (RFC 9110, 13.1): versions, or None without the header.
    ``*`` is every version."""

    match: frozenset[str] | None = None
    none_match: frozenset[str] | None = None

    def __call__(self, row: models.Model | None) -> None:
        """Raise OutOfDate unless the row, None if there is none, is as asked for."""
        if self.match is None and self.none_match is None:
            return
        current = frozenset() if row is None else frozenset({version_of(row), "*"})
        if self.match is not None and not self.match & current:
            raise OutOfDate("It does not exist." if row is None else "It was changed since you read it.")
        if self.none_match is not None and self.none_match & current:
            raise OutOfDate("It exists already.")
