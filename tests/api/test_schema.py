"""The OpenAPI schema for generators of clients."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from drf_spectacular.generators import SchemaGenerator

from licenses.api.common.openapi import TAGS
from licenses.models import Contract, Team, Tool
from tests.support.api import Api
from tests.support.browser import install_from_npm
from tests.support.paths import ROOT

LINTER = ROOT / "tests" / "support" / "openapi"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    written = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    plain: dict[str, Any] = json.loads(json.dumps(written, default=str))
    return plain


def operations(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, found in schema["paths"].items()
        for method, operation in found.items()
    ]


def test_each_operation_has_a_summary_and_a_subject(schema: dict[str, Any]) -> None:
    for name, operation in operations(schema):
        assert operation["summary"], name
        assert len(operation["summary"]) < 120, name
        assert set(operation["tags"]) <= TAGS.keys(), name
        assert len(operation["tags"]) == 1, name
    assert {tag["name"] for tag in schema["tags"]} == {op["tags"][0] for _, op in operations(schema)}


def test_every_error_is_declared_as_a_problem_document(schema: dict[str, Any]) -> None:
    for name, operation in operations(schema):
        assert {"401", "403", "429", "503"} <= operation["responses"].keys(), name
        for status, response in operation["responses"].items():
            if status >= "400":
                assert list(response["content"]) == ["application/problem+json"], (name, status)


def test_the_schema_declares_the_refusals_of_wrong_ids_and_unknown_fields(schema: dict[str, Any]) -> None:
    for name, operation in operations(schema):
        cursors = [found for found in operation.get("parameters", []) if found["name"] == "cursor"]
        assert ("{" in name or bool(cursors)) <= ("404" in operation["responses"]), name
        if "requestBody" in operation:
            reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            assert schema["components"]["schemas"][reference.rpartition("/")[2]]["additionalProperties"] is False


def test_the_schema_has_each_default_as_a_caller_writes_it(schema: dict[str, Any], admin_api: Api) -> None:
    found = 0
    for name, operation in operations(schema):
        for parameter in operation.get("parameters", ()):
            if "default" in parameter["schema"] and name.startswith("get /") and "{" not in name:
                query = {parameter["name"]: parameter["schema"]["default"]}
                assert admin_api.client.get(name.removeprefix("get "), query).status_code == 200, (name, query)
                found += 1
    assert found > 5


def test_the_server_accepts_each_example_of_the_schema(
    schema: dict[str, Any], admin_api: Api, make_tool: Callable[..., Tool]
) -> None:
    for name in ("cad_tool", "simulation", "analysis"):
        make_tool(name, capacity=20)
    Team.objects.create(name="crash")
    User.objects.create_user("eve")
    contract = Contract.objects.create(tool=make_tool("mesher"), seats=20)
    named = {"name": "crash", "tool": "mesher", "team": "crash", "user": "eve", "username": "eve"}
    # A tool that no example changes.
    make_tool("lent", capacity=200)
    posted = []
    for name, operation in operations(schema):
        if "requestBody" not in operation:
            continue
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        for title, example in examples.items():
            # The only value that an example can't have.
            lease = admin_api.borrow("lent").json()["id"]
            body = example["value"] | ({"id": lease} if "id" in example["value"] else {})
            method, path = name.split()
            row = contract.pk if "/contracts/" in path else lease
            path = path.format(**named, id=row)
            answer = admin_api.client.generic(method.upper(), path, json.dumps(body), content_type="application/json")
            assert answer.status_code in (200, 201), (name, title, answer.content)
            posted.append(name)
    assert len(set(posted)) > 5


def test_redocly_finds_nothing(schema: dict[str, Any], tmp_path: Path) -> None:
    install_from_npm(LINTER, tmp_path)
    (tmp_path / "openapi.json").write_text(json.dumps(schema))
    node = shutil.which("node")
    assert node
    linted = subprocess.run(
        [node, "node_modules/@redocly/cli/bin/cli.js", "lint", "openapi.json", "--format=json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": str(Path(node).parent), "HOME": str(tmp_path), "REDOCLY_TELEMETRY": "off"},
    )
    assert json.loads(linted.stdout)["problems"] == []
    assert linted.returncode == 0
