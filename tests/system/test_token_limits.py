"""Every door that makes tokens at the same moment: together they do not pass the limit of a person."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.person import PASSWORD, Person
from tests.support.servers import Server, running_server

LIMIT = 3
# Requests at each of the three doors.
REQUESTS = 4
SETUP = f"""
from django.contrib.auth.models import Permission, User
ana = User.objects.create_user("ana", password={PASSWORD!r}, is_staff=True)
ana.user_permissions.add(Permission.objects.get(codename="add_apitoken"))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Provide a server with four workers, and ana, who is staff with the right to add tokens."""
    limits = {"LICENSE_OWN_TOKENS_PER_USER": str(LIMIT), "LICENSE_RATE_PER_ADDRESS": "off"}
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder, LICENSE_AUTH="required", LICENSE_RATE_PER_CREDENTIAL="off", **limits) as running:
        running.manage("shell", "-c", SETUP)
        yield running


@pytest.fixture
def ana(server: Server) -> Iterator[Person]:
    """Provide ana's browser."""
    person = Person(server.url, "ana")
    yield person
    person.client.close()


def valid_tokens(server: Server) -> list[str]:
    """Return the ids of the valid tokens."""
    return [line.split("\t")[0] for line in server.manage("token", "list").splitlines()]


Door = Callable[[httpx.Client], httpx.Response]


def of_page(client: httpx.Client) -> httpx.Response:
    return client.post("/tokens/new/", data={"name": "laptop", "days": "5", "scopes": ["read", "borrow"]})


def of_api(client: httpx.Client) -> httpx.Response:
    return client.post("/api/v1/tokens/", json={"name": "script", "user": "ana"})


def of_device(device_code: str) -> Door:
    grant = "urn:ietf:params:oauth:grant-type:device_code"
    form = {"client_id": "license", "grant_type": grant, "device_code": device_code}
    return lambda client: client.post("/api/v1/login/token", data=form)


def approved(server: Server, ana: Person) -> str:
    """Begin `license login`, and approve it. Return the device code."""
    begun = httpx.post(f"{server.url}/api/v1/login/device", data={"client_id": "license"}).raise_for_status().json()
    ana.answer(begun["user_code"])
    return str(begun["device_code"])


def at_once(server: Server, ana: Person, doors: list[Door]) -> Counter[int]:
    """Send a request to each door at the same moment, from a thread of its own. Return the statuses."""
    cookies = dict(ana.client.cookies)
    statuses: Counter[int] = Counter()
    start, lock = threading.Barrier(len(doors)), threading.Lock()

    def send(door: Door) -> None:
        with httpx.Client(
            base_url=server.url, cookies=cookies, headers={"X-CSRFToken": cookies["csrftoken"]}, timeout=60
        ) as client:
            start.wait()
            answer = door(client)
            while answer.status_code == 503:
                # The database was busy, and nothing was changed.
                answer = door(client)
        with lock:
            statuses[answer.status_code] += 1

    threads = [threading.Thread(target=send, args=(door,)) for door in doors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def test_all_doors_together_do_not_pass_the_limit(server: Server, ana: Person) -> None:
    codes = [approved(server, ana) for _ in range(REQUESTS)]
    doors = [*[of_page] * REQUESTS, *[of_api] * REQUESTS, *map(of_device, codes)]
    statuses = at_once(server, ana, doors)
    # Made: 200 of the page and of `license login`, 201 of the API. Refused: 409, and 400 of `license login`.
    assert statuses.keys() <= {200, 201, 400, 409}
    assert (statuses[200] + statuses[201], statuses.total()) == (LIMIT, len(doors))
    tokens = valid_tokens(server)
    assert len(tokens) == LIMIT
    # With one token less there is room for one, through whichever door comes first.
    server.manage("token", "revoke", tokens[0])
    statuses = at_once(server, ana, [of_page, of_api] * 2)
    assert statuses[200] + statuses[201] == 1
    assert len(valid_tokens(server)) == LIMIT
