"""The site that the harness works on: tools, teams, people and their credentials.

It is made as an operator makes one: with the management commands and the admin's pages.
"""

import json
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .pages import AdminPages

CLIENTS = 64
# Seats by tool. ``cad`` and ``sim`` have an overdraft or quotas, ``single`` and
# ``solo`` have one seat and a strict queue, ``dated`` ends and is extended while in use.
TOOLS: dict[str, dict[str, Any]] = {
    "cad": {"capacity": 5, "overdraft": 1},
    "sim": {"capacity": 4, "user_limit": 2},
    "single": {"capacity": 1},
    "solo": {"capacity": 1},
    "duo": {"capacity": 2},
    "dated": {"capacity": 3},
    "spare": {"capacity": 6},
}
WITH_ONE_SEAT = ["single", "solo"]
# The longest time to live that a client asks for, in seconds.
LONGEST_TTL = 6
TEAMS = {"red": range(0, 32), "blue": range(16, 48)}
ALLOTMENTS = {"red": {"quota": 2, "reservation": 0}, "blue": {"reservation": 1}}

# Prints the secrets of new tokens: one for each user, and one that administers.
ISSUE = """
import io, json, sys
from django.core.management import call_command
secrets = {}
for name in json.loads(sys.stdin.read()):
    owner = ["--scope", "read", "--scope", "borrow", "--scope", "admin"] if name == "admin" else ["--user", name]
    call_command("token", "create", name, *owner, stdout=(out := io.StringIO()), stderr=io.StringIO())
    secrets[name] = out.getvalue().strip()
call_command("ensure_admin", stdout=io.StringIO())
print(json.dumps(secrets))
"""


@dataclass
class Site:
    """Who may call, and where the admin has what."""

    # By name; ``admin`` is the administrator's.
    tokens: dict[str, str]
    # The administrator's, for the admin.
    password: str
    # Addresses of the pages that change a tool or a team's allotment, by name.
    pages: dict[str, str] = field(default_factory=dict)

    def admin(self, port: int) -> AdminPages:
        """The admin's pages of the server at a port."""
        return AdminPages(port, "root", self.password)

    def fill(self, port: int) -> None:
        """Make tools, teams and allotments in the admin of a running server."""
        admin = self.admin(port)
        ttl = f"00:00:{LONGEST_TTL:02}"
        for name, values in TOOLS.items():
            self.pages[name] = admin.add("tool", name=name, default_ttl=ttl, **values)
        for name, numbers in TEAMS.items():
            team = _key(admin.add("team", name=name))
            admin.add_lines("teammember", team=team, lines="\n".join(f"user{number}" for number in numbers))
            self.pages[f"sim for {name}"] = admin.add(
                "allotment", tool=_key(self.pages["sim"]), team=team, **ALLOTMENTS[name]
            )
        admin.close()


def _key(page: str) -> str:
    """The row that a page changes: /admin/licenses/tool/7/change/ is about 7."""
    return page.strip("/").split("/")[-2]


def set_up(code: Path, environment: dict[str, str]) -> Site:
    """Give an empty, migrated database its administrator and its tokens."""
    password = secrets.token_urlsafe(24)
    done = subprocess.run(
        [sys.executable, "-c", "import django; django.setup()\n" + ISSUE],
        cwd=code,
        env=environment | {"ADMIN_USERNAME": "root", "ADMIN_PASSWORD": password},
        input=json.dumps(["admin", *(f"user{number}" for number in range(CLIENTS))]),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the site could not be set up:\n{done.stderr}")
    return Site(json.loads(done.stdout.splitlines()[-1]), password)
