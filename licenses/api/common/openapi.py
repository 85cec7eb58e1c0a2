"""Complete the OpenAPI schema with the common parts of all calls, the problems, and the credentials."""

import re
from typing import Any, NamedTuple

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerFieldExtension
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers

from licenses.errors import DatabaseRefusal, Overloaded, ProviderAway, RateLimited, Refusal, TooManyFailures, kinds

from . import formats
from .problems import CONTENT_TYPE

# --- What every call has ------------------------------------------------------

PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}


class Error(NamedTuple):
    """An error that a call can end with."""

    status: int
    code: str
    meaning: str


# What every call can end with, before the domain is asked.
ANYWHERE = (
    Error(400, "invalid", "A field or a query parameter is wrong or unknown."),
    Error(401, "not_authenticated", "The credential is missing."),
    Error(401, "invalid_credential", "The credential is not valid."),
    Error(403, "permission_denied", "The credential does not allow this."),
)
NO_SUCH_ROW = Error(404, "not_found", "There is no such row.")
OF_BODIES = (
    Error(400, "parse_error", "The body is not JSON."),
    Error(413, "too_large", "The body is over the limit."),
    Error(415, "unsupported_media_type", "The body must be JSON."),
)


def errors_of(*refusals: type[Refusal]) -> list[Error]:
    """Return the errors by which these refusals are answered."""
    return [Error(refusal.status, code, refusal.meaning()) for refusal in refusals for code in refusal.codes()]


# Every call can also end with these.
UNAVAILABLE = errors_of(*kinds(DatabaseRefusal), Overloaded, ProviderAway, RateLimited, TooManyFailures)


def refused_by(*refusals: type[Refusal]) -> dict[int, OpenApiResponse]:
    """Return the responses for the refusals of a call, by status. ``complete`` adds those of every call."""
    texts: dict[int, str] = {}
    for error in errors_of(*refusals):
        texts[error.status] = _with(texts.get(error.status, ""), error)
    return {status: problem_response(text) for status, text in texts.items()}


def _with(text: str, error: Error) -> str:
    """Return the description of a response with an error added to it, once."""
    if f"- `{error.code}`:" in text:
        return text
    return f"{text}\n- `{error.code}`: {error.meaning}".lstrip()


TAGS = {
    "status": "See the seats of each tool.",
    "borrowing": "Borrow, renew and return seats.",
    "queue": "Wait for seats.",
    "leases": "See current and past leases.",
    "caller": "See who calls.",
    "tools": "See and change tools, their quotas, limits and access rules.",
    "contracts": "See and change contracts.",
    "teams": "See and change teams and their members.",
    "tokens": "Create, see and revoke API tokens.",
    "accounts": "See and deactivate accounts.",
    "denials": "See refused borrows.",
    "reports": "See how tools were used.",
    "site": "See and bring the whole site as one document.",
    "audit": "See changes and who made them.",
}


# drf-spectacular adds this to the format of a field that may be blank.
EMPTY = {"type": "string", "maxLength": 0}
# A borrow names its seats in one of three fields; null is the same as no field.
ABSENT = {"nullable": True, "enum": [None]}
NO_TOOL = {"tool": ABSENT | {"type": "string"}, "seats": ABSENT | {"type": "integer"}}
NO_ITEMS = {"items": ABSENT | {"type": "array", "items": {}}}
NO_ALTERNATIVES = {"alternatives": ABSENT | {"type": "array", "items": {}}}
WANTED = [
    {"required": ["tool"], "properties": {"tool": {"type": "string"}} | NO_ITEMS | NO_ALTERNATIVES},
    {
        "required": ["items"],
        "properties": {"items": {"type": "array", "items": {}, "minItems": 1}} | NO_TOOL | NO_ALTERNATIVES,
    },
    {
        "required": ["alternatives"],
        "properties": {
            "alternatives": {"type": "array", "items": {"type": "array", "items": {}, "minItems": 1}, "minItems": 1}
        }
        | NO_TOOL
        | NO_ITEMS,
    },
]


def _tag(path: str) -> str:
    """Return the subject of a path."""
    if path.startswith("/api/v1/"):
        return path.split("/")[3]
    if path == "/borrows":
        return "leases"
    if path.startswith("/licenses/queue/"):
        return "queue"
    return "status" if path.endswith("/status") else "borrowing"


