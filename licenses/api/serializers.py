"""Read requests and write answers of the API. No rule of the domain is here."""

import re
import unicodedata
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, ClassVar

from django.utils import timezone
from rest_framework import serializers

from licenses.leases import requests
from licenses.leases.requests import Waiting
from licenses.models import Denial, EndReason, Lease, Tool
from licenses.models.lease import NOTE_LENGTH
from licenses.models.tool import MAX_CAPACITY, MAX_TTL, MIN_TTL
from licenses.names import NAME_LENGTH, is_clean
from licenses.policy import Item, State
from licenses.visibility import LeaseNames

from . import answers, formats

MAX_ITEMS = 32
MAX_ALTERNATIVES = 16
MAX_WAIT_SECONDS = 7 * 24 * 3600


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
    """Return what takes data as the serializer does, or gives up with None: by the limits of
    its fields, where they are texts in ASCII, numbers or ids."""
    shared = _shared(serializer)
    fields = shared.fields
    readers = {name: reader for name, field in fields.items() if (reader := _reader(field))}
    required = [name for name, field in fields.items() if field.required]
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
        if not all(name in attrs for name in required):
            return None
        try:
            validated: dict[str, Any] = shared.validate(attrs)
        except serializers.ValidationError:
            return None
        return validated

    return plain


def _reader(field: Any) -> Callable[[Any], Any] | None:
    """Return what a value is if it is plainly right, and else None; None for a field of another kind."""
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


class ItemRequest(StrictBody):
    """Seats of one tool."""

    tool = ToolNameField(max_length=64)
    seats = StrictIntegerField(default=1, min_value=1, max_value=MAX_CAPACITY)


class ItemsField(serializers.ListField):
    """A set of tools, each once."""

    child = ItemRequest()

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = super().to_internal_value(data)
        names = [item["tool"] for item in items]
        if len(set(names)) < len(names):
            raise serializers.ValidationError("A set names a tool twice. Name it once, with more seats.")
        return items


