"""Nobody can give rights that they lack, and every change of rights is recorded.

Both tests visit all pages of the admin. Add new pages here.
"""

import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.db.models import Model
from django.test import Client, RequestFactory
from django.utils import timezone

import licenses.admin  # noqa: F401 - registers its pages
from licenses.models import (
    AccessRule,
    Allotment,
    ApiToken,
    AuditRecord,
    Contract,
    Identity,
    JwtCaller,
    Lease,
    NotificationPreference,
    RetiredName,
    Team,
    TeamMember,
    Tool,
    UserLimit,
    Webhook,
)
from licenses.notifications import webhooks
from licenses.tools import contracts
from tests.support.admin_forms import page_of
from tests.support.api import Api, make_token
from tests.support.quotas import SOMEBODY, allot

pytestmark = pytest.mark.django_db

PHRASE = "another long phrase"
Attack = tuple[str, dict[str, Any]]


@pytest.fixture
def world(make_tool: Callable[..., Tool], api: Api) -> dict[str, User]:
    """Accounts of every kind, and a row of each table that has a page."""
    make_tool("cad", capacity=9)
    team = Team.objects.create(name="crash")
    TeamMember.objects.create(team=team, user="ana")
    api.borrow("cad", "ana")
    api.borrow("cad", "eve", ttl_seconds=60)
    allot("cad", team, quota=2)
    UserLimit.objects.create(tool=Tool.objects.get(), user="ana", seats=5)
    contracts.save(contracts=[Contract(tool=Tool.objects.get(), seats=9, reference="PO-1")], by=SOMEBODY)
    AccessRule.objects.create(tool=Tool.objects.get(), effect="exclude", kind="user", name="mallory")
    operators = Group.objects.create(name="Operators")
    operators.permissions.set(Permission.objects.filter(codename="change_lease"))
    root = User.objects.create_superuser("root", password=PHRASE)
    boss = User.objects.create_user("boss", password=PHRASE, is_staff=True)
    boss.user_permissions.set(Permission.objects.filter(codename__in=["change_tool", "change_team"]))
    # A user who reactivates an account would get its rights.
    asleep = User.objects.create_user("asleep", password=PHRASE, is_staff=True, is_active=False)
    asleep.user_permissions.set(boss.user_permissions.all())
    ana = User.objects.create_user("ana", password=PHRASE)
    clerk = User.objects.create_user("clerk", password=PHRASE, is_staff=True)
    clerk.groups.add(operators)
    Identity.objects.create(user=boss, issuer="https://idp.example", subject="boss")
    RetiredName.objects.create(name="gone", folded="gone", account_id=0, retired_at=timezone.now())
    JwtCaller.objects.create(issuer="https://idp.example", subject="ci", name="ci", folded="ci")
    make_token(user="root", scopes=["admin"], created_by=root)
    NotificationPreference.objects.create(account=clerk, event="lease_forced")
    webhooks.save(Webhook(name="ops"), url="https://hooks.example.com/0", by=SOMEBODY)
    return {"root": root, "boss": boss, "asleep": asleep, "ana": ana, "clerk": clerk}


def all_of(model: type[Model]) -> list[Any]:
    return list(model._default_manager.values_list("pk", flat=True))


def address(model: type[Model], *parts: Any) -> str:
    return "/".join(["/admin", model._meta.app_label, str(model._meta.model_name), *map(str, parts), ""])


def attacks(world: dict[str, User]) -> Iterator[Attack]:
    """Yield every request that could give rights or names."""
    rights: dict[str, Any] = {"is_active": "on", "is_staff": "on", "is_superuser": "on"}
    rights |= {"groups": all_of(Group), "user_permissions": all_of(Permission)}
    phrases = {"usable_password": "true", "password1": "stolen phrase 42", "password2": "stolen phrase 42"}
    yield address(User, "add"), {"username": "eve", **phrases}
    for account in world.values():
        yield address(User, account.pk, "change"), page_of(account) | rights | {"_save": "Save"}
        yield address(User, account.pk, "change"), page_of(account) | {"username": f"{account}-stolen"}
        yield address(User, account.pk, "change"), {**page_of(account), "is_active": "on", "email": "eve@example.com"}
        yield address(User, account.pk, "password"), phrases
        yield address(User, account.pk, "password"), {"usable_password": "false", "unset-password": "x"}
        yield address(Identity, "add"), {"user": account.pk, "issuer": "https://idp.example", "subject": "clerk"}
    for role in Group.objects.all():
        yield address(Group, role.pk, "change"), {"name": role.name, "permissions": all_of(Permission)}
    yield address(Group, "add"), {"name": "All", "permissions": all_of(Permission)}
    for identity in Identity.objects.all():
        form = {"user": world["asleep"].pk, "issuer": identity.issuer, "subject": "stolen"}
        yield address(Identity, identity.pk, "change"), form
    tomorrow = timezone.now() + timedelta(days=1)
    token = {"name": "x", "may_read": "on", "may_borrow": "on", "may_administer": "on"}
    token |= {"expires_at_0": f"{tomorrow:%Y-%m-%d}", "expires_at_1": "12:00"}
    for user in ("root", "ana", "eve"):
        yield address(ApiToken, "add"), token | {"user": user}
    yield address(ApiToken, "add"), token | {"team": Team.objects.get().pk}


