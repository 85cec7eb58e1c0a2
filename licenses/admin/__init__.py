"""The Django admin of the server, one file per subject."""

from django.contrib import admin

from . import account, audit, contract, denial, identity, lease, notification, rule, team, ticket, token, tool  # noqa: F401
from .deletions import delete_selected

admin.site.disable_action("delete_selected")
admin.site.add_action(delete_selected, "delete_selected")
