"""Administrators who change the same row at the same time: one wins, and the others learn it."""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.servers import running_server

ADMINISTRATORS = 8
UNLIMITED = {"LICENSE_RATE_PER_CREDENTIAL": "off", "LICENSE_RATE_PER_ADDRESS": "off"}


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Provide an administrator's client of a server with four workers."""
    with running_server(tmp_path_factory.mktemp("server"), **UNLIMITED) as server:
        secret = server.manage("token", "create", "test", "--scope", "admin").strip()
        limits = httpx.Limits(max_connections=ADMINISTRATORS)
        headers = {"Authorization": f"Bearer {secret}"}
        with httpx.Client(base_url=server.url, headers=headers, limits=limits, timeout=120) as client:
            assert client.put("/api/v1/teams/crash/", json={}).status_code == 201
            yield client


def at_once(admin: httpx.Client, path: str, bodies: list[dict[str, Any]], **headers: str) -> list[httpx.Response]:
    """Put each body from a thread of its own, all at the same moment."""
    answers: list[httpx.Response] = [httpx.Response(0)] * len(bodies)
    start = threading.Barrier(len(bodies))

    def put(number: int) -> None:
        start.wait()
        answer = httpx.Response(503)
        while answer.status_code == 503:
            # The database was busy, and nothing was changed.
            answer = admin.put(path, json=bodies[number], headers=headers)
        answers[number] = answer

    threads = [threading.Thread(target=put, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def audit_of(admin: httpx.Client, kind: str) -> int:
    """Return the number of audit records of a kind."""
    records, url = 0, f"/api/v1/audit/?subject_kind={kind}&page_size=200"
    while url:
        page = admin.get(url).json()
        records, url = records + len(page["results"]), page["next"]
    return records


ROWS = {
    "tool": ("/api/v1/tools/mesh/", [{"capacity": number} for number in range(10, 10 + ADMINISTRATORS)]),
    "team": ("/api/v1/teams/noise/", [{"display_name": f"by {number}"} for number in range(ADMINISTRATORS)]),
    "allotment": ("/api/v1/tools/cad_tool/quotas/crash/", [{"quota": number} for number in range(ADMINISTRATORS)]),
    "user_limit": (
        "/api/v1/tools/cad_tool/user-limits/ana/",
        [{"seats": number} for number in range(ADMINISTRATORS)],
    ),
}


@pytest.mark.parametrize(("kind", "row"), ROWS.items(), ids=list(ROWS))
def test_one_of_many_creates_a_row_and_one_of_many_changes_it(
    admin: httpx.Client, kind: str, row: tuple[str, list[dict[str, Any]]]
) -> None:
    path, bodies = row
    before = audit_of(admin, kind)
    created = at_once(admin, path, bodies, **{"If-None-Match": "*"})
    assert Counter(answer.status_code for answer in created) == {201: 1, 412: ADMINISTRATORS - 1}
    (winner,) = [number for number, answer in enumerate(created) if answer.status_code == 201]
    read = admin.get(path)
    assert bodies[winner].items() <= read.json().items()
    others = [body for number, body in enumerate(bodies) if number != winner]
    changed = at_once(admin, path, others, **{"If-Match": read.headers["ETag"]})
    assert Counter(answer.status_code for answer in changed) == {200: 1, 412: len(others) - 1}
    (winner,) = [number for number, answer in enumerate(changed) if answer.status_code == 200]
    assert others[winner].items() <= admin.get(path).json().items()
    assert audit_of(admin, kind) == before + 2


@pytest.mark.parametrize("path", ["/api/v1/tools/solver/", "/api/v1/teams/safety/"])
def test_many_who_create_the_same_row_all_succeed(admin: httpx.Client, path: str) -> None:
    body: dict[str, Any] = {"capacity": 3} if "tools" in path else {"display_name": "Safety"}
    answers = at_once(admin, path, [body] * ADMINISTRATORS)
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: ADMINISTRATORS - 1}
    assert len({answer.headers["ETag"] for answer in answers}) == 1


def test_members_who_join_at_once_are_all_there(admin: httpx.Client) -> None:
    statuses = Counter(
        answer.status_code for answer in at_once(admin, "/api/v1/teams/crash/members/ana/", [{}] * ADMINISTRATORS)
    )
    assert statuses == {201: 1, 200: ADMINISTRATORS - 1}
