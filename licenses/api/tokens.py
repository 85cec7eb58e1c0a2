"""API tokens: create, list and revoke them."""

from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from licenses.access import tokens
from licenses.access.callers import Scope
from licenses.errors import MoreRights, OutOfDate, TooManyTokens, UnknownRow, UnknownTeam
from licenses.models import ApiToken
from licenses.names import NAME_LENGTH
from licenses.tools.quotas import find_team

from .authentication import caller_of
from .common.fields import CleanTextField, MomentField, StrictSerializer, TeamNameField
from .common.openapi import refused_by
from .common.writing import ETAG, IF_MATCH, LatestPages, RowsViewSet, deleted_by, etag_of, example


class TokenSerializer(serializers.ModelSerializer[ApiToken]):
    """An API token without its secret."""

    team = serializers.SerializerMethodField(help_text="The token acts for the members of this team.")
    user = serializers.CharField(help_text="The token acts as this user; empty for another token.")
    scopes = serializers.SerializerMethodField()
    created_by = serializers.SerializerMethodField(help_text="The account that created it; null for a command.")

    class Meta:
        model = ApiToken
        fields = [
            "id",
            "name",
            "hint",
            "team",
            "user",
            "scopes",
            "created_at",
            "created_by",
            "expires_at",
            "last_used_at",
            "revoked_at",
        ]
        read_only_fields = fields

    def get_team(self, token: ApiToken) -> str | None:
        return token.team.name if token.team is not None else None

    @extend_schema_field(serializers.ListField(child=serializers.ChoiceField(choices=[*Scope])))
    def get_scopes(self, token: ApiToken) -> list[str]:
        return sorted(token.scopes)

    def get_created_by(self, token: ApiToken) -> str | None:
        return token.maker_name


class IssuedToken(TokenSerializer):
    """A new API token with its secret, which cannot be read again."""

    secret = serializers.CharField(read_only=True)

    class Meta(TokenSerializer.Meta):
        fields = [*TokenSerializer.Meta.fields, "secret"]
        read_only_fields = fields


class NewToken(StrictSerializer):
    """A new API token, of a team, of a user, or of neither."""

    name = CleanTextField(max_length=64, help_text="The purpose of the token.")
    team = TeamNameField(
        required=False, allow_null=True, max_length=64, help_text="The token acts for the members of this team."
    )
    user = CleanTextField(
        required=False, allow_blank=True, max_length=NAME_LENGTH, help_text="The token acts as this user."
    )
    scopes = serializers.ListField(
        required=False,
        child=serializers.ChoiceField(choices=[*Scope]),
        min_length=1,
        max_length=len(Scope),
        help_text="Without it: read, and borrow if the token has a team or a user.",
    )
    expires_at = MomentField(
        required=False,
        help_text="At most 366 days from now; without it, 90 days. `LICENSE_OWN_TOKEN_DAYS` limits both, except for "
        "superusers.",
    )


class TokenViewSet(RowsViewSet):
    """API tokens."""

    model = ApiToken
    serializer_class = TokenSerializer
    pagination_class = LatestPages
    lookup_value_regex = "[0-9]{1,18}"
    # A token is never deleted. The right to change tokens is enough to revoke one, as in the admin.
    right_of = {"delete": "change"}
    queryset = ApiToken.objects.with_makers().order_by("-pk")

    def needed(self, method: str) -> list[str]:
        return [self.permission("change")] if method == "DELETE" else [*super().needed(method)]

    def list(self, request: Request) -> Response:
        """List the tokens, without their secrets, the latest first."""
        return self.pages(self.get_queryset())

    @extend_schema(parameters=[ETAG])
    def retrieve(self, request: Request, pk: int) -> Response:
        """Show a token, without its secret."""
        return self.shown(self.get_object())

    @extend_schema(
        parameters=[ETAG],
        request=NewToken,
        examples=example("A token of a team", {"name": "nightly", "team": "crash", "scopes": ["read", "borrow"]}),
        responses={201: OpenApiResponse(IssuedToken, description="The only answer with the secret.")}
        | refused_by(MoreRights, UnknownTeam, TooManyTokens, OutOfDate),
    )
    def create(self, request: Request) -> Response:
        """Create a token, and show its secret once.

        Only a superuser creates tokens of administrators, of teams and of other users. For others the site's limits of
        own tokens hold.
        """
        values = self.body(NewToken)
        team, user = values.get("team"), values.get("user", "")
        scopes = values.get("scopes") or ([Scope.READ, Scope.BORROW] if team or user else [Scope.READ])
        maker, now = tokens.maker_of(caller_of(request)), timezone.now()
        token = ApiToken(
            name=values["name"],
            team=find_team(team) if team else None,
            user=user,
            may_read=Scope.READ in scopes,
            may_borrow=Scope.BORROW in scopes,
            may_administer=Scope.ADMIN in scopes,
            created_at=now,
            expires_at=values.get("expires_at") or tokens.usual_end(maker, now),
        )
        self.check()(None)
        secret = tokens.issue_as(maker, token, by=self.actor)
        row = self.get_queryset().get(pk=token.pk)
        return Response(self.get_serializer(row).data | {"secret": secret}, status=201, headers=etag_of(row))

    @extend_schema(parameters=[IF_MATCH], responses=deleted_by(UnknownRow))
    def destroy(self, request: Request, pk: int) -> Response:
        """Revoke a token at once. It stays in the list."""
        tokens.revoke_token(key=int(pk), by=self.actor, check=self.check())
        return Response(status=204)
