"""Too many calls of one caller are refused, without an effect on others."""

import threading
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from licenses.access.buckets import Buckets
from licenses.api import rate_limits, urls
from licenses.models import ApiToken, Tool
from tests.support.api import Api, api_with, assert_problem, make_token

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
MakeTool = Callable[..., Tool]


class Clock(SimpleNamespace):
    """A clock that the test moves. ``work`` is the time of each call."""

    now = 1000.0
    work = 0.0

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        self.spent = getattr(self, "spent", 0.0) + self.work
        return float(self.spent)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limits, "time", clock)
    for buckets in ("credentials", "addresses"):
        monkeypatch.setattr(rate_limits, buckets, Buckets())
    settings.LICENSE_RATE_PER_CREDENTIAL = settings.LICENSE_RATE_PER_ADDRESS = settings.LICENSE_RATE_HEARTBEATS = 2
    settings.LICENSE_RATE_BURST = 3
    return clock


BURST = 6


def statuses(call: Callable[[], Any], times: int) -> list[int]:
    return [call().status_code for _ in range(times)]


def get(path: str = "/licenses/status", address: str = "192.0.2.1", **headers: str) -> Any:
    return Client().get(path, headers=headers, REMOTE_ADDR=address)


def bearer(**token: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_token(**token)}"}


def test_a_burst_passes_and_then_a_call_as_often_as_the_rate_says(clock: Clock) -> None:
    assert statuses(get, BURST + 2) == [200] * BURST + [429] * 2
    answer = get()
    assert_problem(answer, 429)
    assert (answer.json()["code"], answer["Retry-After"]) == ("rate_limited", "1")
    clock.now += 1
    assert statuses(get, 3) == [200, 200, 429]
    clock.now += 3600
    assert statuses(get, BURST + 1) == [200] * BURST + [429]


def test_another_address_does_not_notice(clock: Clock) -> None:
    assert 429 in statuses(get, BURST + 1)
    assert get(address="192.0.2.2").status_code == 200


def test_a_network_of_ipv6_is_one_address() -> None:
    assert [get(address=f"2001:db8::{number}").status_code for number in range(BURST + 1)] == [200] * BURST + [429]
    assert get(address="2001:db8:0:1::1").status_code == 200


def test_behind_a_trusted_proxy_the_address_is_the_forwarded_one(settings: Any) -> None:
    settings.TRUSTED_PROXIES = 1
    for number in range(BURST + 1):
        get(**{"X-Forwarded-For": f"198.51.100.{number}, 203.0.113.9"})
    assert get(**{"X-Forwarded-For": "203.0.113.9"}).status_code == 429
    assert get(**{"X-Forwarded-For": "203.0.113.10"}).status_code == 200


def test_an_invented_address_changes_nothing() -> None:
    answers = [get(**{"X-Forwarded-For": f"198.51.100.{number}"}).status_code for number in range(BURST + 1)]
    assert answers == [200] * BURST + [429]


PATHS = [
    "/licenses/status",
    "/licenses/cad/status",
    "/borrows",
    "/version",
    "/api/schema/",
    "/api/docs/",
    "/api/v1/",
    "/api/v1/tools/",
    "/api/v1/reports/utilisation",
    "/admin/",
    "/admin/login/",
    "/signin/",
    "/oidc/authenticate/",
    "/oidc/callback/",
    "/",
    "/tools/cad/",
    "/static/licenses/board.css",
    "/nothing/here",
    "//",
    "/livez/",
    "/LIVEZ",
]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", PATHS)
def test_every_path_is_limited(required: None, path: str, method: str) -> None:
    ask = Client(raise_request_exception=False).generic
    while ask(method, path).status_code != 429:
        pass
    # One limit for all of them, not one each.
    others = [other for other in PATHS if ask("GET", other).status_code != 429]
    assert others == []


def test_a_scraper_behind_the_address_of_a_flood_keeps_its_metrics(settings: Any) -> None:
    settings.LICENSE_METRICS_PUBLIC = True
    while get().status_code != 429:
        pass
    assert statuses(lambda: get("/metrics"), BURST + 1) == [200] * BURST + [429]


def test_a_scraper_with_a_token_keeps_its_metrics(required: None) -> None:
    while get().status_code != 429:
        pass
    scraper = bearer(user="prometheus")
    assert statuses(lambda: get("/metrics", **scraper), BURST + 1) == [200] * BURST + [429]


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_are_not_limited(path: str) -> None:
    assert statuses(lambda: get(path), 3 * BURST) == [200] * 3 * BURST
    assert get().status_code == 200


