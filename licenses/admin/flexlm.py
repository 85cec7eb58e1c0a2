"""Import FlexNet's files on a page: upload them, look at what would change, and confirm exactly that."""

import base64
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core import signing
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from licenses.errors import Refusal
from licenses.flexlm.applying import Outcome, PlanChanged, bring_in
from licenses.flexlm.files import UNSIGNED, Pairs, WrongRename, listed, parse, planned, renaming
from licenses.flexlm.plan import Plan
from licenses.history.tables import counted
from licenses.names import visible
from licenses.tools import texts

from .audited import actor_of

# Both files together. The form that confirms sends them again, and must stay below ADMIN_BODY_LIMIT.
MAX_BYTES = 3 * 2**19
# Tools, members and rules of both files: an import of more takes longer than a page may.
MAX_PARTS = 2000
# The time from the diff to its confirmation, in seconds.
MAX_AGE = 3600
SALT = "licenses.admin.flexlm.2"
COMMAND = "Use manage.py import_flexlm."
# An import changes all of these.
NEEDED = [
    f"licenses.{verb}_{model}"
    for model in ("tool", "contract", "team", "teammember", "allotment", "userlimit", "accessrule")
    for verb in ("add", "change")
]


def may_import(request: HttpRequest) -> bool:
    """Return whether this user may change everything that an import changes."""
    has_perms = getattr(request.user, "has_perms", lambda permissions: False)
    return bool(has_perms([*NEEDED, "licenses.delete_contract"]))


class RenamesField(forms.CharField):
    """New names, one OLD=new on each line."""

    def __init__(self, label: str) -> None:
        widget = forms.Textarea(attrs={"rows": 2, "cols": 40, "spellcheck": "false"})
        super().__init__(label=label, required=False, max_length=20_000, widget=widget)
        self.help_text = "OLD=new, one on each line."

    def clean(self, value: Any) -> list[tuple[str, str]]:
        lines = super().clean(value).splitlines()
        try:
            return [renaming(line.strip()) for line in lines if line.strip()]
        except ValueError as error:
            raise ValidationError(str(error)) from None


class ImportForm(forms.Form):
    """Ask for the files and for new names."""

    license = forms.FileField(label="License file", allow_empty_file=True)
    options = forms.FileField(label="Options file", required=False, allow_empty_file=True)
    features = RenamesField("New names of features")
    groups = RenamesField("New names of groups")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        given: dict[str, Any] = {name: file for name in ("license", "options") if (file := cleaned.get(name))}
        if sum(file.size or 0 for file in given.values()) > MAX_BYTES:
            raise ValidationError(f"The files have more than {MAX_BYTES / 2**20:g} MiB. {COMMAND}")
        return cleaned | {f"{name}_bytes": file.read() for name, file in given.items()}


@dataclass(frozen=True, slots=True)
class Upload:
    """What an administrator uploaded, and the outcome that the page showed for it."""

    license: bytes
    options: bytes
    names: tuple[str, str]
    features: Pairs
    groups: Pairs
    shown: Outcome | None = None

    def plan(self) -> Plan:
        """Return the plan of today. Raises ValidationError."""
        try:
            wanted = planned(*parse(self.license, self.options), timezone.now().date(), self.features, self.groups)
        except WrongRename as error:
            raise ValidationError({"groups" if error.of_group else "features": str(error)}) from None
        if wanted.parts > MAX_PARTS:
            text = f"The files have {wanted.parts:,} tools, members and rules. A page imports at most {MAX_PARTS:,}."
            raise ValidationError(f"{text} {COMMAND}")
        return wanted

    def sealed(self, outcome: Outcome) -> str:
        """Return it with the outcome that the page shows, as a signed text."""
        files = [base64.b64encode(data).decode() for data in (self.license, self.options)]
        values = [*files, self.names, list(self.features), list(self.groups), outcome]
        return signing.dumps(values, salt=SALT, compress=True)

    @classmethod
    def opened(cls, text: str) -> "Upload":
        """Return the upload of a signed text. Raises BadSignature if it is not ours or too old."""
        license, options, names, features, groups, shown = signing.loads(text, salt=SALT, max_age=MAX_AGE)
        return cls(
            base64.b64decode(license),
            base64.b64decode(options),
            (names[0], names[1]),
            [(old, new) for old, new in features],
            [(old, new) for old, new in groups],
            Outcome(*shown),
        )


