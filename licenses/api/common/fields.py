"""Read fields of requests strictly, so that a mistake gets an error and has no effect."""

import re
import unicodedata
import uuid
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import Any, ClassVar

from drf_spectacular.drainage import set_override
from rest_framework import serializers

from licenses.clock import is_in_calendar
from licenses.errors import Refusal
from licenses.models.tool import MAX_CAPACITY
from licenses.names import is_clean

from . import formats

# The largest number of Django's PositiveIntegerField.
MAX_INTEGER = 2**31 - 1


def clean_text(value: str) -> str:
    """Return the text in NFC. Raises ValidationError for invisible characters."""
    if not is_clean(value):
        raise serializers.ValidationError("Control and invisible characters are not allowed.")
    return unicodedata.normalize("NFC", value)


class CleanTextField(serializers.CharField):
    """A short text on one line. Only a JSON string is accepted."""

    schema: ClassVar[dict[str, Any]] = formats.TEXT

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        # DRF checks the length before normalizing, which makes no text too long.
        return clean_text(super().to_internal_value(data))

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if isinstance(data, str):
            # Check before DRF, because its messages for these are unclear.
            clean_text(data)
        return super().run_validation(data)


class ToolNameField(CleanTextField):
    schema = formats.TOOL_NAME


class TeamNameField(CleanTextField):
    schema = formats.TEAM_NAME


class StrictIntegerField(serializers.IntegerField):
    """A JSON number without a fraction, not a string and not true."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            self.fail("invalid")
        return super().to_internal_value(data)


class SeatsField(StrictIntegerField):
    """A number of seats: from ``least`` to the largest capacity."""

    def __init__(self, *, least: int = 1, **options: Any) -> None:
        super().__init__(min_value=least, max_value=MAX_CAPACITY, **options)


class LimitField(StrictIntegerField):
    """A limit or reservation of seats, 0 or more. It can be above the capacity."""

    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=0, max_value=MAX_INTEGER, **options)


class StrictBooleanField(serializers.BooleanField):
    """true or false. DRF would also accept text and numbers."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class SecondsField(serializers.FloatField):
    """A duration: a JSON number of seconds."""

    def to_internal_value(self, data: Any) -> float:
        if not isinstance(data, int | float) or isinstance(data, bool):
            self.fail("invalid")
        try:
            return super().to_internal_value(data)
        except OverflowError:
            self.fail("invalid")


class MoneyField(serializers.DecimalField):
    """An amount of money, not negative: a JSON string, as in the answers."""

    def __init__(self, *, max_digits: int, decimal_places: int, **options: Any) -> None:
        super().__init__(max_digits=max_digits, decimal_places=decimal_places, min_value=Decimal(0), **options)
        pattern = rf"^[0-9]{{1,{max_digits - decimal_places}}}(\.[0-9]{{1,{decimal_places}}})?$"
        self.form = re.compile(pattern, re.ASCII)
        set_override(self, "field", {"type": "string", "format": "decimal", "pattern": pattern})

    def validate_empty_values(self, data: Any) -> tuple[bool, Any]:
        # DRF would take an empty text for null.
        return serializers.Field.validate_empty_values(self, data)

    def to_internal_value(self, data: Any) -> Decimal:
        if not isinstance(data, str) or not self.form.fullmatch(data):
            self.fail("invalid")
        return super().to_internal_value(data)


class MomentField(serializers.DateTimeField):
    """A time in ISO 8601; UTC without an offset."""

    def to_internal_value(self, value: Any) -> datetime:
        if not isinstance(value, str):
            self.fail("invalid", format="ISO 8601")
        moment: datetime = super().to_internal_value(value)
        if not is_in_calendar(moment):
            self.fail("overflow")
        return moment


class DayField(serializers.DateField):
    """A day in ISO 8601."""

    def to_internal_value(self, value: Any) -> date:
        if not isinstance(value, str):
            self.fail("invalid", format="YYYY-MM-DD")
        return super().to_internal_value(value)


