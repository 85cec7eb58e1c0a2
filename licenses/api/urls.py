"""Addresses of the API. The /licenses/ calls have no trailing slash, because clients call them so."""

from django.urls import include, path
from drf_spectacular.views import SpectacularSwaggerView
from rest_framework.routers import APIRootView, DefaultRouter

from . import audit, borrowing, caller, denials, leases, login, probes, queue, reports, tools
from .common.queries import StrictQuery
from .schema import SchemaView


class Root(StrictQuery, APIRootView):
    """The lists of the API."""


router = DefaultRouter()
router.APIRootView = Root
router.register("tools", tools.ToolViewSet)
router.register("leases", leases.LeaseViewSet)
router.register("denials", denials.DenialViewSet)
router.register("audit", audit.AuditViewSet)

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
    path("api/v1/login/device", login.DeviceView.as_view(), name="login-device"),
    path("api/v1/login/token", login.TokenView.as_view(), name="login-token"),
    path("api/v1/login/revoke", login.RevokeView.as_view(), name="login-revoke"),
    # One for each report of licenses/history/catalog.py.
    *(path(f"api/v1/reports/{name}", view.as_view(), name=f"report-{name}") for name, view in reports.VIEWS.items()),
    path("api/schema/", SchemaView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("version", probes.VersionView.as_view()),
    *probe_urls,
]
