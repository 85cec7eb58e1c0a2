"""Import FlexNet's files in the admin: upload, look at the changes, confirm exactly these."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from licenses.admin import flexlm
from licenses.models import AccessRule, AuditRecord, Contract, Team, Tool
from licenses.tools import contracts
from tests.support.api import Api
from tests.support.quotas import SOMEBODY

pytestmark = pytest.mark.django_db

PAGE = "/admin/flexlm/"
LICENSE = b"INCREMENT CAD acme 1.0 31-dec-2099 5\nINCREMENT SIM acme 1.0 permanent 2\n"
OPTIONS = b"GROUP crash ana ben\nMAX 2 CAD GROUP crash\nEXCLUDE SIM USER eve\n"


def upload(client: Client, license: bytes = LICENSE, options: bytes | None = None, **more: Any) -> Any:
    files = {"license": SimpleUploadedFile("acme.lic", license)}
    if options is not None:
        files["options"] = SimpleUploadedFile("acme.opt", options)
    return client.post(PAGE, files | more)


def confirm(client: Client, shown: Any) -> Any:
    """Send the form of the page with the changes."""
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', shown.content.decode()))
    return client.post(PAGE, fields, follow=True)


def text(answer: Any) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())).split())


def nothing_is_imported() -> bool:
    return not (Tool.objects.exists() or Team.objects.exists() or AuditRecord.objects.exists())


def test_the_changes_are_shown_and_then_made(api: Api, admin_client: Client) -> None:
    shown = upload(admin_client, options=OPTIONS)
    page = text(shown)
    assert "acme.lic and acme.opt : 2 tools with 7 seats, 7 changes, 0 problems, 0 notes" in page
    for line in (
        "cad new, capacity 5",
        "team crash: quota 2",
        "exclude user eve",
        "team crash new ana joins ben joins",
    ):
        assert line in page, line
    assert "were not checked" in page
    assert nothing_is_imported()
    assert "7 changes made." in text(confirm(admin_client, shown))
    assert api.borrow("cad", "ana", seats=2).status_code == 200
    assert api.borrow("sim", "eve").json()["code"] == "excluded"
    assert set(AuditRecord.objects.exclude(subject_kind="lease").values_list("actor", flat=True)) == {"admin"}
    again = upload(admin_client, options=OPTIONS)
    assert "Nothing to change." in text(again)
    assert 'value="Make' not in again.content.decode()


def test_a_change_in_between_shows_the_changes_again(admin_client: Client, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad", capacity=3)
    shown = upload(admin_client)
    assert "capacity 3 -> 5" in text(shown)
    Tool.objects.filter(name="cad").update(capacity=4)
    second = confirm(admin_client, shown)
    assert second.status_code == 409
    assert "The changes are not those that you saw" in text(second)
    assert "capacity 4 -> 5" in text(second)
    assert Tool.objects.get().capacity == 4
    assert " made." in text(confirm(admin_client, second))
    assert Tool.objects.get(name="cad").capacity == 5


def test_contracts_that_were_entered_by_hand_are_a_note_and_no_change(admin_client: Client) -> None:
    confirm(admin_client, upload(admin_client))
    contracts.save(contracts=[Contract(tool=Tool.objects.get(name="cad"), seats=3)], by=SOMEBODY)
    shown = upload(admin_client)
    page = text(shown)
    assert "0 changes, 0 problems, 1 note." in page, page
    assert "Nothing to change." in page
    assert "cad: its contracts were entered by hand and stay; they have 3 seats now, the file has 5" in page
    assert 'value="Make' not in shown.content.decode()


def test_a_confirmation_twice_changes_nothing_the_second_time(admin_client: Client) -> None:
    shown = upload(admin_client)
    confirm(admin_client, shown)
    records = AuditRecord.objects.count()
    assert "Nothing to change." in text(confirm(admin_client, shown))
    assert AuditRecord.objects.count() == records


def test_lines_that_cannot_be_imported_are_skipped_only_on_request(admin_client: Client) -> None:
    shown = upload(admin_client, options=OPTIONS + b"INCLUDE SIM DISPLAY x\n")
    assert "acme.opt:4 INCLUDE for DISPLAY has no counterpart here" in text(shown)
    assert 'value="Skip 1 line and make 7 changes"' in shown.content.decode()
    (sealed,) = re.findall(r'name="upload" value="([^"]*)"', shown.content.decode())
    assert admin_client.post(PAGE, {"upload": sealed}).status_code == 409
    assert nothing_is_imported()
    confirm(admin_client, shown)
    assert AccessRule.objects.get().name == "eve"


def test_names_that_no_tool_can_have_get_others(admin_client: Client) -> None:
    license = b"INCREMENT ARC/INFO esri 1.0 permanent 3\n"
    assert "is not a valid name of a tool" in text(upload(admin_client, license))
    shown = upload(admin_client, license, features="ARC/INFO=arc_info")
    confirm(admin_client, shown)
    assert Tool.objects.get().name == "arc_info"


@pytest.mark.parametrize(
    ("fields", "reported"),
    [
        ({"features": "CAD=Not A Name"}, "is not OLD=new"),
        ({"features": "CAD"}, "is not OLD=new"),
        ({"features": "CAM=cam"}, "CAM=cam: the file does not have this name"),
        ({"features": "CAD=a\nCAD=b"}, "give one new name"),
        ({"groups": "crash=x"}, "crash=x: the file does not have this name"),
        ({"features": "x" * 20_001}, "at most 20000 characters"),
    ],
)
def test_a_new_name_that_makes_no_sense_is_reported(
    admin_client: Client, fields: dict[str, Any], reported: str
) -> None:
    answer = upload(admin_client, **fields)
    assert answer.status_code == 400
    assert reported in text(answer)
    assert nothing_is_imported()


HOSTILE = {
    "nothing": b"",
    "zeros": b"\0" * 5000,
    "binary": bytes(range(256)) * 40,
    "half of UTF-16": b"\xff\xfe\x00",
    "a line without end": b"INCREMENT " + b"x" * 250_000,
    "quotation marks": b'INCREMENT f acme 1 permanent 5 "' * 500,
    "a huge number": b"INCREMENT f acme 1.0 permanent " + b"9" * 5000,
    "a date that is none": b"INCREMENT f acme 1.0 31-feb-2027 5",
    "markup": b"INCREMENT <script>alert(1)</script> acme 1.0 permanent 5\n",
    "the order of text": "INCREMENT a\u202eb acme 1.0 permanent 5\n".encode(),
    "the name of a call": b"INCREMENT borrow acme 1.0 permanent 5",
    "an HTML page": b"<!DOCTYPE html><html><body>Sign in</body></html>",
    "parentheses": b"PACKAGE p acme 1.0 COMPONENTS=" + b"{" * 10_000,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("as_options", [False, True], ids=["license", "options"])
def test_a_hostile_file_is_answered_in_words(admin_client: Client, name: str, as_options: bool) -> None:
    files = (LICENSE, HOSTILE[name]) if as_options else (HOSTILE[name], None)
    answer = upload(admin_client, *files)
    assert answer.status_code in {200, 400}
    page = answer.content.decode()
    assert "problem" in page or "errorlist" in page
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert nothing_is_imported()


def test_a_byte_order_mark_and_other_encodings_are_read(admin_client: Client) -> None:
    line = "INCREMENT cäd acme 1.0 permanent 5 VENDOR_STRING=ü\nINCREMENT sim acme 1.0 permanent 2\n"
    for data in (b"\xef\xbb\xbf" + line.encode(), line.encode("utf-16"), line.encode("latin-1")):
        assert "sim new, capacity 2" in text(upload(admin_client, data))


def test_files_that_are_too_large_are_refused(admin_client: Client) -> None:
    answer = upload(admin_client, b"# x\n" * (flexlm.MAX_BYTES // 4 + 1))
    assert answer.status_code == 400
    assert "The files have more than 1.5 MiB. Use manage.py import_flexlm." in text(answer)
    assert upload(admin_client, b"#" * 2_700_000).status_code == 413
    members = " ".join(f"user{number}" for number in range(flexlm.MAX_PARTS))
    answer = upload(admin_client, options=f"GROUP crash {members}\n".encode())
    assert "tools, members and rules. A page imports at most 2,000." in text(answer)
    assert nothing_is_imported()


def test_the_largest_files_fit_into_the_confirmation(admin_client: Client) -> None:
    """The comments can't be compressed well."""
    noise = b"".join(b"# %064x\n" % pow(3, number, 2**256 - 189) for number in range(20_000))
    shown = upload(admin_client, LICENSE + noise[: flexlm.MAX_BYTES - len(LICENSE) - 100])
    assert shown.status_code == 200
    confirm(admin_client, shown)
    assert Tool.objects.count() == 2