# Calls for a lease and for a ticket.
LINKS: dict[str, dict[str, Any]] = {
    "Granted": {
        "renew": {"operationId": "licenses_renew_create", "requestBody": {"id": "$response.body#/id"}},
        "return": {"operationId": "licenses_return_create", "requestBody": {"id": "$response.body#/id"}},
    },
    "Waiting": {
        "poll": {"operationId": "licenses_queue_retrieve", "parameters": {"ticket": "$response.body#/ticket"}},
        "leave": {"operationId": "licenses_queue_destroy", "parameters": {"ticket": "$response.body#/ticket"}},
    },
}


def _is_a(name: str, response: dict[str, Any] | None) -> bool:
    """Return whether a response's content is this component."""
    content = (response or {}).get("content", {}).get("application/json", {})
    schema: dict[str, Any] | None = content.get("schema")
    return schema == {"$ref": f"#/components/schemas/{name}"}


def _needs_a_body(operation: dict[str, Any], schemas: dict[str, Any]) -> bool:
    """Return whether a call has a field that it needs. A borrow needs one of several."""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    name = schema.get("$ref", "").rpartition("/")[2]
    return name == "BorrowRequestRequest" or "required" in schemas.get(name, {"required": []})


def complete(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Give each operation a tag, a summary and every problem that it can end with, as
    ``application/problem+json``; for drf-spectacular."""
    for path, operations in result["paths"].items():
        for operation in operations.values():
            operation["tags"] = [_tag(path)]
            parameters = operation.get("parameters", [])
            in_pages = any(parameter["name"] == "cursor" for parameter in parameters)
            for parameter in parameters:
                if parameter["in"] == "path" and parameter["name"] in ("name", "tool", "team"):
                    is_team = parameter["name"] == "team" or "/teams/" in path
                    parameter["schema"] = formats.TEAM_NAME if is_team else formats.TOOL_NAME
                elif parameter["in"] == "path" and parameter["name"] in ("user", "subject", "username"):
                    parameter["schema"] = formats.TEXT
                elif in_pages and parameter["name"] != "page_size":
                    # An empty filter has no effect.
                    parameter["allowEmptyValue"] = True
            text = " ".join(operation.get("description", "").split())
            operation["summary"] = re.split("[.;:] ", text, maxsplit=1)[0].rstrip(".")
            responses = operation["responses"]
            errors = [*ANYWHERE, *UNAVAILABLE]
            if "404" not in responses and ("{" in path or in_pages):
                errors.append(NO_SUCH_ROW)
            if "requestBody" in operation:
                operation["requestBody"]["required"] = _needs_a_body(operation, result["components"]["schemas"])
                errors += OF_BODIES
            for error in errors:
                response = responses.setdefault(str(error.status), {"description": ""})
                response["description"] = _with(response["description"], error)
            for status, name in (("200", "Granted"), ("202", "Waiting")):
                if _is_a(name, responses.get(status)):
                    responses[status]["links"] = LINKS[name]
            for status, response in responses.items():
                if status >= "400":
                    response["content"] = {CONTENT_TYPE: PROBLEM}
            operation["responses"] = dict(sorted(responses.items()))
    for name, schema in result["components"]["schemas"].items():
        if name.endswith("Request"):
            # Unknown fields are refused.
            schema["additionalProperties"] = False
            for field in schema["properties"].values():
                if EMPTY in field.get("oneOf", ()):
                    # The format `text` allows the empty string already.
                    field |= field.pop("oneOf")[0]
    result["components"]["schemas"]["BorrowRequestRequest"]["anyOf"] = WANTED
    result["info"]["description"] += "\n\nFormats of strings:\n" + "".join(
        f"\n- `{name}`: {meaning}" for name, meaning in formats.MEANINGS.items()
    )
    result["servers"] = [{"url": settings.SCRIPT_NAME or "/"}]
    result["tags"] = [{"name": name, "description": description} for name, description in TAGS.items()]
    return result


class CleanTextExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    target_class = "licenses.api.common.fields.CleanTextField"
    match_subclasses = True

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        schema: dict[str, Any] = self.target.schema
        return schema


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "licenses.api.authentication.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API token, or a JWT of the provider."}


class PasswordScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "licenses.api.authentication.PasswordAuthentication"
    name = "password"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "basic"}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "licenses.api.authentication.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}


class Problem(serializers.Serializer[Any]):
    """A problem document (RFC 9457).

    ``code`` is stable. ``detail`` is for people. Other members have the numbers.
    """

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField()
    detail = serializers.CharField()
    hint = serializers.CharField(required=False, help_text="The call or the field that helps, for people.")
    request_id = serializers.CharField(
        required=False,
        help_text="With a 5xx status: the X-Request-ID of the answer. Find the request in the server's log with it.",
    )


def problem_response(description: str) -> OpenApiResponse:
    return OpenApiResponse(Problem, description=description)