def ends(world: dict[str, User]) -> Iterator[Attack]:
    """Yield every request that ends a row, or all rows of a page."""
    deactivated = {name: value for name, value in page_of(world["root"]).items() if name != "is_active"}
    yield address(User, world["root"].pk, "change"), deactivated
    for account in world.values():
        yield address(User), {"action": "deactivate", "_selected_action": [account.pk], "confirmed": "yes"}
    for model in admin.site._registry:
        yield address(model), {"action": "delete_selected", "_selected_action": all_of(model), "post": "yes"}
        for pk in all_of(model):
            yield address(model, pk, "delete"), {"post": "yes"}


def rights_of(account: User) -> tuple[Any, ...]:
    """Return the rights of an account and its credentials."""
    return (
        account.username,
        account.password,
        account.is_staff,
        account.is_superuser,
        frozenset(account.groups.values_list("name", flat=True)),
        frozenset(account.user_permissions.values_list("codename", flat=True)),
    )


def rights() -> dict[str, Any]:
    """Return the rights of all accounts, without tokens, which end, and accounts without rights."""
    return {
        "accounts": {account.pk: rights_of(account) for account in User.objects.exclude(username="ana")},
        "active": dict(User.objects.exclude(username__in=["ana", "clerk"]).values_list("pk", "is_active")),
        "groups": {
            role.name: frozenset(role.permissions.values_list("codename", flat=True)) for role in Group.objects.all()
        },
        "identities": set(Identity.objects.values_list("user__username", "issuer", "subject")),
        "retired": set(RetiredName.objects.exclude(name="ana").values_list("name", flat=True)),
        "callers": set(JwtCaller.objects.values_list("name", "subject")),
        "tokens": set(ApiToken.objects.exclude(user="clerk").values_list("pk", "user", "team", "may_administer")),
    }


@pytest.mark.any_database
@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.model_name)
def test_no_permission_leads_to_more(world: dict[str, User], client: Client, model: type[Model]) -> None:
    """The account may view everything, and add, change and delete the rows of one page."""
    clerk = world["clerk"]
    looking = Permission.objects.filter(codename__startswith="view_")
    more = Permission.objects.filter(
        content_type__app_label=model._meta.app_label, content_type__model=model._meta.model_name
    )
    clerk.user_permissions.set([*looking, *more])
    client.force_login(clerk)
    client.raise_request_exception = False
    before, ana = rights(), rights_of(world["ana"])
    for path, form in attacks(world):
        assert client.post(path, form).status_code < 500, path
        assert rights() == before, (path, form)
        assert rights_of(User.objects.get(username="ana")) == ana, (path, form)
        mine = ApiToken.objects.filter(user="clerk")
        assert not mine.filter(may_administer=True).exists()
        assert not mine.filter(team__isnull=False).exists()
    for path, form in ends(world):
        assert client.post(path, form).status_code < 500, path
        if User.objects.filter(username="clerk", is_active=True).exists():
            assert rights() == before, (path, form)


def test_for_a_superuser_every_attack_is_a_change(world: dict[str, User], client: Client) -> None:
    """Without this the test above would show nothing."""
    client.force_login(User.objects.create_superuser("other-root"))
    changed = set()
    for path, form in attacks(world):
        before = rights(), rights_of(User.objects.get(pk=world["ana"].pk)), AuditRecord.objects.count()
        client.post(path, form)
        if (rights(), rights_of(User.objects.get(pk=world["ana"].pk)), AuditRecord.objects.count()) != before:
            changed.add((path.split("/")[3], path.split("/")[-2]))
    assert changed == {
        ("user", "add"),
        ("user", "change"),
        ("user", "password"),
        ("identity", "add"),
        ("identity", "change"),
        ("group", "add"),
        ("group", "change"),
        ("apitoken", "add"),
    }


def test_a_clerk_edits_only_accounts_without_more_rights(world: dict[str, User], client: Client) -> None:
    clerk, ana = world["clerk"], world["ana"]
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["change_user", "view_user"]))
    client.force_login(clerk)
    assert client.post(address(User, ana.pk, "change"), {**page_of(ana), "email": "ana@example.com"}).status_code == 302
    shown = client.get(address(User, ana.pk, "change")).content.decode()
    assert "ana@example.com" in shown
    assert ana.password not in shown
    for other in ("root", "boss", "asleep"):
        page = client.get(address(User, world[other].pk, "change"))
        assert b'name="_save"' not in page.content
        assert world[other].password not in page.content.decode()


