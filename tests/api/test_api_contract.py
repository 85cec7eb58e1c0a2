"""The browsable API, its schema, and the addresses for machines."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import yaml
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.urls import Resolver404, resolve
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator

from licenses.api import schema as schema_module
from licenses.api import urls
from licenses.api.middleware import ProbeMiddleware
from licenses.models import Lease, Tool
from licenses.names import CALLS, RESERVED_TOOL_NAMES
from tests.support.api import Api, assert_problem


def test_tools_are_listed_and_shown(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad", capacity=5, vendor="ACME")
    api.borrow("cad", seats=2)
    assert [tool["name"] for tool in api.client.get("/api/v1/tools/").json()["results"]] == ["cad"]
    tool = api.client.get("/api/v1/tools/cad/").json()
    assert (tool["capacity"], tool["borrowed"], tool["available"], tool["vendor"]) == (5, 2, 3, "ACME")
    assert api.client.get("/api/v1/tools/cad/status/").json() == api.status("cad")


def test_a_name_with_dots_has_its_own_page(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("solver.v2-beta_1")
    assert api.client.get("/api/v1/tools/solver.v2-beta_1/").status_code == 200
    assert api.status("solver.v2-beta_1")["total"] == 1


def test_tools_have_pages(api: Api, make_tool: Callable[..., Tool]) -> None:
    for name in ("b.2", "a", "c"):
        make_tool(name)
    names, url = [], "/api/v1/tools/?page_size=2"
    while url:
        page = api.client.get(url).json()
        names.append([tool["name"] for tool in page["results"]])
        url = page["next"]
    assert names == [["a", "b.2"], ["c"]]


def test_null_says_the_same_as_absence(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad", capacity=2)
    optional = ["team", "project", "host", "seats", "items", "alternatives", "ttl_seconds", "wait_seconds"]
    first = api.post("/licenses/borrow", {"tool": "cad", "user": "ana"}, **{"Idempotency-Key": "k"})
    again = api.post(
        "/licenses/borrow", {"tool": "cad", "user": "ana"} | dict.fromkeys(optional), **{"Idempotency-Key": "k"}
    )
    assert (again.status_code, again.content) == (200, first.content)
    items = [{"tool": "cad", "seats": None}]
    assert api.post("/licenses/explain", {"user": "ana", "tool": None, "items": items}).json()["granted"]


def every_call() -> list[str]:
    """Return the calls of the schema with values for their parameters."""
    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]  # type: ignore[no-untyped-call]

    def value_for(path: str, parameter: str) -> str:
        if parameter not in ("id", "ticket"):
            return "cad"
        return "1" if "/contracts/" in path or "/tokens/" in path else "00000000-0000-4000-8000-000000000000"

    calls = []
    for path, operations in paths.items():
        names = re.findall(r"{(\w+)}", path)
        address = path.format(**{name: value_for(path, name) for name in names})
        calls += [f"{method} {address}" for method in operations]
    return [*calls, "get /version", "get /api/schema/", "get /api/v1/"]


def test_a_parameter_that_there_is_not_is_refused_everywhere(admin_api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad")
    for call in every_call():
        method, path = call.split()
        answer = admin_api.client.generic(method.upper(), f"{path}?nosuch=1", "{}", content_type="application/json")
        assert answer.status_code in (400, 404), call
        if answer.status_code == 400:
            assert answer.json()["errors"].keys() == {"nosuch"}, call


def test_a_method_that_there_is_not_is_refused_before_the_query(admin_api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad")
    for path in ("/licenses/cad/status?user=ana", "/borrows?user=ana", "/api/v1/tools/?page_size=1"):
        answer = admin_api.client.generic("PUT", path, "{}", content_type="application/json")
        assert answer.status_code == 405, path
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("kind", ["tools", "leases", "denials", "audit", "teams", "contracts", "tokens", "accounts"])
def test_a_page_size_out_of_range_is_refused(admin_api: Api, kind: str) -> None:
    for size in ("0", "-1", "201", "x", "", "1.5", "\u0665", "9" * 5000):
        answer = admin_api.client.get(f"/api/v1/{kind}/", {"page_size": size})
        assert answer.status_code == 400, size
        assert "1 to 200" in answer.json()["detail"]
    assert admin_api.client.get(f"/api/v1/{kind}/", {"page_size": "200"}).status_code == 200
    assert admin_api.client.get(f"/api/v1/{kind}/?page_size=1&page_size=2").status_code == 400


def test_no_tool_is_called_as_a_call_is(db: None) -> None:
    first = {
        match[1] for route in list[Any](urls.urlpatterns) if (match := re.match(r"licenses/(\w+)", str(route.pattern)))
    }
    assert first == CALLS
    for name in RESERVED_TOOL_NAMES:
        with pytest.raises(ValidationError):
            Tool(name=name, capacity=1).full_clean()
        with pytest.raises(CommandError):
            call_command("seed", "--tool", f"{name}=1")


def test_a_tool_that_has_such_a_name_from_before_works(api: Api, make_tool: Callable[..., Tool]) -> None:
    for name in CALLS:
        make_tool(name, capacity=2)
        lease = api.borrow(name).json()["id"]
        assert api.status(name)["borrowed"] == 1
        assert api.give_back(lease).status_code == 200
        call_command("seed", "--tool", f"{name}=3", "--force")
        assert api.status(name)["total"] == 3


def test_leases_are_filtered(api: Api, admin_api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad", capacity=9)
    make_tool("sim", capacity=9)
    old, _new, other = api.borrow("cad", "ana").json(), api.borrow("cad", "ben").json(), api.borrow("sim", "ana").json()
    api.give_back(old["id"])
    Lease.objects.filter(pk=old["id"]).update(borrowed_at=timezone.now() - timedelta(days=2))

    def found(query: str) -> list[str]:
        return [lease["id"] for lease in admin_api.client.get(f"/api/v1/leases/?{query}").json()["results"]]

    yesterday = (timezone.now() - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert found("tool=sim") == [other["id"]]
    assert found("user=ana") == [other["id"], old["id"]]
    assert found("state=ended") == [old["id"]]
    assert old["id"] not in found("state=active")
    assert found(f"borrowed_before={yesterday}") == [old["id"]]
    assert old["id"] not in found(f"borrowed_after={yesterday}")


def test_pages_of_leases_stay_put_while_leases_come(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad", capacity=50)
    made = [api.borrow().json()["id"] for _ in range(7)]
    seen, url = [], "/api/v1/leases/?page_size=3"
    while url:
        page = api.client.get(url).json()
        seen += [lease["id"] for lease in page["results"]]
        url = page["next"]
        api.borrow()
    assert seen == made[::-1]


def test_a_person_can_browse(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad")
    for path in ("/api/v1/", "/api/v1/tools/", "/api/v1/leases/"):
        page = api.client.get(path, HTTP_ACCEPT="text/html")
        assert page["Content-Type"].startswith("text/html")


def test_the_schema_is_valid_and_knows_the_client_calls(api: Api) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", "/dev/null")
    schema = api.schema()
    assert {
        "/licenses/status",
        "/licenses/{tool}/status",
        "/licenses/borrow",
        "/licenses/return",
        "/borrows",
        "/api/v1/tools/",
        "/api/v1/leases/{id}/",
    } <= set(schema["paths"])


def test_the_schema_is_written_once_a_format(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bool] = []
    write = SchemaGenerator.get_schema

    def counted(generator: SchemaGenerator, *args: Any, **kwargs: Any) -> Any:
        written.append(True)
        return write(generator, *args, **kwargs)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(SchemaGenerator, "get_schema", counted)
    schema_module._written.cache_clear()
    formats = ["*/*", "application/yaml", "application/json", "application/vnd.oai.openapi+json"]
    for accept in formats * 3:
        answer = api.client.get("/api/schema/", headers={"Accept": accept})
        assert answer.status_code == 200
    assert len(written) == len(formats)


def test_the_schema_is_not_sent_again_to_a_client_that_has_it(api: Api) -> None:
    first = api.client.get("/api/schema/")
    again = api.client.get("/api/schema/", headers={"If-None-Match": first["ETag"]})
    assert (again.status_code, again.content, again["ETag"]) == (304, b"", first["ETag"])
    assert api.client.get("/api/schema/", headers={"If-None-Match": '"another"'}).content == first.content
    assert api.client.get("/api/schema/", headers={"Accept": "application/json"})["ETag"] != first["ETag"]


def test_a_link_names_the_format_of_the_schema(api: Api) -> None:
    def get(query: str) -> Any:
        return api.client.get(f"/api/schema/?{query}", headers={"Accept": "text/html, */*;q=0.8"})

    assert json.loads(get("format=json").content) == yaml.load(get("format=yaml").content, Loader=yaml.CSafeLoader)
    assert get("format=json")["Content-Disposition"].endswith('.json"')
    for wrong in ("format=xml", "format="):
        assert_problem(get(wrong), 400)
        assert get(wrong).json()["errors"] == {"format": ["Choose one of: json, yaml."]}


def test_leases_are_what_the_schema_says(api: Api, admin_api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad")
    schemas = api.schema()["components"]["schemas"]
    lease = api.borrow().json()
    answers = {
        "Granted": lease,
        "ActiveLease": api.client.get("/borrows").json()[0],
        "LeaseRecord": admin_api.client.get(f"/api/v1/leases/{lease['id']}/").json(),
        "LeaseItem": lease["items"][0],
        "ToolStatus": api.status(),
        "Explanation": api.explain(),
    }
    assert {name: list(answer) for name, answer in answers.items()} == {
        name: list(schemas[name]["properties"]) for name in answers
    }


def test_the_documentation_needs_no_network(api: Api) -> None:
    page = api.client.get("/api/docs/").content.decode()
    assert "swagger-ui" in page
    assert "https://" not in page


def test_a_slash_is_not_forced_on_the_client_calls(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad")
    assert api.client.get("/licenses/status").status_code == 200
    assert api.client.get("/borrows").status_code == 200


def test_probes_answer(api: Api) -> None:
    for path in ("/livez", "/readyz", "/version"):
        assert api.client.get(path).status_code == 200


def test_urls_declare_the_addresses_that_are_answered_early() -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert resolve(path).func is ProbeMiddleware.probes[path]
    for path in ("/livez/", "/metrics/"):
        with pytest.raises(Resolver404):
            resolve(path)


def test_a_server_with_pending_migrations_is_not_ready(api: Api) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'licenses'")
    answer = api.client.get("/readyz")
    assert answer.status_code == 503
    assert "Migrations" in answer.json()["detail"]
    assert api.client.get("/livez").status_code == 200
