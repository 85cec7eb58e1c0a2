"""Addresses of the whole server."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="docs")),
    path("admin/", admin.site.urls),
    path("", include("licenses.signin.urls")),
    path("", include("licenses.api.urls")),
]

handler400 = "licenses.api.problems.bad_request"
handler404 = "licenses.api.problems.not_found"
handler500 = "licenses.api.problems.server_error"
