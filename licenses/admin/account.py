"""Show accounts and groups in the admin, record their changes, and end what acts for an account."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode

from licenses import auditing
from licenses.access import accounts
from licenses.access.rules import CHANGE_LEASES, is_within_own
from licenses.clock import database_now
from licenses.history.tables import counted
from licenses.models import ApiToken, Lease, Ticket
from licenses.models.lease import NOTE_LENGTH

from .audited import AuditedAdmin, actor_of
from .person import REASON_HELP, EndForm, ended_in_words, person_link
from .rights import SuperusersOnly

admin.site.unregister([User, Group])

WHAT_ENDS = (
    "Deactivating, renaming or deleting an account revokes its tokens, ends its sessions and removes its tickets from "
    "the queues. This can't be undone."
)


class AccountForm(UserChangeForm[User], EndForm):
    def clean_username(self) -> str:
        name: str = self.cleaned_data["username"]
        return name if name == self.initial.get("username") else _free(name, self.instance)


class NewAccountForm(AdminUserCreationForm[User]):
    def clean_username(self) -> str:
        # Django reports a taken name itself, and then returns no name.
        return _free(super().clean_username() or self.data["username"])


def _free(name: str, account: User | None = None) -> str:
    """Return the name. Raises ValidationError if an account can't have it."""
    if why := accounts.why_not(name, account=account):
        raise ValidationError(why)
    return name


@admin.register(Group)
class RoleAdmin(SuperusersOnly, AuditedAdmin[Group], GroupAdmin):
    """Edit groups: rights that several accounts share."""


@admin.register(User)
class AccountAdmin(AuditedAdmin[User], UserAdmin[User]):
    """Edit accounts.

    Superusers may do everything. Others may change, deactivate and delete accounts
    without rights that they lack themselves; they set no rights, names or passwords.
    """

    form = AccountForm
    add_form = NewAccountForm
    list_display = ["username", "email", "is_active", "is_staff", "last_login"]
    actions = ["deactivate"]
    rights = ["username", "is_staff", "is_superuser", "groups", "user_permissions", "last_login", "date_joined"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        # The creator of an account knows its password and could act under its name.
        return request.user.is_superuser and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or is_within_own(request.user, obj))

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or is_within_own(request.user, obj))

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> list[str]:
        return ["acting"] if request.user.is_superuser else ["acting", *self.rights]

    def get_fieldsets(self, request: HttpRequest, obj: User | None = None) -> Any:
        if obj is None:
            return super().get_fieldsets(request, obj)
        fieldsets = [(title, dict(options)) for title, options in super().get_fieldsets(request, obj)]
        if not request.user.is_superuser:
            # Do not show them the hash of the password either.
            fieldsets[0][1]["fields"] = ("username",)
        ending = ("acting", "force_note") if self._may_force(request, obj) else ("acting",)
        return [*fieldsets, ("When the account ends", {"fields": ending, "description": WHAT_ENDS})]

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        # Delete one account at a time, because its page shows what ends with it.
        return {name: action for name, action in super().get_actions(request).items() if name != "delete_selected"}

    @admin.display(description="in use now")
    def acting(self, account: User) -> str:
        """Return the account's open leases, tickets and tokens, with links."""
        held = Lease.objects.active(database_now()).heads().held_by(account.username)
        waiting = Ticket.objects.waiting().filter(user=account.username)
        valid = ApiToken.objects.acting_as(account).filter(revoked_at__isnull=True)
        return format_html(
            '<a href="{}?{}">{}</a>, {}, <a href="{}?{}">{}</a>; {}',
            reverse("admin:licenses_lease_changelist"),
            urlencode({"user": account.username, "state": "active"}),
            counted(held.count(), "open lease"),
            counted(waiting.count(), "open ticket"),
            reverse("admin:licenses_apitoken_changelist"),
            urlencode({"q": account.username}),
            counted(valid.count(), "token"),
            person_link(account.username, "everything about this person"),
        )

    def _may_force(self, request: HttpRequest, account: User | None = None) -> bool:
        return request.user.has_perm(CHANGE_LEASES) and self.has_change_permission(request, account)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        if not request.user.is_superuser:
            raise PermissionDenied
        account = self.get_object(request, id)
        if account is None or request.method != "POST":
            return super().user_change_password(request, id, form_url)
        with auditing.changing(account, by=actor_of(request)):
            return super().user_change_password(request, id, form_url)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        # A client can send the field even if the form does not show it.
        note = form.cleaned_data.get("force_note", "") if self._may_force(request, obj) else ""
        ended = accounts.save(obj, by=actor_of(request), force_note=note)
        self._tell(request, obj, ended)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        account = self.get_object(request, object_id)
        if request.method == "POST" and not EndForm(request.POST).is_valid():
            self.message_user(request, "The reason must be one line. Nothing was deleted.", messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        context = self._ending(request, [account]) if account else {}
        return super().delete_view(request, object_id, (extra_context or {}) | context)

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        ended = accounts.delete(obj, by=actor_of(request), force_note=self._note(request))
        self._tell(request, obj, ended)

    @admin.action(description="Deactivate", permissions=["change"])
    def deactivate(self, request: HttpRequest, queryset: QuerySet[User]) -> HttpResponse | None:
        chosen = list(queryset.order_by("username"))
        if not all(self.has_change_permission(request, account) for account in chosen):
            raise PermissionDenied
        form = EndForm(request.POST if "confirmed" in request.POST else None)
        if form.is_valid():
            for account in chosen:
                ended = accounts.deactivate(account, by=actor_of(request), force_note=self._note(request))
                self._tell(request, account, ended)
                self.log_change(request, account, "Deactivated")
            self.message_user(request, f"{counted(len(chosen), 'account')} deactivated.", messages.SUCCESS)
            return None
        context = self.admin_site.each_context(request) | self._ending(request, chosen)
        context |= {"title": "Deactivate accounts", "opts": self.opts, "form": form, "checkbox": ACTION_CHECKBOX_NAME}
        return TemplateResponse(request, "licenses/admin_deactivate.html", context)

    def _note(self, request: HttpRequest) -> str:
        """Return the reason of the force return; empty if that is not allowed."""
        form = EndForm(request.POST)
        return form.cleaned_data["force_note"] if form.is_valid() and self._may_force(request) else ""

    def _ending(self, request: HttpRequest, chosen: list[User]) -> dict[str, Any]:
        """Return the context of a page that ends accounts."""
        names = [account.username for account in chosen]
        leases = Lease.objects.active(database_now()).heads().filter(user__in=names).select_related("tool")
        return {
            "what_ends": WHAT_ENDS,
            "reason_help": REASON_HELP,
            "accounts": chosen,
            "leases": leases.order_by("user", "-borrowed_at"),
            "may_force": self._may_force(request),
            "note_length": NOTE_LENGTH,
        }

    def _tell(self, request: HttpRequest, account: User, ended: accounts.Ended) -> None:
        if ended != accounts.Ended():
            self.message_user(
                request,
                f"Ended with {account.username}: {', '.join(ended_in_words(ended))}.",
                messages.WARNING,
            )