def import_files(request: HttpRequest) -> HttpResponse:
    """Show the form; the changes that uploaded files would make; and make the changes that are confirmed."""
    if not may_import(request):
        raise PermissionDenied
    if request.method != "POST":
        return _page(request, form=ImportForm())
    if "upload" in request.POST:
        return _confirm(request)
    form = ImportForm(request.POST, request.FILES)
    if not form.is_valid():
        return _page(request, form=form, status=400)
    cleaned = form.cleaned_data
    upload = Upload(
        cleaned["license_bytes"],
        cleaned.get("options_bytes", b""),
        (_name(cleaned["license"]), _name(cleaned["options"])),
        cleaned["features"],
        cleaned["groups"],
    )
    try:
        plan = upload.plan()
        outcome = _carry_out(request, plan, for_real=False)
    except ValidationError as error:
        form.add_error(None, error)
        return _page(request, form=form, status=400)
    return _diff(request, upload, plan, outcome)


def _confirm(request: HttpRequest) -> HttpResponse:
    try:
        upload = Upload.opened(request.POST["upload"])
    except signing.BadSignature:
        messages.error(request, "You looked at the changes more than an hour ago. Upload the files again.")
        return HttpResponseRedirect(request.path)
    try:
        plan = upload.plan()
        if plan.problems and "skip" not in request.POST:
            raise PlanChanged(_carry_out(request, plan, for_real=False))
        outcome = _carry_out(request, plan, for_real=True, shown=upload.shown)
    except PlanChanged as changed:
        text = "The changes are not those that you saw, because something else changed meanwhile. "
        messages.error(request, f"{text}Nothing was imported. Look at the changes again.")
        return _diff(request, upload, plan, changed.outcome, status=409)
    except ValidationError as error:
        messages.error(request, f"{' '.join(error.messages)} Nothing was imported.")
        return HttpResponseRedirect(request.path)
    messages.success(request, f"{counted(len(outcome.changes), 'change')} made.")
    return HttpResponseRedirect(reverse("admin:licenses_tool_changelist"))


def _carry_out(request: HttpRequest, plan: Plan, *, for_real: bool, shown: Outcome | None = None) -> Outcome:
    """Return the outcome of a plan. Raises ValidationError with a text for the administrator, or PlanChanged."""
    try:
        return bring_in(plan, by=actor_of(request), for_real=for_real, shown=shown)
    except Refusal as refusal:
        raise ValidationError(texts.of_refusal(refusal)) from None
    except IntegrityError:
        raise ValidationError("Somebody else changed the same tools or teams at the same time. Try again.") from None


def _name(file: Any) -> str:
    return visible((file.name or "") if file else "")[:100]


def _diff(request: HttpRequest, upload: Upload, plan: Plan, outcome: Outcome, *, status: int = 200) -> HttpResponse:
    subjects: dict[str, list[str]] = {}
    for change in outcome.changes:
        subject, _, text = change.partition(": ")
        subjects.setdefault(visible(subject), []).append(visible(text))
    found = [
        (name, finding)
        for name, findings in zip(upload.names, (plan.of_license, plan.of_options), strict=True)
        for finding in listed(findings)
    ]
    notes = [(name, finding) for name, finding in found if not finding.is_problem]
    context = {
        "plan": plan,
        "files": " and ".join(filter(None, upload.names)),
        "subjects": subjects,
        "number": len(outcome.changes),
        "problems": [(name, finding) for name, finding in found if finding.is_problem],
        "notes": notes,
        "remarks": list(map(visible, outcome.notes)),
        "noted": len(notes) + len(outcome.notes),
        "unsigned": UNSIGNED,
        "upload": upload.sealed(outcome),
    }
    return _page(request, status=status, **context)


def _page(request: HttpRequest, *, status: int = 200, **context: Any) -> HttpResponse:
    page = admin.site.each_context(request) | {"title": "Import from FlexNet", **context}
    return render(request, "admin/licenses/flexlm_import.html", page, status=status)
