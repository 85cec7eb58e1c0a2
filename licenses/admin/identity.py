"""Link an existing account to a user of the provider, and release retired names."""

from typing import Any

from django.contrib import admin
from django.forms import ModelForm
from django.http import HttpRequest

from licenses.models import Identity, JwtCaller, RetiredName

from .audited import AuditedAdmin
from .rights import SuperusersOnly


class IdentityForm(ModelForm[Identity]):
    class Meta:
        model = Identity
        fields = ["user", "issuer", "subject"]
        help_texts = {
            "issuer": "The address of the provider: the claim iss of its tokens.",
            "subject": "The user's id at the provider: the claim sub.",
        }


@admin.register(Identity)
class IdentityAdmin(SuperusersOnly, AuditedAdmin[Identity]):
    form = IdentityForm
    list_display = ["user", "issuer", "subject"]
    list_select_related = ["user"]
    search_fields = ["user__username", "subject"]
    autocomplete_fields = ["user"]


class NamesAdmin(SuperusersOnly, AuditedAdmin[Any]):
    """Names that the server reserves. Delete one to release it."""

    search_fields = ["name", "subject"]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.list_display

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        # Also those that Django puts in no form.
        return self.list_display

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(JwtCaller)
class JwtCallerAdmin(NamesAdmin):
    list_display = ["name", "issuer", "subject", "bound_at"]


@admin.register(RetiredName)
class RetiredNameAdmin(NamesAdmin):
    list_display = ["name", "issuer", "subject", "retired_at"]
