"""Fill in and send the forms of the admin."""

from typing import Any

from django.contrib.auth.models import User
from django.test import Client

from licenses.models import Tool

PAGES = {"allotments": "allotment", "user_limits": "userlimit", "access_rules": "accessrule"}


def save(admin: Client, tool: Tool, rows: dict[str, list[dict[str, Any]]], **values: Any) -> Any:
    """Save the tool's page if there are values, and then each row's: one with an id is
    changed, or deleted if it has a DELETE. Return the last answer."""
    tool.refresh_from_db()
    answer = None
    if values:
        data = {"capacity": tool.capacity, "overdraft": tool.overdraft, "enabled": "on"} | values
        answer = admin.post(f"/admin/licenses/tool/{tool.pk}/change/", data, follow=True)
    for name, page in PAGES.items():
        for row in rows.get(name, []):
            data = {"tool": tool.pk} | row
            if "DELETE" in data:
                address, data = f"{data['id']}/delete/", {"post": "yes"}
            else:
                address = f"{data['id']}/change/" if "id" in data else "add/"
            answer = admin.post(f"/admin/licenses/{page}/{address}", data, follow=True)
    return answer


def page_of(account: User) -> dict[str, Any]:
    """Return the filled form of an account's page in the admin."""
    joined = account.date_joined
    form = {"username": account.username, "email": account.email}
    form |= {"date_joined_0": f"{joined:%Y-%m-%d}", "date_joined_1": f"{joined:%H:%M:%S}"}
    return form | {name: "on" for name in ("is_active", "is_staff", "is_superuser") if getattr(account, name)}
