"""The caller: who sent this request, and what the credential may do."""

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from licenses.access.callers import Kind, Scope
from licenses.clock import database_now

from .authentication import caller_of
from .common.calls import CallViewSet
from .permissions import IsKnown


class CallerSerializer(serializers.Serializer[object]):
    """Who calls."""

    kind = serializers.ChoiceField(choices=[kind.value for kind in Kind], help_text="How the caller was identified.")
    name = serializers.CharField(help_text="The user of the caller's leases; empty for a team's token.")
    teams = serializers.ListField(child=serializers.CharField(), help_text="The teams that the credential asserts.")
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=[scope.value for scope in Scope]))
    credential = serializers.CharField(help_text="The name of the credential in the log; empty if there is none.")
    expires_at = serializers.DateTimeField(
        allow_null=True, help_text="The end of the token or JWT; null if it has none, or if this is none."
    )
    server_time = serializers.DateTimeField()


class CallerViewSet(CallViewSet):
    """The caller."""

    permission_classes = [IsKnown]

    @extend_schema(responses={200: CallerSerializer})
    def retrieve(self, request: Request) -> Response:
        """Show who calls: the user, the scopes and the end of the credential."""
        caller = caller_of(request)
        return Response(
            {
                "kind": caller.kind,
                "name": caller.name,
                "teams": sorted(caller.teams),
                "scopes": [scope for scope in Scope if scope in caller.scopes],
                "credential": caller.credential,
                "expires_at": caller.expires_at,
                "server_time": database_now(),
            }
        )
