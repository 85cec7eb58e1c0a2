"""Create and revoke API tokens in the admin."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html

from licenses.access import tokens
from licenses.models import ApiToken

from . import names
from .audited import AuditedAdmin, actor_of
from .filters import EndsFilter
from .row_action import RowAction, WithRowAction
from .secret import secret_page


def _maker(request: HttpRequest) -> tokens.Maker:
    account: Any = request.user
    return tokens.Maker(account.username, account.is_superuser, account)


class ExpiryFilter(EndsFilter):
    title = "expiry"
    field = "expires_at"


class RevokedFilter(admin.EmptyFieldListFilter):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.title = "state"

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """Yield the choices: Django calls a time empty or not empty."""
        names = ("All", "Not revoked", "Revoked")
        for name, choice in zip(names, super().choices(changelist), strict=True):
            yield choice | {"display": name}


# What became of a token. A new one has none of it.
OF_USE = ["last_used_at", "revoked_at", "hint", "created_at", "created_by"]


@admin.register(ApiToken)
class ApiTokenAdmin(WithRowAction, AuditedAdmin[ApiToken]):
    fields = ["name", "team", "user", "may_read", "may_borrow", "may_administer", "expires_at", *OF_USE]
    readonly_fields = OF_USE
    list_display = [
        "name",
        "user",
        names.team,
        "expires_at",
        "last_used_at",
        "revoked_at",
        "may_read",
        "may_borrow",
        "may_administer",
        "hint",
        "created_by",
    ]
    list_filter = [ExpiryFilter, ("revoked_at", RevokedFilter), "may_administer", "team"]
    autocomplete_fields = ["team"]
    list_select_related = ["team", "created_by"]
    search_fields = ["name", "hint", "user", "team__name", "team__display_name"]
    actions = ["revoke"]

    def has_change_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:
        # A token does not change. Create a new one instead.
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("licenses.change_apitoken")

    def get_fields(self, request: HttpRequest, obj: ApiToken | None = None) -> Any:
        # Nobody can give rights that they lack, and a team's token acts for other users.
        hidden: set[str] = set() if request.user.is_superuser or obj else {"may_administer", "team"}
        return [name for name in super().get_fields(request, obj) if name not in hidden]

    def row_action(self, request: HttpRequest, obj: ApiToken) -> RowAction | None:
        if obj.revoked_at is not None or not self.has_revoke_permission(request):
            return None
        return RowAction("revoke", "Revoke")

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and db_field.name == "user" and not request.user.is_superuser:
            field.initial, field.disabled, field.required = request.user.get_username(), True, True
            field.help_text = "A token of your own."
        if field is not None and db_field.name == "expires_at":
            field.initial = tokens.usual_end(_maker(request), timezone.now())
        return field

    def save_model(self, request: HttpRequest, obj: ApiToken, form: ModelForm[ApiToken], change: bool) -> None:
        secret = tokens.issue_as(_maker(request), obj, by=actor_of(request))
        request.secret_of_token = secret  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: ApiToken, post_url_continue: str | None = None) -> HttpResponse:
        use = format_html(
            "It is valid until {} UTC. Programs send it in a header: <code>Authorization: Bearer …</code>",
            f"{obj.expires_at:%Y-%m-%d %H:%M}",
        )
        return secret_page(self, request, obj, secret=request.secret_of_token, use=use)  # type: ignore[attr-defined]

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        revoked = 0
        for token in queryset.filter(revoked_at__isnull=True):
            tokens.revoke(token, by=actor_of(request))
            self.log_change(request, token, "Revoked")
            revoked += 1
        self.message_user(request, f"{revoked} token(s) revoked.", messages.SUCCESS)
