"""Explain constraints that the database enforces."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction


@contextmanager
def explained(rows: Sequence[models.Model], *, exclude: Sequence[str] = ()) -> Iterator[None]:
    """Save rows within the block. Raise ValidationError for the constraint that one of them breaks.

    ``exclude`` are fields that are not validated. To ask about each constraint takes far
    longer than to save the row, so only a failure does it.
    """
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        for row in rows:
            row.full_clean(exclude=exclude)
        raise ValidationError("Another program changed the same rows at the same time. Try again.") from error