def test_each_credential_has_a_limit_of_its_own_wherever_it_is_used(required: None) -> None:
    ana, ben = bearer(user="ana"), bearer(user="ben")
    answers = [get(address=f"192.0.2.{number}", **ana).status_code for number in range(BURST + 1)]
    assert answers == [200] * BURST + [429]
    # The same address as the last one.
    assert statuses(lambda: get(address=f"192.0.2.{BURST}", **ben), BURST + 1) == [200] * BURST + [429]


def test_a_caller_with_a_credential_does_not_use_the_limit_of_the_address(required: None) -> None:
    """An office behind one address: many people, each with a limit of their own."""
    for number in range(2 * BURST):
        header = bearer(user=f"user-{number}")
        assert statuses(lambda header=header: get(**header), BURST) == [200] * BURST  # type: ignore[misc]
    assert statuses(get, BURST + 1) == [401] * BURST + [429]


def test_credentials_that_are_no_good_count_for_their_address(required: None) -> None:
    answers = [get(**{"Authorization": f"Bearer lic_{number:043}"}).status_code for number in range(BURST + 2)]
    assert answers == [401] * BURST + [429] * 2
    cookies = [
        Client(headers={"Cookie": f"sessionid={number}"}).get("/", REMOTE_ADDR="192.0.2.9") for number in range(8)
    ]
    assert [answer.status_code for answer in cookies] == [302] * BURST + [429] * 2


def test_a_credential_that_is_no_good_any_more_counts_for_its_address(required: None, settings: Any) -> None:
    header = bearer(user="ana")
    assert get(**header).status_code == 200
    ApiToken.objects.all().delete()
    settings.LICENSE_FAILURES_PER_ADDRESS = 1000
    assert statuses(lambda: get(**header), BURST + 1) == [401] * BURST + [429]
    assert not len(rate_limits.credentials)


def test_a_session_has_a_limit_of_its_own(required: None) -> None:
    browser = Client()
    browser.force_login(User.objects.create_user("ana"))
    assert statuses(lambda: browser.get("/", REMOTE_ADDR="192.0.2.1"), BURST + 1) == [200] * BURST + [429]
    assert statuses(get, BURST + 1) == [401] * BURST + [429]


def test_memory_is_bounded(required: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "addresses", Buckets(callers=5))
    for number in range(20):
        get(address=f"192.0.2.{number}")
    assert len(rate_limits.addresses) == 5
    assert len(rate_limits.credentials) == 0


def test_a_call_that_works_longer_counts_more(clock: Clock) -> None:
    clock.work = rate_limits.WORTH * 4
    assert statuses(get, 4) == [200, 200, 429, 429]
    # The second call put the bucket two calls into debt.
    assert get()["Retry-After"] == "2"
    clock.now += 1
    assert get().status_code == 429
    clock.now += 0.5
    assert get().status_code == 200


def test_a_call_that_waits_for_locks_counts_half_of_its_time(clock: Clock, api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=0)
    clock.work = rate_limits.WORTH * 4
    assert statuses(lambda: api.borrow(user="eve"), 5) == [409] * 3 + [429] * 2


def test_no_call_is_paid_for_longer_than_a_burst(clock: Clock) -> None:
    clock.work = rate_limits.WORTH * 1_000_000
    assert get().status_code == 200
    clock.work = 0
    clock.now += 2 * BURST / 2
    assert get().status_code == 200


def test_heartbeats_and_returns_pass_where_other_calls_are_too_many(
    required: None, make_tool: MakeTool, settings: Any
) -> None:
    settings.LICENSE_RATE_HEARTBEATS = 1000
    make_tool("cad", capacity=2)
    ana = api_with(bearer(user="ana")["Authorization"])
    first, second = (ana.post("/licenses/borrow", {"tool": "cad"}).json()["id"] for _ in range(2))
    ticket = ana.wait("cad", user="ana")
    while ana.post("/licenses/borrow", {"tool": "cad"}).status_code != 429:
        pass
    assert ana.client.get("/licenses/status").status_code == 429
    for _ in range(2 * BURST):
        assert ana.renew(first).status_code == 200
        assert ana.post(f"/api/v1/leases/{first}/renew/", {}).status_code == 200
    assert ana.leave(ticket).status_code == 204
    assert ana.give_back(first).status_code == 200
    assert ana.give_back(second).status_code == 200


