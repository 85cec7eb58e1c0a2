"""The admin's own pages: its front page says who may call this server.

Apart from ``licenses.admin``, which registers with this site while it is imported.
"""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest

from licenses.checks import OPEN


class LicensesAdminSite(admin.AdminSite):
    site_title = site_header = "Licence server"
    index_template = "licenses/admin_index.html"

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return super().each_context(request) | {"open_to_all": OPEN if settings.LICENSE_AUTH == "open" else ""}