def test_a_clerks_token_is_their_own(world: dict[str, User], client: Client) -> None:
    clerk = world["clerk"]
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["add_apitoken", "view_apitoken"]))
    client.force_login(clerk)
    (path, form), *_ = (attack for attack in attacks(world) if attack[0] == address(ApiToken, "add"))
    assert b"is shown only once" in client.post(path, form).content
    token = ApiToken.objects.get(created_by=clerk)
    assert (token.user, token.account, token.may_administer) == ("clerk", clerk, False)


# --- On record ----------------------------------------------------------------


def make_forms(world: dict[str, User]) -> dict[type[Model], dict[str, dict[str, Any]]]:
    """Return the actions of a superuser on each page of the admin, with a form for each."""
    ana, role, team, tool = world["ana"], Group.objects.get(name="Operators"), Team.objects.get(), Tool.objects.get()
    idp = {"user": world["clerk"].pk, "issuer": "https://idp.example", "subject": "4711"}
    made = dict(attacks(world))
    permissions = [Permission.objects.get(codename="view_tool").pk]
    sim = Tool.objects.create(name="sim", capacity=5)
    allotment = {"team": team.pk, "quota": 3, "reservation": 1}
    rule = {"effect": "exclude", "kind": "user", "team": "", "name": "eve"}
    choice = {"account": world["clerk"].pk, "webhook": ""}
    hook = {"name": "site", "kind": "json", "address": "https://hooks.example.com/1", "enabled": "on"}
    tool_form: dict[str, Any] = {"name": "new", "capacity": 1, "overdraft": 0, "enabled": "on"}
    return {
        User: {
            "add": made[address(User, "add")],
            "change": page_of(ana) | {"is_staff": "on", "groups": [role.pk], "user_permissions": permissions},
            "password": made[address(User, ana.pk, "password")] | {"usable_password": "false"},
            "delete": {},
        },
        Group: {
            "add": {"name": "Buyers", "permissions": permissions},
            "change": {"name": role.name, "permissions": permissions},
            "delete": {},
        },
        Identity: {"add": idp, "change": idp | {"user": world["boss"].pk, "subject": "4712"}, "delete": {}},
        TeamMember: {"add": {"team": team.pk, "user": "ben"}, "change": {"user": "eve"}, "delete": {}},
        Allotment: {"add": {"tool": sim.pk, **allotment}, "change": {"quota": 4, "reservation": 0}, "delete": {}},
        UserLimit: {
            "add": {"tool": sim.pk, "user": "ana", "seats": 1},
            "change": {"user": "ana", "seats": 2},
            "delete": {},
        },
        Contract: {"add": {"tool": sim.pk, "seats": 3}, "change": {"seats": 8, "last_day": "2099-12-31"}, "delete": {}},
        AccessRule: {"add": {"tool": sim.pk, **rule}, "change": rule | {"name": "ben"}, "delete": {}},
        Team: {"add": {"name": "noise"}, "change": {"display_name": "Crash"}, "delete": {}},
        Tool: {"add": tool_form, "change": tool_form | {"name": tool.name, "capacity": 7}, "delete": {}},
        ApiToken: {"add": made[address(ApiToken, "add")] | {"user": "eve", "team": ""}},
        JwtCaller: {"delete": {}},
        RetiredName: {"delete": {}},
        Webhook: {"add": hook, "change": hook | {"name": "chat", "kind": "slack"}, "delete": {}},
        NotificationPreference: {
            "add": choice | {"event": "seat_offered", "wanted": "on"},
            "change": choice | {"event": "lease_forced"},
            "delete": {},
        },
        # Its page changes nothing; its action is in test_audit.
        Lease: {"change": {}},
    }


