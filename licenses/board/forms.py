"""The form that gets a seat of a tool."""

import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from licenses.leases.requests import BorrowRequest, IdempotencyKey
from licenses.models import Tool
from licenses.models.tool import MAX_CAPACITY
from licenses.names import NAME_LENGTH, is_name
from licenses.policy import Item

MINUTE = 60
HOUR = 60 * MINUTE
TIMES = {
    15 * MINUTE: "15 minutes",
    30 * MINUTE: "30 minutes",
    HOUR: "1 hour",
    2 * HOUR: "2 hours",
    4 * HOUR: "4 hours",
    8 * HOUR: "8 hours",
    24 * HOUR: "1 day",
}
WAITS = {
    0: "not at all",
    30 * MINUTE: "30 minutes",
    2 * HOUR: "2 hours",
    8 * HOUR: "8 hours",
    24 * HOUR: "1 day",
    3 * 24 * HOUR: "3 days",
}
USUAL_TIME, USUAL_WAIT = HOUR, 8 * HOUR


# The same words for every number that is too small or too large.
BOUNDS = {"min_value": "At least %(limit_value)s.", "max_value": "At most %(limit_value)s."}


def is_a_name(text: str) -> None:
    """Raise ValidationError unless a host or a project can have this name."""
    if not is_name(text):
        raise ValidationError("Use visible characters, on one line.")


class SeatForm(forms.Form):
    """Seats of a tool for a person, for a time. Each form has a key, so that a form that is sent twice borrows once."""

    seats = forms.IntegerField(min_value=1, max_value=MAX_CAPACITY, initial=1, error_messages=BOUNDS)
    seconds = forms.TypedChoiceField(coerce=int, label="For", initial=USUAL_TIME)
    wait_seconds = forms.TypedChoiceField(
        coerce=int, choices=list(WAITS.items()), label="If none is free, wait", initial=USUAL_WAIT
    )
    team = forms.ChoiceField(required=False)
    project = forms.CharField(required=False, max_length=NAME_LENGTH, validators=[is_a_name])
    host = forms.CharField(required=False, max_length=NAME_LENGTH, validators=[is_a_name])
    key = forms.UUIDField()

    def __init__(self, *args: Any, tool: Tool, teams: Iterable[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tool = tool
        longest = tool.max_ttl.total_seconds() if tool.max_ttl is not None else max(TIMES)
        times = {seconds: text for seconds, text in TIMES.items() if seconds <= longest}
        fields: dict[str, Any] = self.fields
        # Shorter than all of them: the longest that there is.
        fields["seconds"].choices = list(times.items()) or [(int(longest), f"{int(longest)} seconds")]
        fields["seconds"].initial = min(USUAL_TIME, max(dict(fields["seconds"].choices)))
        fields["team"].choices = [("", "the server chooses"), *teams]

    @property
    def new_key(self) -> str:
        """Return a new key for the form. A form that was refused or wrong can be sent again with it."""
        return str(uuid.uuid4())

    @property
    def has_teams(self) -> bool:
        """Return whether there is a choice of teams."""
        fields: dict[str, Any] = self.fields
        return len(fields["team"].choices) > 2

    def request(self, user: str, teams: frozenset[str]) -> BorrowRequest:
        """Return what the person asks for. A place in the queue is kept without polls."""
        data = self.cleaned_data
        return BorrowRequest(
            user=user,
            alternatives=((Item(self.tool.name, data["seats"]),),),
            team=data["team"] or None,
            project=data["project"],
            host=data["host"],
            ttl=timedelta(seconds=data["seconds"]),
            wait=timedelta(seconds=data["wait_seconds"]),
            asserted_teams=teams,
            kept=True,
        )

    def idempotency_key(self, user: str) -> IdempotencyKey:
        """Return the key of this form."""
        return IdempotencyKey(user=user, key=f"board-{self.cleaned_data['key']}")