class StrictUUIDField(serializers.UUIDField):
    """A UUID in a JSON string. DRF would also accept a number."""

    def to_internal_value(self, data: Any) -> uuid.UUID:
        if not isinstance(data, str):
            self.fail("invalid", value=data)
        return super().to_internal_value(data)


class StrictSerializer(serializers.Serializer[Any]):
    """Refuse unknown fields: a client that sends one expects an effect that it would not have."""

    @classmethod
    def validated(cls, data: Any) -> dict[str, Any]:
        """Return the validated data. Raises ValidationError.

        One instance serves all requests, because DRF copies all fields for each
        instance, which takes longer than the validation. Validation keeps no state.
        Plain data skips DRF's steps, which find what is wrong with the rest.
        """
        plain = _plain(cls)(data)
        result: dict[str, Any] = plain if plain is not None else _shared(cls).run_validation(data)
        return result

    def to_internal_value(self, data: Any) -> Any:
        # DRF refuses anything but an object.
        if isinstance(data, dict) and (unknown := data.keys() - self.fields.keys()):
            raise serializers.ValidationError({name: ["There is no such field."] for name in sorted(unknown)})
        return super().to_internal_value(data)


class StrictBody(StrictSerializer):
    """The body of a call. In an optional field null means the same as no field."""

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        for field in fields.values():
            # Only for the schema: null does not reach the field.
            field.allow_null = not field.required
        return fields

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            fields = self.fields
            data = {
                name: value
                for name, value in data.items()
                if value is not None or name not in fields or fields[name].required
            }
        return super().to_internal_value(data)


@cache
def _shared(serializer: type[StrictSerializer]) -> StrictSerializer:
    return serializer()


# A text that no rule about characters changes or refuses.
PLAIN_TEXT = re.compile(r"[!-~](?:[ -~]*[!-~])?")
PLAIN_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@cache
def _plain(serializer: type[StrictSerializer]) -> Callable[[Any], dict[str, Any] | None]:
    """Return a function that returns the validated data, or None if that needs the serializer. It
    checks only texts in ASCII, numbers and ids, against the limits of their fields."""
    shared = _shared(serializer)
    fields = shared.fields
    readers = {name: reader for name, field in fields.items() if (reader := _reader(field))}
    required = {name for name, field in fields.items() if field.required}
    defaults = {name: field.default for name, field in fields.items() if field.default is not serializers.empty}

    def plain(data: Any) -> dict[str, Any] | None:
        if not isinstance(data, dict):
            return None
        attrs = dict(defaults)
        for name, value in data.items():
            reader = readers.get(name)
            if reader is None or (read := reader(value)) is None:
                return None
            attrs[name] = read
        if not required <= attrs.keys():
            return None
        try:
            validated: dict[str, Any] = shared.validate(attrs)
        except serializers.ValidationError:
            return None
        return validated

    return plain


def _reader(field: Any) -> Callable[[Any], Any] | None:
    """Return a function that returns a valid value or None; None for a field of another kind."""
    if isinstance(field, CleanTextField):
        longest: Any = field.max_length
        return lambda value: (
            value if type(value) is str and len(value) <= longest and PLAIN_TEXT.fullmatch(value) else None
        )
    if isinstance(field, StrictIntegerField):
        lowest: Any = field.min_value
        highest: Any = field.max_value
        return lambda value: value if type(value) is int and lowest <= value <= highest else None
    if isinstance(field, StrictUUIDField):
        return lambda value: uuid.UUID(value) if type(value) is str and PLAIN_UUID.fullmatch(value) else None
    return None


def find_uuid(value: str, unknown: type[Refusal]) -> uuid.UUID:
    """Return the id in a path. Raises ``unknown`` for text that is not a UUID."""
    try:
        return uuid.UUID(value)
    except ValueError:
        raise unknown from None
