"""The reference pages match the code: settings, errors, metrics, commands."""

import argparse
import ast
import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command, get_commands, load_command_class
from django.utils import timezone
from rest_framework import exceptions

from licenses import errors
from licenses.access import device_logins
from licenses.api.common.problems import from_refusal
from licenses.models import EndReason, Tool
from licenseserver.logs import JsonFormatter
from tests.support.api import Api, api_of
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"


def names_in(page: Path, column: int = 0) -> set[str]:
    """Return the texts in backquotes in a column of the page's tables."""
    rows = re.findall(r"^\| .*\|$", page.read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[column])}


# --- Settings ----------------------------------------------------------------

# The server reads them through OpenTelemetry's SDK.
OF_THE_SDK = {
    *("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG")
}


def settings_read() -> set[str]:
    """Return the environment variables that the server's code reads."""
    readers = "text|boolean|integer|limit|choice|words|hosts|origins?|address|path|pairs|url|mail_address|time_zone"
    readers += "|weekdays|hours|currency"
    read = set()
    for path in [*(ROOT / "licenseserver").rglob("*.py"), *(ROOT / "licenses").rglob("*.py")]:
        code = path.read_text()
        read |= set(re.findall(rf'environment\.(?:{readers})\(\s*"(\w+)"', code))
        for name in re.findall(r'environment\.secret\("(\w+)"', code):
            read |= {name, f"{name}_FILE"}
    return read


def test_every_setting_is_documented_and_no_other() -> None:
    documented = names_in(REFERENCE / "settings.md")
    read = settings_read()
    assert len(read) > 50
    assert documented == read | OF_THE_SDK | {"OTEL_EXPORTER_OTLP_ENDPOINT", "PROMETHEUS_MULTIPROC_DIR"}


# --- The API -----------------------------------------------------------------


def test_every_call_is_documented_and_no_other(api: Api) -> None:
    paths = api.schema()["paths"]
    calls = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert {call for call in names_in(REFERENCE / "api.md") if " /" in call} == calls


# --- Errors ------------------------------------------------------------------


def codes_of_the_domain(kind: type[errors.Refusal] = errors.Refusal) -> Iterator[str]:
    if hasattr(kind, "code"):
        yield kind.code
    for inner in kind.__subclasses__():
        yield from codes_of_the_domain(inner)


def codes_of_http() -> set[str]:
    """Return the codes of the API's layer and of the framework."""
    found = {
        kind.default_code
        for kind in (
            exceptions.NotAuthenticated,
            exceptions.PermissionDenied,
            exceptions.ParseError,
            exceptions.NotFound,
            exceptions.MethodNotAllowed,
            exceptions.NotAcceptable,
            exceptions.UnsupportedMediaType,
        )
    }
    for path in (ROOT / "licenses" / "api").rglob("*.py"):
        found |= set(re.findall(r'(?:\bcode|default_code) ?= ?"(\w+)"', path.read_text()))
    return found


