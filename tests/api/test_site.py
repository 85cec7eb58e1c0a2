"""A whole site as one document: ``manage.py export`` writes it, and ``manage.py apply`` brings it."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from licenses.models import (
    AccessRule,
    ActorKind,
    Allotment,
    AuditRecord,
    Contract,
    ContractSource,
    Lease,
    MemberSource,
    Team,
    TeamMember,
    Tool,
    UserLimit,
)
from licenses.site import applying, parser
from licenses.site.description import Rule, Site, SiteTeam, SiteTool
from licenses.site.writer import data_of, toml
from licenses.tools import contracts, quotas
from tests.support.api import Api
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


# --- Applying ------------------------------------------------------------------------


@pytest.fixture
def apply(tmp_path: Path) -> Callable[..., str]:
    """Apply a document with these options. Return what the command prints."""

    def apply(text: str, *options: str) -> str:
        path, output = tmp_path / "site.toml", StringIO()
        path.write_text(text)
        call_command("apply", str(path), *options, stdout=output, stderr=output)
        return output.getvalue()

    return apply


Apply = Callable[..., str]
WHOLE = """\
[tools.cad]
capacity = 5
vendor = "acme"
[tools.cad.teams.crash]
quota = 3
[tools.cad.user_limits]
ana = 2
[tools.cad.include]
teams = ["crash"]
[[tools.mesh.contracts]]
seats = 3
reference = "PO-1"
[teams.crash]
members = ["ana"]
"""


def test_an_empty_site_gets_everything_and_a_second_time_changes_nothing(apply: Apply) -> None:
    assert apply(WHOLE).splitlines() == [
        "+ team crash",
        "+ member ana in crash",
        "+ tool cad: capacity 5, vendor acme",
        "+ quota or reservation cad for crash: quota 3",
        "+ user limit cad for ana: seats 2",
        "+ access rule cad: include team crash",
        "+ tool mesh",
        "+ contract mesh: 3 seats, without end, PO-1",
        "8 change(s) made.",
    ]
    assert Tool.objects.get(name="mesh").capacity == 3
    tool = Tool.objects.get(name="cad")
    assert (tool.has_rules, tool.allotments.get().quota, tool.user_limits.get().seats) == (True, 3, 2)
    recorded = AuditRecord.objects.count()
    assert {record.actor_kind for record in AuditRecord.objects.all()} == {ActorKind.COMMAND}
    assert {record.origin for record in AuditRecord.objects.all()} == {"apply"}
    for options in ([], ["--prune"], ["--exit-code"]):
        assert apply(WHOLE, *options) == "Nothing to change.\n"
    assert AuditRecord.objects.count() == recorded


def test_the_diff_has_each_field_with_its_old_and_new_value(apply: Apply) -> None:
    apply(WHOLE)
    changed = WHOLE.replace("capacity = 5", "capacity = 4\nenabled = false").replace("quota = 3", "quota = 2")
    changed = changed.replace("seats = 3", "seats = 4").replace('"acme"', '""').replace("ana = 2", "ana = 1")
    assert apply(changed).splitlines() == [
        "~ tool cad: capacity 5 -> 4, vendor acme -> none, enabled yes -> no",
        "~ quota or reservation cad for crash: quota 3 -> 2",
        "~ user limit cad for ana: seats 2 -> 1",
        "~ contract mesh: 3 seats, without end, PO-1: seats 3 -> 4",
        "4 change(s) made.",
    ]
    assert Tool.objects.get(name="mesh").capacity == 4


def test_a_dry_run_shows_what_apply_would_do_and_changes_nothing(apply: Apply) -> None:
    said = apply(WHOLE, "--dry-run")
    assert said.endswith("8 change(s) to make. Nothing was changed.\n")
    assert (Tool.objects.count(), Team.objects.count(), AuditRecord.objects.count()) == (0, 0, 0)
    with pytest.raises(SystemExit) as ended:
        apply(WHOLE, "--dry-run", "--exit-code")
    assert ended.value.code == 3
    assert said.splitlines()[:-1] == apply(WHOLE).splitlines()[:-1]


def test_what_the_document_does_not_mention_stays_unless_it_is_pruned(apply: Apply) -> None:
    apply(WHOLE)
    small = "[tools.cad]\ncapacity = 5\n"
    kept = [
        "~ tool cad: vendor acme -> none",
        "- quota or reservation cad for crash",
        "- user limit cad for ana",
        "- access rule cad: include team crash",
        "- tool mesh",
    ]
    assert apply(small).splitlines() == [
        "Not in the file, so it stays:",
        *[f"  {line}" for line in ["- team crash", *kept]],
        "Nothing to change.",
        "Use --prune to remove what is not in the file.",
    ]
    assert (Tool.objects.count(), Team.objects.count(), AccessRule.objects.count()) == (2, 1, 1)
    assert apply(small, "--prune").splitlines() == [*kept, "- team crash", "6 change(s) made."]
    tool = Tool.objects.get()
    assert (tool.name, tool.vendor, tool.has_rules, Team.objects.count()) == ("cad", "", False, 0)
    assert apply(small, "--prune") == "Nothing to change.\n"


def test_a_tool_with_leases_is_disabled_and_a_team_with_leases_stays_without_members(api: Api, apply: Apply) -> None:
    apply(WHOLE)
    assert api.borrow("cad", "ana", team="crash").status_code == 200
    empty = "[tools]\n[teams]\n"
    said = apply(empty, "--prune")
    assert "- tool cad: disabled" in said
    assert "- team crash (has leases, tokens or rules, so it stays)" in said
    assert [(tool.name, tool.enabled) for tool in Tool.objects.all()] == [("cad", False)]
    # Its rules stay, so that nobody else gets in when it is enabled again.
    assert AccessRule.objects.get().team == Team.objects.get()
    assert not TeamMember.objects.exists()
    assert Lease.objects.get().ended_at is None
    assert "Nothing to change." in apply(empty, "--prune")


def test_a_mistake_anywhere_changes_nothing_and_names_its_place(apply: Apply) -> None:
    for text, said in (
        (f"{WHOLE}[tools.last]\ncapacity = 'x'\n", ":16: tools.last.capacity: Give a whole number."),
        (
            f"{WHOLE}[tools.last]\ncapacity = 1\nvalid_from = 2026-02-01\nvalid_until = 2026-01-01\n",
            ":15: tools.last: The license must end after it starts.",
        ),
        (
            f"{WHOLE}[tools.last]\ncapacity = 1\ndefault_ttl_seconds = 9\nmax_ttl_seconds = 8\n",
            ":15: tools.last: The default must not be longer than the longest.",
        ),
        (
            f"{WHOLE}[tools.last]\ncapacity = 1\n[tools.last.teams.moon]\nquota = 1\n",
            ":17: tools.last.teams.moon: There is no team moon.",
        ),
        (
            f"{WHOLE}[tools.last]\ncapacity = 1\n[tools.last.exclude]\nteams = ['moon']\n",
            ":18: tools.last.exclude.teams: There is no team moon.",
        ),
        (
            f"{WHOLE}[[tools.last.contracts]]\nseats = 900000\n[[tools.last.contracts]]\nseats = 900000\n",
            "more than 1,000,000",
        ),
    ):
        for options in ([], ["--dry-run"], ["--prune"]):
            with pytest.raises(CommandError) as refused:
                apply(text, *options)
            assert said in str(refused.value)
    assert (Tool.objects.count(), Team.objects.count(), AuditRecord.objects.count()) == (0, 0, 0)


def test_an_empty_file_removes_nothing(apply: Apply) -> None:
    apply(WHOLE)
    for text in ("", "# nothing\n"):
        with pytest.raises(CommandError, match="The document is empty"):
            apply(text, "--prune")
        assert "Nothing to change." in apply(text)
    assert Tool.objects.count() == 2
    assert "3 change(s) made." in apply("[tools]\n[teams]\n", "--prune")
    assert not Tool.objects.exists()


def test_a_past_end_ends_the_leases_as_in_the_admin(api: Api, apply: Apply) -> None:
    apply(WHOLE.replace("[tools.cad.include]\nteams", "[tools.cad.exclude]\nusers"))
    lease = api.borrow("mesh", "ana").json()["id"]
    apply('[tools.mesh]\nvalid_until = 2026-01-01\n[[tools.mesh.contracts]]\nseats = 3\nreference = "PO-1"\n')
    assert api.renew(lease).json()["code"] == "revoked"
    assert api.borrow("mesh").json()["code"] == "expired"


def test_contracts_end_or_go_when_they_are_pruned(apply: Apply) -> None:
    today = timezone.now().astimezone(UTC).date()
    tomorrow = today + timedelta(days=1)
    one, two, three = (
        '[[tools.mesh.contracts]]\nseats = 1\nreference = "A"\n',
        f'[[tools.mesh.contracts]]\nseats = 2\nreference = "B"\nfirst_day = {tomorrow}\n',
        '[[tools.mesh.contracts]]\nseats = 4\nreference = "C"\nnote = "n"\n',
    )
    apply(one + two + three)
    assert Tool.objects.get().capacity == 5
    rest = three.replace('note = "n"\n', "")
    assert "Nothing to change." in apply(rest)
    assert apply(rest, "--prune").splitlines() == [
        "~ contract mesh: 4 seats, without end, C: note n -> none",
        "- contract mesh: 1 seat, without end, A: ended",
        f"- contract mesh: 2 seats, from {tomorrow}, B",
        "3 change(s) made.",
    ]
    assert Tool.objects.get().capacity == 4
    assert Contract.objects.get(reference="A").last_day == today - timedelta(days=1)
    assert apply(rest, "--prune") == "Nothing to change.\n"


def test_a_plain_capacity_in_place_of_contracts_needs_prune_and_the_other_way_not(apply: Apply) -> None:
    apply(WHOLE)
    plain = "[tools.mesh]\ncapacity = 7\n"
    with pytest.raises(CommandError, match=r":2: tools.mesh.capacity: The tool has contracts"):
        apply(plain)
    assert "- contract mesh: 3 seats, without end, PO-1" in apply(plain, "--prune")
    assert (Tool.objects.get().capacity, Contract.objects.count()) == (7, 0)
    assert apply("[[tools.mesh.contracts]]\nseats = 2\n").splitlines()[0] == "+ contract mesh: 2 seats, without end"
    assert (Tool.objects.get().capacity, Contract.objects.count()) == (2, 1)


def test_members_in_the_document_are_members_by_hand_and_others_stay(make_team: MakeTeam, apply: Apply) -> None:
    crash = make_team("crash", "ana", "old")
    for user, source in (("ben", MemberSource.OIDC), ("eve", MemberSource.OIDC), ("joe", MemberSource.CSV)):
        TeamMember.objects.create(team=crash, user=user, source=source)
    text = '[teams.crash]\nmembers = ["ana", "ben"]\n'
    assert apply(text, "--prune").splitlines()[:2] == ["+ member ben in crash", "- member old in crash"]
    assert dict(TeamMember.objects.values_list("user", "source")) == {
        "ana": MemberSource.MANUAL,
        "ben": MemberSource.MANUAL,
        "eve": MemberSource.OIDC,
        "joe": MemberSource.CSV,
    }
    assert apply(text, "--prune") == "Nothing to change.\n"


def test_reservations_may_exceed_a_capacity_that_fell_with_a_warning(apply: Apply) -> None:
    text = "[tools.cad]\ncapacity = 1\n[tools.cad.teams.crash]\nreservation = 3\n[teams.crash]\n"
    assert "Warning: cad: 3 seats are reserved, more than its capacity of 1." in apply(text)
    assert Allotment.objects.get().reservation == 3


def test_a_capacity_below_the_borrowed_seats_gives_a_warning(apply: Apply, api: Api, make_tool: MakeTool) -> None:
    for name in ("cad", "sim"):
        make_tool(name, capacity=5)
        api.borrow(name, seats=4)
    text = "[tools.cad]\ncapacity = 2\n[[tools.sim.contracts]]\nseats = 3\n"
    for arguments in (["--dry-run"], []):
        said = apply(text, *arguments)
        assert "Warning: 4 seats of cad are borrowed, 2 more than its capacity of 2. Nobody loses a seat." in said
        assert "Warning: 4 seats of sim are borrowed, 1 more than its capacity of 3. Nobody loses a seat." in said
    assert "Warning" not in apply(text)


def test_the_changes_come_as_json_too(apply: Apply) -> None:
    apply(WHOLE)
    said = json.loads(apply(WHOLE.replace("capacity = 5", "capacity = 6"), "--json", "--dry-run"))
    assert said == {
        "dry_run": True,
        "changes": [
            {
                "act": "changed",
                "kind": "tool",
                "subject": "cad",
                "text": "~ tool cad: capacity 5 -> 6",
                "before": {"capacity": 5},
                "after": {"capacity": 6},
            }
        ],
        "unlisted": [],
        "warnings": [],
    }


def test_a_file_may_be_json_and_a_file_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "site.json"
    path.write_text('{"tools": {"cad": {"capacity": 5, "valid_until": "2026-12-31"}}}')
    call_command("apply", str(path), stdout=StringIO())
    assert Tool.objects.get().valid_until == datetime(2027, 1, 1, tzinfo=UTC)
    path.write_bytes(b"\xff\xfe")
    for file in (path, tmp_path / "none.toml", tmp_path):
        with pytest.raises(CommandError):
            call_command("apply", str(file), stdout=StringIO())


# --- Export and apply are inverse ------------------------------------------------------


def names(kind: str) -> some.SearchStrategy[str]:
    return some.sampled_from([f"{kind}_1", f"{kind}.2", f"{kind}-3"])


USERS = some.sampled_from(["ana", "ben@example.com", "É va", 'q"x', "a.b"])
WORDS = some.text(some.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=8)
DAYS = some.none() | some.dates(date(2020, 1, 1), date(2030, 1, 1))
MOMENTS = some.datetimes(datetime(2000, 1, 1), datetime(2020, 1, 1), timezones=some.just(UTC))
TIMES = some.none() | MOMENTS | MOMENTS.map(lambda at: at.replace(hour=0, minute=0, second=0, microsecond=0))
PRICES = some.none() | some.decimals(0, 1000, places=2)
LATER = timedelta(days=36_500)


@some.composite
def sites(draw: some.DrawFn) -> Site:
    """Draw a site with every kind of row."""
    teams = draw(some.dictionaries(names("team"), some.sets(USERS), max_size=3))
    site = Site()
    for name, members in teams.items():
        site.teams[name] = SiteTeam({"display_name": draw(WORDS), "ignores_case": draw(some.booleans())}, members)
    for name in draw(some.sets(names("tool"), max_size=3)):
        end = draw(TIMES)
        tool = SiteTool(
            {
                "display_name": draw(WORDS),
                "overdraft": draw(some.integers(0, 3)),
                "user_limit": draw(some.none() | some.integers(0, 5)),
                "seat_hour_price": draw(PRICES),
                "default_ttl": draw(
                    some.none() | some.integers(1, 10**9).map(lambda us: timedelta(seconds=1, microseconds=us))
                ),
                "enabled": draw(some.booleans()),
                "valid_from": draw(TIMES),
                "valid_until": end and end + LATER,
            }
        )
        if draw(some.booleans()):
            tool.values["capacity"] = draw(some.integers(0, 9))
        else:
            tool.contracts = [
                {
                    "seats": draw(some.integers(1, 5)),
                    "first_day": first,
                    "last_day": last and max(last, first or last),
                    "price": draw(PRICES),
                    "reference": draw(some.sampled_from(["", "A", "B"])),
                    "note": draw(WORDS),
                }
                for first, last in draw(some.lists(some.tuples(DAYS, DAYS), min_size=1, max_size=4))
            ]
        for team in teams:
            reservation = draw(some.integers(0, 3))
            quota = draw(some.none() | some.integers(reservation, 9))
            if draw(some.booleans()):
                tool.allowances[team] = {"quota": quota, "reservation": reservation}
        tool.user_limits = draw(some.dictionaries(USERS, some.integers(0, 9), max_size=3))
        subjects = some.tuples(some.sampled_from(["user", "host", "project"]), USERS)
        if teams:
            subjects |= some.tuples(some.just("team"), some.sampled_from(sorted(teams)))
        rules = draw(some.sets(some.tuples(some.sampled_from(["include", "exclude"]), subjects), max_size=4))
        tool.access_rules = {Rule(effect, *subject) for effect, subject in rules}
        site.tools[name] = tool
    return site


def wipe() -> None:
    for model in (AccessRule, UserLimit, Allotment, Contract, TeamMember, Tool, Team):
        model._base_manager.all().delete()


def bring(text: str) -> list[str]:
    done = applying.apply(parser.read(text), by=SOMEBODY, prune=True)
    return [str(change) for change in done.plan.changes]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(sites(), sites())
def test_an_exported_site_is_the_same_after_it_was_lost_and_applied(first: Site, second: Site) -> None:
    wipe()
    bring(toml(data_of(first)))
    text = export()
    assert parser.read(text).site == parser.read(toml(data_of(first))).site
    assert bring(text) == []
    wipe()
    bring(text)
    assert export() == text
    # From one site to another. A contract that began ends, and stays for reports.
    bring(toml(data_of(second)))
    assert bring(toml(data_of(second))) == []
    text = export()
    assert bring(text) == []
    for tool in Tool.objects.all():
        reserved = sum(tool.allotments.values_list("reservation", flat=True))
        rows = (tool.allotments, tool.user_limits, tool.access_rules)
        assert (tool.reserved, tool.has_rules) == (reserved, any(kind.exists() for kind in rows))


def test_contracts_of_an_import_stay_as_they_are(make_tool: MakeTool) -> None:
    tool = make_tool("mesh", capacity=1)
    row = Contract(tool=tool, seats=3, price=Decimal("9.50"), source=ContractSource.IMPORT)
    contracts.save(contracts=[row], by=SOMEBODY)
    assert bring(export()) == []
    assert Contract.objects.get().source == ContractSource.IMPORT
