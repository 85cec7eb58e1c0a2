"""Write for pages what services refuse: with the names of tools and teams for people."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from django.core.exceptions import ValidationError

from licenses.errors import Refusal
from licenses.models import Team, Tool


def of_refusal(refusal: Refusal) -> str:
    """Return the text of a refusal with names for people."""
    return refusal.with_names(_names(refusal.facts))


def of_error(error: ValidationError) -> ValidationError:
    """Return an error with names for people in its messages that have a ``tool`` or a ``team`` among their params."""
    for message in chain(*error.error_dict.values()) if hasattr(error, "error_dict") else error.error_list:
        if message.params:
            message.params = {**message.params, **_names(message.params)}
    return error


def _names(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the names for people of the tool and the team among these facts."""
    rows = {
        "tool": Tool.objects.filter(name=facts["tool"]).first() if facts.get("tool") else None,
        "team": Team.objects.filter(name=facts["team"]).first() if facts.get("team") else None,
    }
    return {kind: str(row) for kind, row in rows.items() if row is not None}
