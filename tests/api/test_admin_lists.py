"""The admin's lists accept only the lookups of their filters."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from licenses.models import AuditRecord, Denial, Team, Tool
from tests.support.api import Api
from tests.support.quotas import allot

MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)


def address(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_a_list_takes_no_lookup_but_those_of_its_filters(admin_client: Client, model: type[Model]) -> None:
    for field in model._meta.get_fields():
        for lookup in ("regex", "iregex", "startswith", "contains", "gt", "range", "pk__regex", "date__regex"):
            answer = admin_client.get(address(model), {f"{field.name}__{lookup}": "((a+)+)+b"})
            assert answer.status_code == 400, f"{field.name}__{lookup}"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_every_link_of_a_filter_works(
    admin_client: Client,
    api: Api,
    make_tool: Callable[..., Tool],
    make_team: Callable[..., Team],
    model: type[Model],
) -> None:
    """Return the filter links of a page."""
    for tool in ("cad", "sim"):
        make_tool(tool, vendor="acme")
        allot(tool, make_team("crash", f"user_of_{tool}"), quota=1)
        api.borrow(tool)
        api.borrow(tool, "ben")
    request = admin_client.get(address(model)).wsgi_request
    model_admin: Any = admin.site._registry[model]
    changelist = model_admin.get_changelist_instance(request)
    links = [
        choice["query_string"]
        for spec in changelist.filter_specs
        for choice in spec.choices(changelist)
        if "query_string" in choice
    ]
    for link in links:
        answer = admin_client.get(address(model), dict(parse_qsl(urlsplit(link).query)))
        assert answer.status_code == 200, link


@pytest.mark.parametrize(
    "value", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "99999-01-01", "x", "", "\0"]
)
@pytest.mark.parametrize("field", ["last_at__gte", "last_at__lt"])
def test_a_time_out_of_range_is_no_defect(admin_client: Client, field: str, value: str) -> None:
    answer = admin_client.get(address(Denial), {field: value})
    assert answer.status_code in {200, 302, 400}


@pytest.mark.parametrize("year", ["0", "9999", "10000", "-1", "9" * 5000, "x"])
def test_a_year_out_of_range_is_no_defect(admin_client: Client, year: str) -> None:
    answer = admin_client.get(address(AuditRecord), {"recorded_at__year": year, "recorded_at__month": "12"})
    assert answer.status_code in {302, 400}


@pytest.mark.parametrize("query", [{"tool__id__exact": "9" * 40}, {"tool__id__exact": "x"}, {"code": "\0"}])
def test_a_value_that_a_filter_cannot_have_is_no_defect(admin_client: Client, query: dict[str, str]) -> None:
    assert admin_client.get(address(Denial), query).status_code in {200, 302, 400}
