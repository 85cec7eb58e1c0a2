"""Configure the app and its admin site."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.contrib import admin
from django.contrib.admin import apps as admin_apps
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core import checks


class LicensesConfig(AppConfig):
    """Register the checks of settings at the start."""

    name = "licenses"
    verbose_name = "Licenses"
    default = True

    def ready(self) -> None:
        # Importing it registers its checks.
        from . import checks  # noqa: F401


class LicensesAdminConfig(admin_apps.SimpleAdminConfig):
    """Use Django's admin with this server's front page.

    The server imports the pages of the admin with its addresses, because most commands need neither.
    """

    default_site = "licenses.admin_site.LicensesAdminSite"
    default = False

    def ready(self) -> None:
        checks.register(check_dependencies, checks.Tags.admin)
        checks.register(check_admin, checks.Tags.admin)


def check_admin(app_configs: Sequence[AppConfig] | None, **options: Any) -> list[checks.CheckMessage]:
    """Import the pages of the admin and check them."""
    admin.autodiscover()
    return check_admin_app(app_configs, **options)
