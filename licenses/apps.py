"""Configure the app and its admin site."""

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class LicensesConfig(AppConfig):
    """Register the checks of settings and the schema of the API at the start."""

    name = "licenses"
    verbose_name = "Licenses"
    default = True

    def ready(self) -> None:
        # Importing it registers its checks.
        from . import checks  # noqa: F401
        from .api.common import openapi  # noqa: F401


class LicensesAdminConfig(admin_apps.AdminConfig):
    """Use Django's admin with this server's front page."""

    default_site = "licenses.admin_site.LicensesAdminSite"
    default = False
