"""Addresses of the whole server. WhiteNoise answers the files below STATIC_URL before these."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

# Import the pages of the admin, which register with its site.
admin.autodiscover()

urlpatterns = [
    # First, since programs call it most.
    path("", include("licenses.api.urls")),
    path("", include("licenses.board.urls")),
    path("admin/", admin.site.urls),
    # Browsers request it for pages without their own icon.
    path("favicon.ico", RedirectView.as_view(url=static("licenses/board.svg"))),
    path("", include("licenses.signin.urls")),
]

handler400 = "licenses.api.common.problems.bad_request"
handler404 = "licenses.api.common.problems.not_found"
handler500 = "licenses.api.common.problems.server_error"
