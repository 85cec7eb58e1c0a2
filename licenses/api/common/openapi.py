"""Complete the OpenAPI schema: what every call has, the problems, and the credentials."""

import re
from typing import Any

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerFieldExtension
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers

from licenses.api.problems import CONTENT_TYPE

from . import formats

# --- What every call has ------------------------------------------------------

PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
# Responses of every call.
ANYWHERE = {
    "400": "`invalid`: a field or a query parameter is wrong or unknown",
    "401": "`not_authenticated`, `invalid_credential`: the credential is missing or not valid",
    "403": "`permission_denied`: the credential does not allow this",
    "429": "`rate_limited`, `too_many_failures`: wait `Retry-After` seconds",
    "503": "`busy`, `read_only`, `provider_away`: try again after `Retry-After` seconds",
}
TAGS = {
    "status": "See the seats of each tool.",
    "borrowing": "Borrow, renew and return seats.",
    "queue": "Wait for seats.",
    "leases": "See current and past leases.",
    "tools": "See and change tools.",
    "denials": "See refused borrows.",
    "reports": "See how tools were used.",
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


def complete(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Give each operation a tag, a summary and every problem that it can end with, as
    ``application/problem+json``; for drf-spectacular."""
    for path, operations in result["paths"].items():
        for operation in operations.values():
            operation["tags"] = [_tag(path)]
            parameters = operation.get("parameters", [])
            in_pages = any(parameter["name"] == "cursor" for parameter in parameters)
            for parameter in parameters:
                if parameter["in"] == "path" and parameter["name"] in ("name", "tool"):
                    parameter["schema"] = formats.TOOL_NAME
                elif in_pages and parameter["name"] != "page_size":
                    # An empty filter has no effect.
                    parameter["allowEmptyValue"] = True
            text = " ".join(operation.get("description", "").split())
            operation["summary"] = re.split("[.;:] ", text, maxsplit=1)[0].rstrip(".")
            responses = operation["responses"]
            for status, description in ANYWHERE.items():
                responses.setdefault(status, {"description": description})
            if "{" in path or in_pages:
                responses.setdefault("404", {"description": "`not_found`: there is no such row"})
            if "requestBody" in operation:
                operation["requestBody"]["required"] = True
                responses.setdefault("413", {"description": "`too_large`: the body is over the limit"})
                responses.setdefault("415", {"description": "`unsupported_media_type`: the body must be JSON"})
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
    request_id = serializers.CharField(
        required=False,
        help_text="With a 5xx status: the X-Request-ID of the answer. Find the request in the server's log with it.",
    )


def problem_response(description: str) -> OpenApiResponse:
    return OpenApiResponse(Problem, description=description)