def test_every_change_in_the_admin_is_on_record(world: dict[str, User], admin_client: Client, api: Api) -> None:
    forms = make_forms(world)
    request = RequestFactory().get("/")
    request.user = User.objects.get(username="admin")
    for model, page in admin.site._registry.items():
        allowed = {verb for verb in ("add", "change", "delete") if getattr(page, f"has_{verb}_permission")(request)}
        assert set(forms.get(model, {})) - {"password"} == allowed, model
    # Rows without references, so that they can be deleted.
    for lease in api.client.get("/borrows").json():
        api.give_back(lease["id"])
    rows: dict[type[Model], Any] = {
        User: world["ana"],
        Group: Group.objects.get(name="Operators"),
        Identity: Identity.objects.get(),
        TeamMember: TeamMember.objects.get(),
        Allotment: Allotment.objects.get(),
        UserLimit: UserLimit.objects.get(),
        Contract: Contract.objects.get(),
        AccessRule: AccessRule.objects.get(),
        Team: Team.objects.get(),
        Tool: Tool.objects.get(name="cad"),
        JwtCaller: JwtCaller.objects.get(),
        RetiredName: RetiredName.objects.get(),
        Webhook: Webhook.objects.get(),
        NotificationPreference: NotificationPreference.objects.get(),
    }
    Lease.objects.all().delete()
    # Memberships are deleted with an account, and its form names a group.
    for model in sorted(forms, key=lambda model: {User: 1, Group: 2}.get(model, 0)):
        for action, form in forms[model].items():
            if model is Lease:
                continue
            path = address(model, "add") if action == "add" else address(model, rows[model].pk, action)
            if action == "delete" and model in (Team, Tool):
                # The first step created rows that refer to them.
                Allotment.objects.all().delete()
            before = AuditRecord.objects.count()
            answer = admin_client.post(path, form | {"post": "yes"})
            # The page with a new secret is the answer.
            done = 200 if model is ApiToken or (model, action) == (Webhook, "add") else 302
            assert answer.status_code == done, (path, answer.content)
            assert AuditRecord.objects.count() > before, path
    assert "ana" not in User.objects.values_list("username", flat=True)


def last_record() -> tuple[Any, ...]:
    record = AuditRecord.objects.latest("pk")
    return record.actor, record.action, record.subject_kind, record.subject, record.before, record.after


def test_a_groups_rights_are_on_record(admin_client: Client) -> None:
    looking, forcing = (Permission.objects.get(codename=name) for name in ("view_tool", "change_lease"))
    admin_client.post(address(Group, "add"), {"name": "Buyers", "permissions": [looking.pk]})
    group = Group.objects.get(name="Buyers")
    given = {"permissions": ["licenses.view_tool"]}
    assert last_record() == ("admin", "changed", "group", "Buyers", {"permissions": []}, given)
    admin_client.post(address(Group, group.pk, "change"), {"name": "Buyers", "permissions": [looking.pk, forcing.pk]})
    more = {"permissions": ["licenses.change_lease", "licenses.view_tool"]}
    assert last_record() == ("admin", "changed", "group", "Buyers", given, more)
    admin_client.post(address(Group, group.pk, "delete"), {"post": "yes"})
    assert last_record() == ("admin", "deleted", "group", "Buyers", {"name": "Buyers"} | more, {})


def test_a_new_password_is_on_record_and_nothing_of_it(admin_client: Client) -> None:
    ana = User.objects.create_user("ana", password=PHRASE)
    new = {"password1": "stolen phrase 42", "password2": "stolen phrase 42", "usable_password": "true"}
    assert admin_client.post(address(User, ana.pk, "password"), new).status_code == 302
    fact: tuple[Any, ...] = ({}, {"password": "changed"})
    assert last_record() == ("admin", "changed", "account", "ana", *fact)
    browser = Client()
    browser.force_login(User.objects.create_superuser("root", password=PHRASE))
    own = {"old_password": PHRASE, "new_password1": "stolen phrase 42", "new_password2": "stolen phrase 42"}
    assert browser.post("/admin/password_change/", own).status_code == 302
    assert last_record() == ("root", "changed", "account", "root", *fact)
    for record in AuditRecord.objects.values():
        assert "phrase" not in str(record)
        assert "md5$" not in str(record)


def test_a_wrong_old_password_is_not_on_record(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root", password=PHRASE))
    own = {"old_password": "wrong", "new_password1": "stolen phrase 42", "new_password2": "stolen phrase 42"}
    assert client.post("/admin/password_change/", own).status_code == 200
    assert not AuditRecord.objects.exists()


def test_a_new_name_and_address_are_on_record(admin_client: Client) -> None:
    ana = User.objects.create_user("ana", email="ana@example.com")
    form = page_of(ana) | {"username": "anna", "email": "anna@example.com"}
    admin_client.post(address(User, ana.pk, "change"), form)
    before = {"username": "ana", "email": "ana@example.com"}
    after = {"username": "anna", "email": "anna@example.com"}
    assert last_record() == ("admin", "changed", "account", "anna", before, after)


def test_djangos_own_commands_are_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", PHRASE)
    call_command("createsuperuser", "--username", "root", "--email", "", "--noinput", stdout=io.StringIO())
    assert last_record()[1:4] == ("created", "account", "root")
    assert last_record()[5]["is_superuser"] is True
    before = AuditRecord.objects.latest("pk")
    assert (before.actor_kind, before.origin) == ("command", "createsuperuser")
    monkeypatch.setattr("getpass.getpass", lambda prompt: "stolen phrase 42")
    call_command("changepassword", "root", stdout=io.StringIO())
    assert User.objects.get().check_password("stolen phrase 42")
    assert last_record()[1:] == ("changed", "account", "root", {}, {"password": "changed"})