def codes_of_the_proxy() -> set[str]:
    """Return the codes of nginx' own answers."""
    return set(re.findall(r'"code":"(\w+)"', (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()))


def test_every_error_is_documented_and_no_other() -> None:
    domain = set(codes_of_the_domain())
    assert {"exhausted", "busy"} < domain
    assert "unavailable" in codes_of_the_proxy()
    found = domain | codes_of_http() | codes_of_the_proxy() | {*EndReason} | device_logins.CODES
    assert names_in(REFERENCE / "errors.md", column=1) == found


def statuses_of_the_domain(kind: type[errors.Refusal] = errors.Refusal) -> Iterator[tuple[str, int]]:
    for inner in kind.__subclasses__():
        if hasattr(inner, "code"):
            yield inner.code, from_refusal(inner.again("", {})).status_code
        yield from statuses_of_the_domain(inner)


def test_the_errors_have_the_statuses_that_the_page_says() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|", (REFERENCE / "errors.md").read_text(), re.MULTILINE)
    documented = {(code, int(status)) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert ("exhausted", 409) in documented
    assert not set(statuses_of_the_domain()) - documented


# --- Examples ----------------------------------------------------------------

EXAMPLE = re.compile(r"^\$ (curl .*(?:\n .*)*)\n([{\[].*)$", re.MULTILINE)
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")


def examples_of(page: str) -> list[tuple[list[str], str]]:
    """Return the calls of a page, as words, with their JSON answers."""
    found = EXAMPLE.findall((ROOT / page).read_text())
    return [(shlex.split(call.replace("\\\n", "")), answer) for call, answer in found]


def answer_to(api: Api, words: list[str]) -> str:
    (url,) = [word for word in words if word.startswith("http://localhost:8000/")]
    path = url.removeprefix("http://localhost:8000")
    answer = api.post(path, words[words.index("-d") + 1]) if "-d" in words else api.client.get(path)
    text: str = answer.content.decode()
    return text


NUMBER = re.compile(r'"id": ?(\d+)')


def without_what_differs(text: str) -> str:
    text = MOMENT.sub("MOMENT", UUID.sub("ID", text)).replace(": ", ":").replace(", ", ",")
    return NUMBER.sub('"id":NUMBER', text)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/quickstart.md", "docs/reference/api.md", "docs/reference/errors.md"]
)
def test_the_calls_of_the_documentation_are_answered_as_it_shows(
    page: str, api: Api, make_tool: Callable[..., Tool]
) -> None:
    for name, capacity in {"cad_tool": 5, "simulation": 3, "analysis": 2}.items():
        make_tool(name, capacity=capacity)
    if page == "docs/reference/api.md":
        # Its reader waits for a seat.
        api.borrow("analysis", seats=2)
    examples = examples_of(page)
    assert examples
    ids: dict[str, str] = {}
    for words, shown in examples:
        for old, new in ids.items():
            words = [word.replace(old, new) for word in words]
        answered = answer_to(api, words)
        ids |= zip(UUID.findall(shown), UUID.findall(answered), strict=False)
        beginning, more, _ = without_what_differs(shown).partition(",...")
        assert without_what_differs(answered)[: len(beginning) if more else None] == beginning


def test_the_calls_to_manage_a_site_are_answered_as_the_page_shows(admin_api: Api) -> None:
    User.objects.create_user("eve")
    page = (ROOT / "docs" / "howto" / "manage.md").read_text()
    calls = re.findall(r"^\$ curl (.*?)\n(?=[{$`])([{].*)?", page, re.MULTILINE)
    assert len(calls) > 10
    ids: dict[str, str] = {}
    for call, shown in calls:
        words = shlex.split(call)
        if "-o" in words:
            continue
        (url,) = [word for word in words if word.startswith("http://localhost:8000/")]
        headers = dict(word.split(": ") for word in words if word.startswith("If-"))
        body = words[words.index("-d") + 1] if "-d" in words else ""
        method = words[words.index("-X") + 1] if "-X" in words else "POST"
        path = url.removeprefix("http://localhost:8000")
        for old, new in ids.items():
            path = path.replace(f"/{old}/", f"/{new}/")
        answer = admin_api.client.generic(method, path, body, content_type="application/json", headers=headers)
        if method == "DELETE":
            assert (answer.status_code, answer.content) == (204, b"")
            continue
        ids |= zip(NUMBER.findall(shown), NUMBER.findall(answer.content.decode()), strict=False)
        beginning, more, _ = without_what_differs(shown).partition("...")
        answered = without_what_differs(answer.content.decode())
        assert (answered[: len(beginning)] if more else answered) == beginning


# --- Metrics -----------------------------------------------------------------


def test_every_metric_is_documented_and_no_other(api: Api) -> None:
    text = api.client.get("/metrics").content.decode()
    # Metrics of prometheus_client, which are absent with several workers.
    exported = {name for name in re.findall(r"^# TYPE (license\w+) ", text, re.M) if not name.endswith("_created")}
    documented = {name for name in names_in(REFERENCE / "metrics.md") if name.startswith("license")}
    # They exist after the sweeper's first round.
    sometimes = {"licenseserver_sweeper_last_run_timestamp_seconds"}
    assert documented == exported | sometimes


def test_the_labels_of_metrics_are_documented(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad_tool", capacity=5, valid_until=timezone.now() + timedelta(days=1))
    api.post("/licenses/borrow", {"tool": "cad_tool", "user": "ana"})
    documented = {
        name: set(re.findall(r"`(\w+)`", cell))
        for name, cell in re.findall(r"^\| `(license\w+)` \| ([^|]*)\|", (REFERENCE / "metrics.md").read_text(), re.M)
    }
    seen = set()
    for name, labels in re.findall(
        r"^(license\w+)\{(.*)\} ", api.client.get("/metrics").content.decode(), re.MULTILINE
    ):
        if not name.endswith("_created"):
            name = name if name in documented else re.sub("_(bucket|sum|count)$", "", name)
            assert set(re.findall(r'(\w+)="', labels)) - {"le"} == documented[name], name
            seen.add(name)
    assert {"license_state", "license_borrow_duration_seconds", "license_valid_until_timestamp_seconds"} <= seen


# --- The log -----------------------------------------------------------------


def noted() -> set[str]:
    """Return the names that the code adds to a request's log line with ``logs.note(name=...)``."""
    return {
        keyword.arg or "**"
        for path in (ROOT / "licenses").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "logs.note"
        for keyword in call.keywords
    }


def test_every_field_of_the_log_is_documented_and_no_other(
    make_tool: Callable[..., Tool], caplog: pytest.LogCaptureFixture
) -> None:
    make_tool("cad_tool")
    with caplog.at_level("INFO", "licenses.request"):
        api_of(user="ana").post("/licenses/borrow", {"tool": "cad_tool"})
    (record,) = [record for record in caplog.records if record.name == "licenses.request"]
    line = json.loads(JsonFormatter().format(record))
    assert line["caller"] == "ana"
    of_some = {"request_id", "caller_team", "trace_id", "exception"}
    assert names_in(REFERENCE / "log.md") == set(line) | noted() | of_some


# --- Commands ----------------------------------------------------------------


OF_DJANGO = {
    *("--help", "--version", "--verbosity", "--settings", "--pythonpath", "--traceback", "--no-color", "--force-color"),
    "--skip-checks",
}


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return the options of a command and its subcommands, without Django's."""
    found = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*(options(part) for part in action.choices.values()))
        found |= {option for option in action.option_strings if option.startswith("--")}
    return found - OF_DJANGO


def test_every_command_is_documented_with_its_options_and_no_other() -> None:
    # Commands of Django that the server extends.
    ours = {name for name, app in get_commands().items() if app == "licenses"}
    ours -= {"changepassword", "createsuperuser", "migrate", "sendtestemail"}
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", (REFERENCE / "commands.md").read_text(), re.S | re.M))
    assert set(sections) == ours
    for name, text in sections.items():
        documented = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", "\n".join(re.findall(r"^\| [^|]*\|", text, re.M))))
        assert documented == options(load_command_class("licenses", name).create_parser("manage.py", name)), name


# With what they print.
COMMAND = re.compile(r"^\$ \.venv/bin/python manage\.py (.*)\n((?:(?!\$ |```).+\n)+)", re.MULTILINE)
# Copies a file, which the tests' database need not be.
NOT_HERE = {"backup"}
VARIES = re.compile(r"\d{4}-\d\d-\d\d(T[\d:.]+\+00:00)?|lic_\w+|(?<=Token )\d+")


def pages_with_commands() -> list[str]:
    found = [page for page in sorted(DOCS.rglob("*.md")) if COMMAND.search(page.read_text())]
    return [page.relative_to(DOCS).as_posix() for page in found]


@pytest.mark.parametrize("page", pages_with_commands())
def test_the_commands_of_the_documentation_print_what_it_shows(
    page: str, api: Api, make_tool: Callable[..., Tool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / page).read_text()
    monkeypatch.chdir(tmp_path)
    for name, content in re.findall(r"^\$ cat (\S+)\n((?:(?!\$ ).+\n)+)", text, re.MULTILINE):
        Path(name).write_text(content)
    make_tool("cad_tool", capacity=5)
    api.borrow("cad_tool")
    for command, shown in COMMAND.findall(text):
        words = shlex.split(command)
        if words[0] not in NOT_HERE:
            printed = io.StringIO()
            call_command(*words, stdout=printed, stderr=printed)
            assert VARIES.sub("...", printed.getvalue()) == VARIES.sub("...", shown), command


FIRST_COMMAND = re.compile(r"^\$ .*\.venv/bin/python manage\.py", re.MULTILINE)


@pytest.mark.parametrize(
    "page",
    [str(page.relative_to(DOCS)) for page in sorted(DOCS.rglob("*.md")) if FIRST_COMMAND.search(page.read_text())],
)
def test_a_page_sets_the_key_before_its_first_command(page: str) -> None:
    before = FIRST_COMMAND.split((DOCS / page).read_text())[0]
    assert "$ export SECRET_KEY=$(cat .secret_key)\n" in before


def test_the_documentation_shows_what_commands_print() -> None:
    found = {words.split()[0] for page in DOCS.rglob("*.md") for words, _ in COMMAND.findall(page.read_text())}
    assert found >= {"restored", "seed", "team", "token"}


def test_the_client_s_page_has_every_event() -> None:
    code = "".join(path.read_text() for path in (ROOT / "client" / "src" / "license_client").rglob("*.py"))
    events = set(re.findall(r"\bsay\(\s*\"(\w+)\"", code)) | {"token_ends"}
    page = (ROOT / "client" / "README.md").read_text()
    listed = page.partition("otherwise with an\n`event`: ")[2].partition(".")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == events


# --- Tests and links ------------------------------------------------------


def test_the_tests_that_pages_name_are_there() -> None:
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert len(named) > 50
    assert {name for name in named if f"def {name}(" not in code} == set()
    files = {name for page in pages for name in re.findall(r"\btests/[\w/]+\.py\b", page.read_text())}
    assert len(files) > 10
    assert {name for name in files if not (ROOT / name).is_file()} == set()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/chart/README.md"])
def test_the_links_of_pages_outside_the_site_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text)
    assert links
    for path, anchor in links:
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                anchor
            )
