"""Addresses of the whole server."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("licenses.board.urls")),
    path("admin/", admin.site.urls),
    path("", include("licenses.signin.urls")),
    path("", include("licenses.api.urls")),
]

handler400 = "licenses.api.problems.bad_request"
handler404 = "licenses.api.problems.not_found"
handler500 = "licenses.api.problems.server_error"
