"""The whole site as one document."""

from collections.abc import Callable, Mapping
from typing import IO, Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ParseError, PermissionDenied
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from licenses.access.rules import lacking
from licenses.auditing import Actor
from licenses.errors import InUse, InvalidSite, OutOfDate
from licenses.site import parser
from licenses.site.applying import apply, version_of
from licenses.site.plan import Act, Plan
from licenses.site.rows import one_moment, present
from licenses.site.writer import exported

from .authentication import caller_of
from .common import formats
from .common.fields import StrictBody, StrictSerializer
from .common.openapi import refused_by
from .common.parsers import StrictJSONParser
from .common.queries import FormatNegotiation, StrictQuery
from .common.writing import precondition_of
from .permissions import MaySeeSite

TOML = "application/toml"
EXAMPLE = '[tools.solver]\ncapacity = 5\n\n[tools.solver.teams.crash]\nquota = 3\n\n[teams.crash]\nmembers = ["ana"]\n'


class TomlRenderer(BaseRenderer):
    media_type = TOML
    format = "toml"
    charset = "utf-8"

    def render(self, data: Any, media_type: str | None = None, context: Mapping[str, Any] | None = None) -> str:
        text: str = data["document"]
        return text


class TomlParser(BaseParser):
    """A document that is the whole body."""

    media_type = TOML

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            return {"document": stream.read().decode("utf-8-sig")}
        except UnicodeDecodeError:
            raise ParseError("The document is not in UTF-8.") from None


@extend_schema_field(formats.SITE)
class DocumentField(serializers.CharField):
    """The text of a document."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return data


class SiteDocument(StrictBody):
    """A site."""

    document = DocumentField(trim_whitespace=False, help_text="The document, in TOML.")


class ApplyQuery(StrictSerializer):
    dry_run = serializers.BooleanField(default=False, help_text="Only show the changes.")
    prune = serializers.BooleanField(default=False, help_text="Remove what the document does not mention.")


class SiteChange(serializers.Serializer[Any]):
    """A change of a row."""

    act = serializers.ChoiceField(choices=[*Act])
    kind = serializers.CharField(help_text="The kind of the row, as `subject_kind` in the audit.")
    subject = serializers.CharField(help_text="The name of the row.")
    text = serializers.CharField(help_text="The change on one line, for people.")
    before = serializers.DictField(help_text="The changed keys of the document, with their values before.")
    after = serializers.DictField(help_text="The same after the change; of a new row those that the document has.")
    why = serializers.CharField(required=False, help_text="Why a row stays that should go.")


class SiteChanges(serializers.Serializer[Any]):
    """The changes of a document, in the order of their names."""

    dry_run = serializers.BooleanField(help_text="Whether the changes were only shown.")
    changes = SiteChange(many=True)
    unlisted = SiteChange(many=True, help_text="Rows and values that the document does not mention, and that stay.")
    warnings = serializers.ListField(child=serializers.CharField())


ETAG = OpenApiParameter(
    "ETag", OpenApiTypes.STR, OpenApiParameter.HEADER, description="The version of the site.", response=[200]
)
IF_MATCH = OpenApiParameter(
    "If-Match",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="Change only this version of the site: the `ETag` of an answer.",
)


class SiteView(StrictQuery, APIView):
    """The whole site as one document. For administrators who may see all of it."""

    permission_classes = [MaySeeSite]
    renderer_classes = [JSONRenderer, TomlRenderer]
    content_negotiation_class = FormatNegotiation
    query_names = frozenset({"format"})

    @extend_schema(
        parameters=[ETAG, OpenApiParameter("format", enum=["json", "toml"])],
        responses={
            (200, "application/json"): SiteDocument,
            (200, TOML): OpenApiResponse(OpenApiTypes.STR, description="The document."),
        },
    )
    def get(self, request: Request) -> Response:
        """Show the tools, contracts, teams, members and rules as one document."""
        if request.query_params.get("format", "json") not in {"json", "toml"}:
            raise serializers.ValidationError({"format": ["Choose one of: json, toml."]})
        with one_moment():
            text, version = exported(), version_of(present())
        return Response({"document": text}, headers={"ETag": f'"{version}"'})


class ApplyView(StrictQuery, APIView):
    """Bring the site from a document. For administrators who may see all of it and make each of its changes."""

    permission_classes = [MaySeeSite]
    parser_classes = [StrictJSONParser, TomlParser]
    renderer_classes = [JSONRenderer]
    known_by_serializer = frozenset({None})

    @extend_schema(
        parameters=[ApplyQuery, IF_MATCH, ETAG],
        request={"application/json": SiteDocument, TOML: OpenApiTypes.STR},
        examples=[
            OpenApiExample(
                "A tool and a team", value={"document": EXAMPLE}, request_only=True, media_type="application/json"
            )
        ],
        responses={200: SiteChanges} | refused_by(InvalidSite, InUse, OutOfDate),
    )
    def post(self, request: Request) -> Response:
        """Bring the site from a document: all of its changes, or none."""
        query = ApplyQuery.validated(request.query_params.dict())
        text = SiteDocument.validated(request.data)["document"]
        done = apply(
            parser.read(text),
            by=Actor.of_call(caller_of(request), request.META),
            prune=query["prune"],
            dry_run=query["dry_run"],
            permit=_permit(request),
            versions=precondition_of(request.META).match,
        )
        headers = {} if query["dry_run"] else {"ETag": f'"{done.version}"'}
        return Response({"dry_run": query["dry_run"], **done.data}, headers=headers)


def _permit(request: Request) -> Callable[[Plan], None]:
    """Return a function that raises PermissionDenied unless the caller may make every change of a plan."""
    caller = caller_of(request)

    def permit(plan: Plan) -> None:
        if needed := lacking(caller, plan.permissions):
            raise PermissionDenied(f"These changes need permissions that you lack: {', '.join(needed)}.")

    return permit