@pytest.mark.parametrize("value", ["", "x", "x:y:z", "\0", "a" * 5000])
def test_a_confirmation_of_nothing_is_refused(admin_client: Client, value: str) -> None:
    answer = admin_client.post(PAGE, {"upload": value}, follow=True)
    assert "Upload the files again." in text(answer)
    assert nothing_is_imported()


def test_an_old_page_can_not_be_confirmed(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = upload(admin_client)
    monkeypatch.setattr(flexlm, "MAX_AGE", -1)
    assert "more than an hour ago" in text(confirm(admin_client, shown))
    assert nothing_is_imported()


def test_what_the_tables_refuse_is_reported(api: Api, admin_client: Client, make_tool: Callable[..., Tool]) -> None:
    """A reservation of the file that no longer fits, because another team has seats reserved."""
    first = upload(admin_client, b"INCREMENT CAD acme 1.0 permanent 5\n", b"GROUP a x\nRESERVE 4 CAD GROUP a\n")
    confirm(admin_client, first)
    records = AuditRecord.objects.count()
    answer = upload(admin_client, b"INCREMENT CAD acme 1.0 permanent 5\n", b"GROUP b y\nRESERVE 4 CAD GROUP b\n")
    assert answer.status_code == 400
    assert "errorlist" in answer.content.decode()
    assert AuditRecord.objects.count() == records


def test_only_those_who_may_change_all_of_it_import(client: Client) -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)
    client.force_login(clerk)
    assert client.get(PAGE).status_code == upload(client).status_code == 403
    assert "Import from FlexNet" not in client.get("/admin/").content.decode()
    models = ("tool", "contract", "team", "teammember", "allotment", "userlimit", "accessrule")
    codes = [f"{verb}_{model}" for model in models for verb in ("add", "change")]
    clerk.user_permissions.set(Permission.objects.filter(codename__in=codes))
    assert client.get(PAGE).status_code == 403, "contracts are deleted too"
    clerk.user_permissions.add(Permission.objects.get(codename="delete_contract"))
    client.force_login(User.objects.get(pk=clerk.pk))
    assert "Import from FlexNet" in client.get("/admin/").content.decode()
    confirm(client, upload(client))
    assert Tool.objects.count() == 2
    assert not Contract.objects.exists()
