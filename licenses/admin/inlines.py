"""Rows of other tables on a row's page."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.http import HttpRequest


class OptionalInlines(admin.ModelAdmin[Any]):
    """Who sends a row's own fields alone, as a program may, leaves the rows below
    it as they are."""

    def get_formsets_with_inlines(self, request: HttpRequest, obj: Any = None) -> Iterator[Any]:
        for formset, inline in super().get_formsets_with_inlines(request, obj):
            if request.method != "POST" or f"{formset.get_default_prefix()}-TOTAL_FORMS" in request.POST:
                yield formset, inline
