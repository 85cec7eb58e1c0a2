"""The admin site: its front page warns of an open server, and its sign-in offers the provider.

``licenses.admin`` is separate, because it registers with this site on import.
"""

from typing import Any, cast

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.urls import path

from licenses import auditing
from licenses.auditing import Actor
from licenses.checks import OPEN
from licenses.signin import oidc
from licenses.signin.forms import AdminSignInForm
from licenses.signin.views import sign_out


class LicensesAdminSite(admin.AdminSite):
    site_title = site_header = "Floating-license server"
    index_title = "Administration"
    # The lists need the width of the page.
    enable_nav_sidebar = False
    index_template = "licenses/admin_index.html"
    login_template = "licenses/signin.html"
    login_form = AdminSignInForm

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return super().each_context(request) | {
            "open_to_all": OPEN if settings.LICENSE_AUTH == "open" else "",
            "with_provider": oidc.is_configured(),
            "with_password": settings.LICENSE_LOCAL_PASSWORDS,
        }

    def autocomplete_view(self, request: HttpRequest) -> HttpResponse:
        # Import here, because licenses.admin registers with this site.
        from licenses.admin.widgets import BothNames

        return cast(HttpResponse, BothNames.as_view(admin_site=self)(request))

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        # Import here, because licenses.admin registers with this site.
        from licenses.admin import cockpit, flexlm, person, reports

        context = {
            "cards": cockpit.cards(request),
            "may_read_reports": reports.may_read(request),
            "may_import": flexlm.may_import(request),
            "may_look_up": person.may_look_up(request),
        }
        return super().index(request, context | (extra_context or {}))

    def get_urls(self) -> list[Any]:
        # Import here, because licenses.admin registers with this site.
        from licenses.admin import flexlm, money, person, reports

        return [
            path("reports/", self.admin_view(reports.overview), name="licenses_reports"),
            path("reports/money/", self.admin_view(money.money), name="licenses_money"),
            path("reports/tables/<str:name>/", self.admin_view(reports.one_report), name="licenses_report_table"),
            path("reports/<str:name>/", self.admin_view(reports.one_tool), name="licenses_report"),
            path("flexlm/", self.admin_view(flexlm.import_files), name="licenses_flexlm"),
            path("person/", self.admin_view(person.one_person), name="licenses_person"),
            path("person/left/", self.admin_view(person.left), name="licenses_person_left"),
            *super().get_urls(),
        ]

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        if request.method != "POST":
            return super().password_change(request, extra_context)
        account = User.objects.get(username=request.user.get_username())
        with auditing.changing(account, by=Actor.of_account(account.username, request.META)):
            return super().password_change(request, extra_context)

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return sign_out(request)
