"""What the API takes and gives. No rule of the domain is decided here."""

import unicodedata
import uuid
from typing import Any

from rest_framework import serializers

from licenses.models import EndReason, Lease, Tool
from licenses.models.tool import MAX_CAPACITY

# Control, format (invisible, text direction), lone surrogates, private use,
# line and paragraph separators: nothing that belongs in a name, and all of it
# is trouble in a log or on a screen.
UNCLEAN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def clean_text(value: str) -> str:
    """The text in NFC; raises ValidationError for invisible characters."""
    if any(unicodedata.category(character) in UNCLEAN_CATEGORIES for character in value):
        raise serializers.ValidationError("Control and invisible characters are not allowed.")
    return unicodedata.normalize("NFC", value)


class CleanTextField(serializers.CharField):
    """A short text on one line; a JSON string, nothing that looks like one."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        # The text is measured as it came: normalising makes none longer than DRF's limit allows.
        return clean_text(super().to_internal_value(data))

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if isinstance(data, str):
            # Before DRF's own checks, whose messages for these are obscure.
            clean_text(data)
        return super().run_validation(data)


class StrictIntegerField(serializers.IntegerField):
    """A JSON number without a fraction; neither a string nor true."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            self.fail("invalid")
        return super().to_internal_value(data)


class StrictUUIDField(serializers.UUIDField):
    """A UUID in a JSON string; DRF alone would also take a number for one."""

    def to_internal_value(self, data: Any) -> uuid.UUID:
        if not isinstance(data, str):
            self.fail("invalid", value=data)
        return super().to_internal_value(data)


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses fields that it doesn't know: a client that sends one believes in
    an effect that it hasn't."""

    def to_internal_value(self, data: Any) -> Any:
        unknown = set(data) - set(self.fields)
        if unknown:
            raise serializers.ValidationError({name: ["There is no such field."] for name in sorted(unknown)})
        return super().to_internal_value(data)


class BorrowRequest(StrictSerializer):
    tool = CleanTextField(max_length=64)
    user = CleanTextField(max_length=64)
    seats = StrictIntegerField(default=1, min_value=1, max_value=MAX_CAPACITY)
    host = CleanTextField(default="", max_length=255, allow_blank=True)


class ReturnRequest(StrictSerializer):
    id = StrictUUIDField()


class ReturnAnswer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ok"])
    tool = serializers.CharField()


class ToolStatus(serializers.Serializer[Any]):
    """A tool's seats now."""

    tool = serializers.CharField(source="name", help_text="The tool's name.")
    display_name = serializers.CharField()
    total = serializers.IntegerField(source="capacity", help_text="Seats bought.")
    borrowed = serializers.IntegerField(source="in_use", help_text="Seats that are out.")
    available = serializers.IntegerField(help_text="Seats that are free; never below 0.")
    enabled = serializers.BooleanField()


class LeaseSerializer(serializers.ModelSerializer[Lease]):
    tool = serializers.CharField(source="tool.name")
    end_reason = serializers.ChoiceField(choices=["", *EndReason.values], help_text="Empty while the lease is active.")

    class Meta:
        model = Lease
        fields = ["id", "tool", "user", "host", "seats", "borrowed_at", "ended_at", "end_reason", "end_note"]
        read_only_fields = fields


class ToolSerializer(serializers.ModelSerializer[Tool]):
    borrowed = serializers.IntegerField(source="in_use", help_text="Seats that are out.")
    available = serializers.IntegerField(help_text="Seats that are free; never below 0.")

    class Meta:
        model = Tool
        fields = [
            "name",
            "display_name",
            "vendor",
            "capacity",
            "borrowed",
            "available",
            "enabled",
            "valid_from",
            "valid_until",
        ]
        read_only_fields = fields


class Problem(serializers.Serializer[Any]):
    """RFC 9457. ``code`` is stable; ``detail`` is for people; more members
    carry the numbers."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField()
    detail = serializers.CharField()
