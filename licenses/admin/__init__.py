"""The Django admin of the server, one file a subject."""

from django.contrib import admin

from . import account, audit, denial, identity, lease, team, token, tool, waiting  # noqa: F401

admin.site.site_header = admin.site.site_title = "Floating-license server"
# The lists are wide, and there is little to navigate.
admin.site.enable_nav_sidebar = False
