"""Accounts: see them, and deactivate them."""

from typing import Any

from django.contrib.auth.models import User
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from licenses.access import accounts, rules
from licenses.errors import MoreRights, OutOfDate, UnknownRow
from licenses.models.lease import NOTE_LENGTH
from licenses.names import ACCOUNT_NAME_LENGTH, is_clean

from .authentication import caller_of
from .common.fields import CleanTextField, StrictBody
from .common.openapi import refused_by
from .common.writing import ETAG, IF_MATCH, AccountPages, RowsViewSet, etag_of, example

USERNAME = OpenApiParameter("username", OpenApiTypes.STR, OpenApiParameter.PATH)


class AccountSerializer(serializers.ModelSerializer[User]):
    """An account."""

    # Without an address it is empty.
    email = serializers.CharField()
    groups = serializers.SerializerMethodField()

    class Meta:
        model = User
        fields = ["username", "email", "is_active", "is_staff", "is_superuser", "groups", "last_login", "date_joined"]
        read_only_fields = fields

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_groups(self, account: User) -> list[str]:
        return sorted(group.name for group in account.groups.all())


class EndedSerializer(serializers.Serializer[Any]):
    """What ended with an account."""

    tokens = serializers.ListField(child=serializers.IntegerField(), help_text="The ids of the revoked tokens.")
    sessions = serializers.IntegerField(help_text="The number of sessions.")
    tickets = serializers.ListField(child=serializers.UUIDField(), help_text="The tickets that left the queue.")
    leases = serializers.ListField(child=serializers.UUIDField(), help_text="The leases that were force-returned.")


class DeactivatedAccount(AccountSerializer):
    """A deactivated account, and what ended with it."""

    ended = EndedSerializer()

    class Meta(AccountSerializer.Meta):
        fields = [*AccountSerializer.Meta.fields, "ended"]
        read_only_fields = fields


class Deactivation(StrictBody):
    """How to deactivate an account."""

    reason = CleanTextField(
        required=False,
        max_length=NOTE_LENGTH,
        help_text="Force-return the open leases of the account, for this reason. Without it they end by themselves.",
    )


class AccountViewSet(RowsViewSet):
    """Accounts. To create one or to change its rights, use the admin or the sign-in provider."""

    model = User
    queryset = User.objects.prefetch_related("groups").order_by("username")
    serializer_class = AccountSerializer
    pagination_class = AccountPages
    # To deactivate is to change.
    right_of = {"add": "change"}

    def account(self, username: str) -> User:
        """Return the account of this name. Raises UnknownRow."""
        valid = is_clean(username) and len(username) <= ACCOUNT_NAME_LENGTH
        account: User | None = self.get_queryset().filter(username=username).first() if valid else None
        if account is None:
            raise UnknownRow(kind="account", name=username)
        return account

    def list(self, request: Request) -> Response:
        """List the accounts."""
        return self.pages(self.get_queryset())

    @extend_schema(parameters=[USERNAME, ETAG], responses={200: AccountSerializer} | refused_by(UnknownRow))
    def retrieve(self, request: Request, username: str) -> Response:
        """Show an account."""
        return self.shown(self.account(username))

    @extend_schema(
        parameters=[USERNAME, ETAG, IF_MATCH],
        request=Deactivation,
        examples=example("The person left", {"reason": "Left the company."}),
        responses={200: DeactivatedAccount} | refused_by(UnknownRow, MoreRights, OutOfDate),
    )
    def deactivate(self, request: Request, username: str) -> Response:
        """Deactivate an account for good: when a person leaves.

        Its tokens are revoked, its sessions end, and its tickets leave the queue. With a reason, its open
        leases are force-returned. Harmless if it was deactivated before.
        """
        caller = caller_of(request)
        reason = Deactivation.validated(request.data).get("reason", "")
        if reason and not caller.is_admin(rules.CHANGE_LEASES):
            raise PermissionDenied("A reason force-returns leases, and you may not change leases.")
        allowed = self.check()

        def check(account: User) -> None:
            rules.require_rights_of(caller, account)
            allowed(account)

        found = self.account(username)
        ended = accounts.deactivate(found, by=self.actor, force_note=reason, check=check)
        row = self.account(username)
        data = self.get_serializer(row).data | {"ended": EndedSerializer(ended).data}
        return Response(data, headers=etag_of(row))
