"""Edit contracts in the admin."""

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from licenses.history.tables import amount
from licenses.models import Contract, Tool
from licenses.tools import contracts, notes

from . import names
from .audited import AuditedAdmin, actor_of
from .filters import EndsFilter, UsedRelations


class LastDayFilter(EndsFilter):
    field = "last_day"


@admin.register(Contract)
class ContractAdmin(AuditedAdmin[Contract]):
    fields = ["tool", "seats", "first_day", "last_day", "price", "reference", "note", "source"]
    list_display = [names.tool, "seats", "first_day", "last_day", "cost", "reference", "source"]
    list_display_links = [names.tool, "seats"]
    list_filter = [("tool", UsedRelations), LastDayFilter, "source"]
    list_select_related = ["tool"]
    search_fields = ["tool__name", "tool__display_name", "reference", "note"]
    autocomplete_fields = ["tool"]

    @admin.display(description="price", ordering="price")
    def cost(self, contract: Contract) -> str | None:
        """Return the price with its currency."""
        return None if contract.price is None else amount(contract.price, settings.LICENSE_CURRENCY)

    def get_readonly_fields(self, request: HttpRequest, obj: Contract | None = None) -> list[str]:
        # A contract cannot move to another tool.
        return ["tool", "source"] if obj else ["source"]

    def save_model(self, request: HttpRequest, obj: Contract, form: Any, change: bool) -> None:
        self._note(request, contracts.save(contracts=[obj], by=actor_of(request)))

    def delete_model(self, request: HttpRequest, obj: Contract) -> None:
        self._note(request, contracts.delete(contracts=[obj], by=actor_of(request)))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Contract]) -> None:
        rows: Iterable[Contract] = queryset.select_related("tool")
        self._note(request, contracts.delete(contracts=rows, by=actor_of(request)))

    def _note(self, request: HttpRequest, changed: Iterable[Tool]) -> None:
        """Warn of tools whose capacity changed, if more seats of them are borrowed."""
        for note in notes.of_capacities(changed, for_people=True):
            self.message_user(request, note, messages.WARNING)
