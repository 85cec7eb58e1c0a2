"""Addresses of the API. The /licenses/ calls have no trailing slash, because clients call them so."""

from typing import Any

from django.urls import include, path
from drf_spectacular.views import SpectacularSwaggerView
from rest_framework.routers import APIRootView, DefaultRouter

from . import (
    accounts,
    audit,
    borrowing,
    caller,
    contracts,
    denials,
    leases,
    limits,
    login,
    probes,
    queue,
    reports,
    site,
    teams,
    tokens,
    tools,
)
from .common.queries import StrictQuery
from .schema import SchemaView


class Root(StrictQuery, APIRootView):
    """The lists of the API."""


router = DefaultRouter()
router.APIRootView = Root
router.register("tools", tools.ToolViewSet)
router.register("contracts", contracts.ContractViewSet)
router.register("teams", teams.TeamViewSet)
router.register("tokens", tokens.TokenViewSet)
router.register("leases", leases.LeaseViewSet)
router.register("denials", denials.DenialViewSet)
router.register("audit", audit.AuditViewSet)

LIST: dict[str, Any] = {"get": "list"}
ROW: dict[str, Any] = {"get": "retrieve", "put": "update", "delete": "destroy"}
# The names of users and subjects can have slashes.
rows_of_tools = [
    path("quotas/", limits.QuotaViewSet.as_view(LIST), name="quota-list"),
    path("quotas/<str:team>/", limits.QuotaViewSet.as_view(ROW), name="quota-detail"),
    path("user-limits/", limits.UserLimitViewSet.as_view(LIST), name="user-limit-list"),
    path("user-limits/<path:user>/", limits.UserLimitViewSet.as_view(ROW), name="user-limit-detail"),
    path("access-rules/", limits.AccessRuleViewSet.as_view(LIST), name="access-rule-list"),
    path(
        "access-rules/<str:effect>/<str:kind>/<path:subject>/",
        limits.AccessRuleViewSet.as_view(ROW),
        name="access-rule-detail",
    ),
]
rows_of_teams = [
    path("members/", teams.MemberViewSet.as_view(LIST), name="member-list"),
    path("members/<path:user>/", teams.MemberViewSet.as_view(ROW), name="member-detail"),
]
account_urls = [
    path("", accounts.AccountViewSet.as_view(LIST), name="account-list"),
    path(
        "<path:username>/deactivate/",
        accounts.AccountViewSet.as_view({"post": "deactivate"}),
        name="account-deactivate",
    ),
    path("<path:username>/", accounts.AccountViewSet.as_view({"get": "retrieve"}), name="account-detail"),
]

# ProbeMiddleware answers these first, whatever host a machine asks for.
probe_urls = [
    path("livez", probes.livez),
    path("readyz", probes.readyz),
    path("metrics", probes.prometheus),
]

urlpatterns = [
    # The names are values of the label `view` of the HTTP metrics.
    path("licenses/status", tools.StatusViewSet.as_view({"get": "status"}), name="status"),
    path("licenses/borrow", borrowing.LicensesViewSet.as_view({"post": "borrow"}), name="borrow"),
    path("licenses/explain", borrowing.LicensesViewSet.as_view({"post": "explain"}), name="explain"),
    path("licenses/renew", borrowing.LicensesViewSet.as_view({"post": "renew"}), name="renew"),
    path("licenses/return", borrowing.LicensesViewSet.as_view({"post": "give_back"}), name="return"),
    # This stands before the queue: a tool may be called "queue" since before that name was reserved.
    path("licenses/<str:tool>/status", tools.StatusViewSet.as_view({"get": "tool_status"}), name="tool-status"),
    path("licenses/queue", queue.WaitsViewSet.as_view({"get": "list"}), name="waits"),
    path(
        "licenses/queue/<str:ticket>",
        queue.QueueViewSet.as_view({"get": "retrieve", "delete": "destroy"}),
        name="queue",
    ),
    path("api/v1/caller/", caller.CallerViewSet.as_view({"get": "retrieve"}), name="caller"),
    path("borrows", leases.BorrowsViewSet.as_view({"get": "list"}), name="borrows"),
    path("api/v1/", include(router.urls)),
    path("api/v1/tools/<str:tool>/", include(rows_of_tools)),
    path("api/v1/teams/<str:team>/", include(rows_of_teams)),
    path("api/v1/accounts/", include(account_urls)),
    path("api/v1/login/device", login.DeviceView.as_view(), name="login-device"),
    path("api/v1/login/token", login.TokenView.as_view(), name="login-token"),
    path("api/v1/login/revoke", login.RevokeView.as_view(), name="login-revoke"),
    # One for each report of licenses/history/catalog.py.
    *(path(f"api/v1/reports/{name}", view.as_view(), name=f"report-{name}") for name, view in reports.VIEWS.items()),
    path("api/v1/site", site.SiteView.as_view(), name="site"),
    path("api/v1/site/apply", site.ApplyView.as_view(), name="site-apply"),
    path("api/schema/", SchemaView.as_view(), name="schema"),
    path(
        "api/docs/",
        SpectacularSwaggerView.as_view(url_name="schema", template_name="licenses/api_docs.html"),
        name="docs",
    ),
    path("version", probes.VersionView.as_view()),
    *probe_urls,
]
