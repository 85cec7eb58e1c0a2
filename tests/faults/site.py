"""The site that the harness works on: tools, teams, people and their tokens."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLIENTS = 32
# Seats by tool. ``cad`` and ``sim`` have an overdraft or quotas, ``single`` has
# one seat and a strict queue, ``dated`` ends and is extended while in use.
TOOLS: dict[str, dict[str, Any]] = {
    "cad": {"capacity": 5, "overdraft": 1},
    "sim": {"capacity": 4, "user_limit": 2},
    "single": {"capacity": 1},
    "duo": {"capacity": 2},
    "dated": {"capacity": 3},
    "spare": {"capacity": 6},
}
# The longest time to live that a client asks for, in seconds.
LONGEST_TTL = 6
TEAMS = {"red": range(0, 16), "blue": range(8, 24)}
QUOTA_OF_RED = 2
RESERVATION_OF_BLUE = 1

SETUP = """
import json, sys
from datetime import timedelta
from licenses import rationing
from licenses.auditing import Actor
from licenses.models import ApiToken, Team, TeamMember, Tool
site = json.loads(sys.stdin.read())
by = Actor.of_command("faults")
for name, values in site["tools"].items():
    Tool.objects.create(name=name, default_ttl=timedelta(seconds=site["ttl"]), **values)
for name, numbers in site["teams"].items():
    team = Team.objects.create(name=name)
    TeamMember.objects.bulk_create(TeamMember(team=team, user=f"user{number}") for number in numbers)
red, blue = Team.objects.get(name="red"), Team.objects.get(name="blue")
rationing.allot(tool="sim", allowances={
    red: rationing.Allowance(quota=site["quota"]), blue: rationing.Allowance(reservation=site["reservation"]),
}, by=by)
secrets = {}
for number in range(site["clients"]):
    token = ApiToken(name=f"user{number}", user=f"user{number}", may_read=True, may_borrow=True)
    secrets[f"user{number}"] = ApiToken.objects.issue(token)
secrets["admin"] = ApiToken.objects.issue(ApiToken(name="admin", may_administer=True, may_borrow=True))
print(json.dumps(secrets))
"""


@dataclass(frozen=True)
class Site:
    """The tokens of the people, by name; ``admin`` is the administrator's."""

    tokens: dict[str, str]


def set_up(code: Path, environment: dict[str, str]) -> Site:
    """Fill an empty, migrated database and return who may call."""
    wanted = {
        "tools": TOOLS,
        "teams": {name: list(numbers) for name, numbers in TEAMS.items()},
        "ttl": LONGEST_TTL,
        "quota": QUOTA_OF_RED,
        "reservation": RESERVATION_OF_BLUE,
        "clients": CLIENTS,
    }
    done = subprocess.run(
        [sys.executable, "-c", "import django; django.setup()\n" + SETUP],
        cwd=code,
        env=environment,
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the site could not be set up:\n{done.stderr}")
    return Site(json.loads(done.stdout.splitlines()[-1]))
