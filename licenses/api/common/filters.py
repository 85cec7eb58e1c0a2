"""Filter lists by their query."""

from datetime import datetime
from typing import Any

import django_filters
from django.core.exceptions import ValidationError
from drf_spectacular.drainage import set_override

from licenses.clock import is_in_calendar

from . import formats
from .fields import clean_text


def within_calendar(moment: datetime) -> None:
    """Raise ValidationError for a time that is outside the years 1 to 9999 in
    UTC, though it is inside them where it was written."""
    if not is_in_calendar(moment):
        raise ValidationError("This time is out of range.")


class TextFilter(django_filters.CharFilter):
    """A filter by a text; '' filters nothing."""

    def __init__(self, *, max_length: int, **options: Any) -> None:
        super().__init__(max_length=max_length, validators=[clean_text], **options)
        set_override(self, "field", formats.TEXT | {"maxLength": max_length})