class BorrowRequest(StrictBody):
    """Name the seats with one of ``tool``, ``items`` and ``alternatives``."""

    user = CleanTextField(required=False, max_length=NAME_LENGTH, help_text="The user. Default: the caller.")
    team = TeamNameField(
        required=False,
        max_length=64,
        help_text="The user's team for this lease. Default: the server chooses.",
    )
    project = CleanTextField(default="", max_length=NAME_LENGTH, allow_blank=True, help_text="The project.")
    host = CleanTextField(default="", max_length=NAME_LENGTH, allow_blank=True)
    tool = ToolNameField(required=False, max_length=64)
    seats = StrictIntegerField(
        required=False, min_value=1, max_value=MAX_CAPACITY, help_text="Seats of `tool`. Default: 1."
    )
    items = ItemsField(
        required=False,
        allow_empty=False,
        max_length=MAX_ITEMS,
        help_text="Seats of several tools: the server grants all of them or none.",
    )
    alternatives = serializers.ListField(
        child=ItemsField(allow_empty=False, max_length=MAX_ITEMS),
        required=False,
        allow_empty=False,
        max_length=MAX_ALTERNATIVES,
        help_text="Sets of items, the preferred one first. The server grants the first one that it can.",
    )
    ttl_seconds = StrictIntegerField(
        required=False,
        min_value=int(MIN_TTL.total_seconds()),
        max_value=int(MAX_TTL.total_seconds()),
        help_text="Free the seats this time after the last heartbeat. Default: the tool's default.",
    )
    wait_seconds = StrictIntegerField(
        default=0,
        min_value=0,
        max_value=MAX_WAIT_SECONDS,
        help_text="If no seat is free, wait in the queue for at most this time.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        wanted = [name for name in ("tool", "items", "alternatives") if name in attrs]
        if not wanted:
            raise serializers.ValidationError({"tool": ["This field is required."]})
        if len(wanted) > 1:
            raise serializers.ValidationError({wanted[1]: [f"Send this field or {wanted[0]}, not both."]})
        if "seats" in attrs and "tool" not in attrs:
            raise serializers.ValidationError(
                {"seats": ["Use this field only with tool. Otherwise give seats in each item."]}
            )
        return attrs


def asked_for(body: Any, *, caller: str) -> requests.BorrowRequest:
    """Read the body of a borrow. Raises ValidationError.

    ``caller`` is the caller's name, the default of the user; '' for none.
    """
    data = BorrowRequest.validated(body)
    user = data.get("user", caller)
    if not user:
        raise serializers.ValidationError({"user": ["This field is required."]})
    if "tool" in data:
        sets = [[{"tool": data["tool"], "seats": data.get("seats", 1)}]]
    else:
        sets = data.get("alternatives") or [data["items"]]
    ttl = data.get("ttl_seconds")
    return requests.BorrowRequest(
        user=user,
        team=data.get("team"),
        project=data["project"],
        host=data["host"],
        alternatives=tuple(tuple(Item(**item) for item in items) for items in sets),
        ttl=timedelta(seconds=ttl) if ttl is not None else None,
        wait=timedelta(seconds=data["wait_seconds"]),
    )


class IdempotencyKey(serializers.Serializer[Any]):
    """The header Idempotency-Key."""

    PLAIN: ClassVar[re.Pattern[str]] = re.compile(r"[!-~]{1,255}")

    key = serializers.RegexField(
        r"^[!-~]{1,255}\Z", trim_whitespace=False, error_messages={"invalid": "1 to 255 visible ASCII characters."}
    )

    @classmethod
    def of(cls, header: str) -> str:
        """Return the key of a header; raises ValidationError."""
        if cls.PLAIN.fullmatch(header):
            return header
        made = cls(data={"key": header})
        if not made.is_valid():
            raise serializers.ValidationError({"Idempotency-Key": made.errors["key"]})
        key: str = made.validated_data["key"]
        return key


class LeaseRequest(StrictBody):
    id = StrictUUIDField()


class ForceReturnRequest(StrictBody):
    reason = CleanTextField(
        max_length=NOTE_LENGTH, help_text="The reason. The holder sees it, and the server keeps it."
    )


class ReturnAnswer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ok"])
    tool = serializers.CharField()


class SeatsSerializer(serializers.Serializer[Any]):
    """The seats of a tool now.

    ``borrowed``, ``reserved_idle``, ``set_aside`` and ``available`` add up to the
    capacity, unless the tool is overdrawn or not open. Then ``available`` is 0.
    """

    borrowed = serializers.IntegerField(source="levels.borrowed", help_text="Borrowed seats.")
    available = serializers.IntegerField(
        source="levels.available", help_text="Seats that every user can borrow; 0 unless `state` is open."
    )
    reserved_idle = serializers.IntegerField(
        source="levels.reserved_idle", help_text="Free seats that are reserved for teams."
    )
    set_aside = serializers.IntegerField(
        source="levels.set_aside", help_text="Free seats that are set aside for the queue."
    )
    overdraft = serializers.IntegerField(help_text="Seats that can be borrowed above the capacity.")
    overdrawn = serializers.IntegerField(help_text="Seats that are borrowed above the capacity.")
    state = serializers.ChoiceField(choices=[*State], help_text="`open`, or the first reason why no seats are granted.")


class ToolStatus(SeatsSerializer):
    """The seats of a tool now."""

    tool = serializers.CharField(source="name", help_text="The tool's name.")
    display_name = serializers.CharField()
    total = serializers.IntegerField(source="capacity", help_text="The capacity: seats bought.")
    queued = serializers.IntegerField(help_text="Requests in the queue.")
    oldest_wait_seconds = serializers.SerializerMethodField(help_text="The wait of the oldest of them.")
    enabled = serializers.BooleanField()
    valid_from = serializers.DateTimeField(allow_null=True, help_text="The start of the license; null = none.")
    valid_until = serializers.DateTimeField(allow_null=True, help_text="The end of the license; null = none.")

    def get_fields(self) -> dict[str, Any]:
        # Put the tool first.
        fields = super().get_fields()
        return {name: fields[name] for name in ("tool", "display_name", "total")} | fields

    def get_oldest_wait_seconds(self, tool: Tool) -> float:
        """Give the schema a type; ``answers.tool_status`` writes the answer."""
        raise NotImplementedError

    def to_representation(self, tool: Tool) -> dict[str, Any]:
        return answers.tool_status(tool, now=timezone.now())


class StatusQuery(StrictSerializer):
    user = CleanTextField(required=False, max_length=NAME_LENGTH, help_text="Also count the seats for this user.")
    team = TeamNameField(required=False, max_length=64, help_text="Also count the seats for this team.")


class ToolStatusForYou(ToolStatus):
    """The seats of a tool now, also for one user or team."""

    available_to_you = serializers.IntegerField(
        required=False,
        help_text="Seats that this user and team can borrow in one call; absent if the query names neither.",
    )


class ExplanationSerializer(serializers.Serializer[Any]):
    """The answer that a borrow would get now."""

    granted = serializers.BooleanField(help_text="Whether the borrow would get its seats.")
    alternative = serializers.IntegerField(allow_null=True, help_text="The alternative that it would get, from 0.")
    team = serializers.CharField(allow_null=True, help_text="The team of the lease.")
    reasons = serializers.ListField(
        child=serializers.DictField(),
        help_text="Each rule that blocks an alternative before it: code, text, numbers.",
    )
    expected_seconds = serializers.IntegerField(
        allow_null=True, help_text="Expected time until seats are free, estimated from recent leases; null if unknown."
    )
    reasons_omitted = serializers.IntegerField(help_text="The number of reasons that are not listed.")


class LeaseItem(serializers.ModelSerializer[Lease]):
    """The seats of one tool in a lease."""

    tool = serializers.CharField()

    class Meta:
        model = Lease
        fields = ["tool", "seats", "overdraft_seats", "fence"]
        read_only_fields = fields

    def to_representation(self, item: Lease) -> dict[str, Any]:
        return answers.lease_item(item)


class LeaseSerializer(serializers.ModelSerializer[Lease]):
    """A lease at the database's time ``now`` of the context, by its first row.

    ``leases`` of the context are its rows, if the view has them. ``names`` of the
    context selects the leases that show names; without it the lease is the
    caller's own. ``tool``, ``seats`` and ``fence`` are those of the first item.
    The fields are only for the schema: ``answers.lease`` writes the answer.
    """

    tool = serializers.CharField()
    user = serializers.CharField(help_text="Empty if LICENSE_SHOW_HOLDERS hides names.")
    team = serializers.CharField(allow_null=True, help_text="The team of the lease.")
    end_reason = serializers.ChoiceField(choices=["", *EndReason.values], help_text="Empty while the lease is active.")
    heartbeat_seconds = serializers.FloatField(
        allow_null=True, help_text="Renew the lease this often; null if it does not expire."
    )
    server_time = serializers.DateTimeField(
        help_text="The server's time, to compute the time left without a correct clock."
    )
    items = LeaseItem(many=True)

    class Meta:
        model = Lease
        fields = [
            "id",
            "tool",
            "user",
            "team",
            "project",
            "host",
            "seats",
            "overdraft_seats",
            "borrowed_at",
            "expires_at",
            "heartbeat_seconds",
            "server_time",
            "fence",
            "items",
            "ended_at",
            "end_reason",
            "end_note",
            "borrowed_by",
            "ended_by",
        ]
        read_only_fields = fields

    def to_representation(self, lease: Lease) -> dict[str, Any]:
        now: datetime = self.context["now"]
        names: LeaseNames | None = self.context.get("names")
        # Over or not, before it is asked whose names are shown on it.
        lease.end_when_over(now)
        shown = names is None or names.shown_on(lease, now)
        return answers.lease(lease, self.leases(lease), now=now, shown=shown)

    def leases(self, head: Lease) -> list[Lease]:
        leases: list[Lease] | None = self.context.get("leases")
        return leases if leases is not None else head.items


class LeaseRecordSerializer(LeaseSerializer):
    """A lease in the history, with its seat-hours and cost until now."""

    seat_hours = serializers.FloatField(help_text="The sum of its items.")
    cost = serializers.DecimalField(
        max_digits=None,
        decimal_places=2,
        allow_null=True,
        help_text="The sum of the items with a price, at today's prices; null if no tool has one.",
    )

    class Meta(LeaseSerializer.Meta):
        fields = [*LeaseSerializer.Meta.fields, "seat_hours", "cost"]
        read_only_fields = fields

    def to_representation(self, lease: Lease) -> dict[str, Any]:
        now: datetime = self.context["now"]
        items = self.leases(lease)
        costs = [cost for item in items if (cost := item.cost(now)) is not None]
        return super().to_representation(lease) | {
            "seat_hours": round(sum(item.seat_hours(now) for item in items), 3),
            "cost": str(sum(costs, Decimal(0)).quantize(Decimal("0.01"))) if costs else None,
        }


class GrantedSerializer(LeaseSerializer):
    """A lease as the answer to a borrow."""

    alternative = serializers.IntegerField(help_text="The number of the alternative, from 0.")

    class Meta(LeaseSerializer.Meta):
        fields = [*LeaseSerializer.Meta.fields, "alternative"]
        read_only_fields = fields


class WaitingSerializer(serializers.Serializer[Waiting]):
    """A ticket and its position in the queue."""

    ticket = serializers.UUIDField(source="ticket.id")
    position = serializers.IntegerField(help_text="1 is the next.")
    eta_seconds = serializers.SerializerMethodField(
        help_text="Expected wait, estimated from recent leases; null if unknown."
    )
    poll_after = serializers.SerializerMethodField(
        help_text="Poll again after this number of seconds. The server drops a ticket without a poll for twice "
        "that time, at least 20 seconds."
    )
    deadline = serializers.DateTimeField(source="ticket.deadline")

    def get_eta_seconds(self, waiting: Waiting) -> int | None:
        """Give the schema a type; ``answers.waiting`` writes the answer."""
        raise NotImplementedError

    def get_poll_after(self, waiting: Waiting) -> int:
        """Give the schema a type; ``answers.waiting`` writes the answer."""
        raise NotImplementedError

    def to_representation(self, waiting: Waiting) -> dict[str, Any]:
        return answers.waiting(waiting)


class DenialSerializer(serializers.ModelSerializer[Denial]):
    """An episode of refusals of one kind."""

    tool = serializers.CharField(source="tool.name")
    resolved_by = serializers.UUIDField(source="resolved_by_id", allow_null=True, help_text="The lease that ended it.")

    class Meta:
        model = Denial
        fields = [
            "id",
            "tool",
            "user",
            "host",
            "code",
            "seats",
            "first_at",
            "last_at",
            "attempts",
            "resolved_at",
            "resolved_by",
        ]
        read_only_fields = fields


class ToolSerializer(SeatsSerializer, serializers.ModelSerializer[Tool]):
    default_ttl_seconds = serializers.SerializerMethodField(help_text="Null: leases last until they are returned.")
    max_ttl_seconds = serializers.SerializerMethodField(help_text="Null: no limit.")

    class Meta:
        model = Tool
        fields = [
            "name",
            "display_name",
            "vendor",
            "capacity",
            "borrowed",
            "available",
            "reserved_idle",
            "set_aside",
            "overdraft",
            "overdrawn",
            "user_limit",
            "seat_hour_price",
            "overdraft_hour_price",
            "default_ttl_seconds",
            "max_ttl_seconds",
            "enabled",
            "state",
            "valid_from",
            "valid_until",
        ]
        read_only_fields = fields

    def get_default_ttl_seconds(self, tool: Tool) -> float | None:
        return tool.default_ttl.total_seconds() if tool.default_ttl is not None else None

    def get_max_ttl_seconds(self, tool: Tool) -> float | None:
        return tool.max_ttl.total_seconds() if tool.max_ttl is not None else None


class Problem(serializers.Serializer[Any]):
    """A problem document (RFC 9457).

    ``code`` is stable. ``detail`` is for people. Other members have the numbers.
    """

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField()
    detail = serializers.CharField()
    request_id = serializers.CharField(
        required=False,
        help_text="With a 5xx status: the X-Request-ID of the answer. Find the request in the server's log with it.",
    )
