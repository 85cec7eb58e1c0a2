"""The project's files: license, hooks, templates."""

import ast
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT

pytestmark = pytest.mark.any_database

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("folder", [ROOT, ROOT / "client"], ids=["server", "client"])
def test_each_package_names_its_license_and_brings_the_text(folder: Path) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert all((folder / name).is_file() for name in project["license-files"])
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in (folder / "LICENSE").read_text()


def test_the_image_brings_the_license() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "\nCOPY LICENSE NOTICE /app/\n" in dockerfile
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in dockerfile
    assert {"!LICENSE", "!NOTICE"} <= set((ROOT / ".dockerignore").read_text().splitlines())


def test_each_hook_runs_a_tool_that_make_lint_runs() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    recipe = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n.PHONY")[0]
    for hook in repository["hooks"]:
        tool = next(word for word in hook["entry"].split() if word.startswith(".venv/bin/"))
        assert tool.replace(".venv/bin", "$(BIN)") in recipe, hook["id"]


def test_each_issue_form_asks_for_something_by_a_unique_id() -> None:
    forms = [form for form in FORMS if form.name != "config.yml"]
    assert forms
    for form in forms:
        document = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= set(document)
        ids = [field["id"] for field in document["body"] if field["type"] != "markdown"]
        assert ids
        assert len(set(ids)) == len(ids)


def test_access_knows_no_http() -> None:
    """The import-linter sees only that Django is imported, and not which part of it."""
    modules = sorted((ROOT / "licenses" / "access").glob("*.py"))
    assert "rules.py" in {module.name for module in modules}
    imported = {
        (module.name, name)
        for module in modules
        for node in ast.walk(ast.parse(module.read_text()))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    http = ("django.http", "django.urls", "django.views", "django.shortcuts", "django.core.handlers", "rest_framework")
    assert [entry for entry in imported if entry[1].startswith(http)] == []