def test_heartbeats_have_a_limit_too(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad")
    lease = api.borrow().json()["id"]
    assert statuses(lambda: api.renew(lease), BURST + 1) == [200] * BURST + [429]
    assert api.client.get("/licenses/status").status_code == 200


@pytest.mark.parametrize("limit", ["CREDENTIAL", "ADDRESS"])
def test_each_limit_can_be_switched_off(required: None, settings: Any, limit: str) -> None:
    setattr(settings, f"LICENSE_RATE_PER_{limit}", 0)
    header = bearer(user="ana")
    with_credential, without = statuses(lambda: get(**header), 3 * BURST), statuses(get, 3 * BURST)
    assert with_credential.count(200) == (3 * BURST if limit == "CREDENTIAL" else BURST)
    assert without.count(401) == (3 * BURST if limit == "ADDRESS" else BURST)


def test_a_refused_call_asks_no_database_and_is_counted(required: None, caplog: pytest.LogCaptureFixture) -> None:
    def refused() -> float:
        page: str = get("/metrics", address="192.0.2.77", **reader).content.decode()
        line = next(line for line in page.splitlines() if line.startswith('licenseserver_rate_limited_total{limit="a'))
        return float(line.split()[1])

    reader = bearer(user="prometheus", scopes=["read"])
    before = refused()
    statuses(get, BURST)
    caplog.clear()
    with CaptureQueriesContext(connection) as queries, caplog.at_level("INFO"):
        assert statuses(get, 50) == [429] * 50
    assert len(queries) == 0
    assert refused() == before + 50
    # One line, not fifty.
    assert [record.getMessage() for record in caplog.records] == [
        "Too many calls from 192.0.2.1, by the limit per address."
    ]


def test_people_get_a_page(required: None) -> None:
    statuses(get, BURST)
    page = get("/signin/", Accept="text/html,*/*")
    assert (page.status_code, page["Content-Type"]) == (429, "text/html; charset=utf-8")
    assert b"Try again in 1 s." in page.content
    assert page["Content-Security-Policy"].startswith("default-src 'none'")
    assert page["Retry-After"] == "1"
    assert_problem(get("/licenses/status", Accept="text/html"), 429)


def test_without_savings_a_caller_has_one_expensive_call_at_a_time() -> None:
    buckets = Buckets()

    def enter(now: float) -> bool:
        return buckets.enter(b"eve", rate=50, size=500, now=now) == 0

    def leave(now: float, cost: float = 25) -> None:
        buckets.leave(b"eve", cost, rate=50, size=500, now=now)

    # With a full bucket many begin together.
    assert all(enter(0) for _ in range(10))
    for _ in range(10):
        leave(0)
    buckets.charge(b"eve", 1000, rate=50, size=500, now=0)
    # It owes 500 and gets 505 back.
    assert not enter(9.9)
    assert enter(10.1)
    assert not enter(10.1)
    leave(10.2)
    assert not enter(10.2)
    assert enter(11.2)
    assert buckets.enter(b"ana", rate=50, size=500, now=11.2) == 0


def test_cheap_calls_of_a_caller_run_at_the_same_time() -> None:
    buckets = Buckets()
    entered = sum(buckets.enter(b"ana", rate=50, size=500, now=0) == 0 for _ in range(600))
    assert entered == 250


def test_threads_count_together() -> None:
    buckets, passed = Buckets(), []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        for _ in range(1000):
            if not buckets.take(b"ana", rate=1, size=100, now=0):
                passed.append(1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 100


def test_the_calls_with_a_limit_of_their_own_are_addresses_of_this_server() -> None:
    some_id = uuid.uuid4()
    keeping = {
        f"POST {reverse('renew')}",
        f"POST {reverse('return')}",
        f"POST {reverse('lease-renew', args=[some_id])}",
        f"POST {reverse('board_return', args=[some_id])}",
        f"DELETE {reverse('queue', args=[some_id])}",
    }
    assert [call for call in keeping if not rate_limits.KEEPING.fullmatch(call)] == []
    locking = {call.split()[1] for call in keeping} | {reverse("borrow"), reverse("lease-force-return", args=[some_id])}
    assert [path for path in locking if not rate_limits.LOCKING.fullmatch(path)] == []
    assert {f"/{address.pattern}" for address in urls.probe_urls} == rate_limits.EXEMPT | {rate_limits.METRICS}
