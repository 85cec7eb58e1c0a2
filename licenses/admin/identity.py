"""Whose account is whose at the provider: here an administrator links one that
was there before."""

from django.contrib import admin

from licenses.models import Identity

from .audited import AuditedAdmin


@admin.register(Identity)
class IdentityAdmin(AuditedAdmin[Identity]):
    list_display = ["user", "issuer", "subject"]
    list_select_related = ["user"]
    search_fields = ["user__username", "subject"]
    autocomplete_fields = ["user"]
