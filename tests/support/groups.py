"""Groups of the admin that a migration makes."""

from importlib import import_module

from django.apps import apps
from django.contrib.auth.models import Group


def managers() -> Group:
    """Return the group of managers. Make it as the migration does, because a test that empties all tables
    deletes it."""
    import_module("licenses.migrations.0025_managers_and_leads").add_managers(apps, None)
    return Group.objects.get(name="managers")
