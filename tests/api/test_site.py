"""A whole site as one document: ``manage.py export`` writes it."""

from collections.abc import Callable
from io import StringIO

import pytest
from django.core.management import call_command

from licenses.models import AccessRule, Contract, MemberSource, Team, TeamMember, Tool, UserLimit
from licenses.tools import contracts, quotas
from tests.support.quotas import SOMEBODY, allot

pytestmark = pytest.mark.django_db

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]


def export() -> str:
    output = StringIO()
    call_command("export", stdout=output)
    return output.getvalue()


def test_the_document_has_everything_but_defaults_and_members_from_elsewhere(
    make_tool: MakeTool, make_team: MakeTeam
) -> None:
    cad, mesh = make_tool("cad", capacity=5, overdraft=1), make_tool("mesh", capacity=1)
    crash = make_team("crash", "ben", "ana")
    TeamMember.objects.create(team=crash, user="eve", source=MemberSource.OIDC)
    allot("cad", crash, quota=3, reservation=1)
    rules: list[quotas.Rule] = [
        UserLimit(tool=cad, user="ana@example.com", seats=2),
        AccessRule(tool=cad, effect="include", kind="team", team=crash),
        AccessRule(tool=cad, effect="exclude", kind="host", name="old"),
    ]
    quotas.save_rules(rules=rules, by=SOMEBODY)
    contracts.save(contracts=[Contract(tool=mesh, seats=3, price=1200, reference="PO-1")], by=SOMEBODY)
    assert export() == (
        """\
# The site, for `manage.py apply`.
# Memberships from the groups of the sign-in provider, not in this file: 1

[tools.cad]
capacity = 5
overdraft = 1

[tools.cad.teams.crash]
quota = 3
reservation = 1

[tools.cad.user_limits]
"ana@example.com" = 2

[tools.cad.include]
teams = ["crash"]

[tools.cad.exclude]
hosts = ["old"]

[[tools.mesh.contracts]]
seats = 3
price = 1200.00
reference = "PO-1"

[teams.crash]
members = ["ana", "ben"]
"""
    )
