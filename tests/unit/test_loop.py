"""The loop of a worker answers many calls in one thread. What blocks happens in others."""

import json
import os
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http import wsgi
from gunicorn.workers.gthread import TConn

from licenses import lanes
from licenses.lanes import Entry, Lane
from licenses.leases import services
from licenses.models import Tool
from licenseserver import hub, workers
from licenseserver.hub import Hub, aside
from tests.support.api import api_of, api_with, make_token

PATIENCE = 60


class Loop:
    """A loop in this thread."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.threads = [ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("thread", "leader")]
        self.hub = Hub(self.woken.set, *self.threads)

    def start(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Start a call; return the list that gets its answer or error."""
        answers: list[Any] = []

        def call() -> None:
            try:
                answers.append(function(*args))
            except Exception as error:  # noqa: BLE001 - the test looks at it
                answers.append(error)

        self.hub.start(call)
        return answers

    def turn(self) -> None:
        """Go once round, as the loop of a worker does."""
        self.woken.clear()
        self.woken.wait(self.hub.sleeps(PATIENCE))
        self.hub.awake()
        self.hub.go_on()

    def until(self, answers: list[Any]) -> Any:
        """Return the answer of a call."""
        for _ in range(1000):
            if answers:
                return answers[0]
            self.turn()
        raise AssertionError("There is no answer.")


class Echo(Lane):
    """A lane that answers with the request. A request may wait for ``go``."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Any]] = []
        self.threads: set[str] = set()
        self.go = threading.Event()

    def decide(self, batch: Sequence[Entry]) -> None:
        self.batches.append([entry.request for entry in batch])
        self.threads.add(threading.current_thread().name.partition("_")[0])
        for entry in batch:
            if entry.request == "slow":
                assert self.go.wait(PATIENCE)
            entry.finish(entry.request, ValueError("bad") if entry.request == "bad" else None)

    def decide_alone(self, entry: Entry) -> None:
        self.decide([entry])


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    for threads in made.threads:
        threads.submit(connections.close_all).result(PATIENCE)
        threads.shutdown()


@pytest.mark.any_database
def test_calls_that_come_together_share_a_batch_that_a_thread_decides(loop: Loop) -> None:
    lane = Echo()
    calls = [loop.start(lane.submit, number) for number in range(5)]
    assert calls == [[]] * 5
    loop.turn()
    assert calls == [[number] for number in range(5)]
    assert lane.batches == [[0, 1, 2, 3, 4]]
    assert lane.threads == {"leader"}


@pytest.mark.any_database
def test_a_batch_that_takes_long_does_not_stop_the_loop(loop: Loop) -> None:
    slow, other = Echo(), Echo()
    waiting = loop.start(slow.submit, "slow")
    loop.turn()
    behind = loop.start(slow.submit, "behind")
    loop.threads[1] = loop.hub._leaders = ThreadPoolExecutor(1)
    assert loop.until(loop.start(other.submit, "other")) == "other"
    assert (waiting, behind) == ([], [])
    slow.go.set()
    assert loop.until(waiting) == "slow"
    assert loop.until(behind) == "behind"


@pytest.mark.any_database
def test_a_call_whose_batch_does_not_begin_goes_on_without_it(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 0.01)
    lane = Echo()
    slow = loop.start(lane.submit, "slow")
    loop.turn()
    assert loop.until(loop.start(lane.submit, "impatient")) == "impatient"
    assert lane.batches == [["slow"], ["impatient"]]
    assert lane.threads == {"leader", "thread"}
    lane.go.set()
    assert loop.until(slow) == "slow"


@pytest.mark.any_database
def test_an_error_is_raised_in_its_call(loop: Loop) -> None:
    lane = Echo()
    bad, good = loop.start(lane.submit, "bad"), loop.start(lane.submit, "good")
    assert isinstance(loop.until(bad), ValueError)
    assert good == ["good"]


@pytest.mark.any_database
def test_a_thread_and_a_call_of_the_loop_lead_for_each_other(loop: Loop) -> None:
    lane = Echo()
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(lane.submit, "slow")
        while not lane.batches:
            pass
        call = loop.start(lane.submit, "call")
        assert call == []
        lane.go.set()
        assert leader.result(PATIENCE) == "slow"
        assert loop.until(call) == "call"


@pytest.mark.any_database
def test_what_blocks_runs_in_a_thread_only_for_a_call_of_the_loop(loop: Loop) -> None:
    def thread() -> str:
        return threading.current_thread().name.partition("_")[0]

    assert aside(thread) == "MainThread"
    assert loop.until(loop.start(lambda: aside(thread))) == "thread"


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="threads share no SQLite database in memory")
def test_no_call_of_the_loop_uses_the_database_in_it(
    loop: Loop, make_tool: Callable[..., Tool], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tool("cad", capacity=5)
    make_tool("full", capacity=1)
    ana, team = api_of(user="ana"), api_of(team="crash")
    administrator = api_of(user="root", scopes=["admin", "borrow", "read"])
    stranger = api_with(f"Bearer {make_token(user='ben')[:-1]}x")
    monkeypatch.setattr(services, "NEW_KEYS_A_TIDYING", 1)
    connect, used = BaseDatabaseWrapper.ensure_connection, []

    def ensure_connection(wrapper: BaseDatabaseWrapper) -> None:
        if hub.here() is not None:
            used.append(wrapper)
        connect(wrapper)

    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", ensure_connection)

    def ask(api: Any, method: str, path: str, body: Any = None, **headers: str) -> Any:
        call = api.client.generic
        sent = partial(call, method, path, json.dumps(body), "application/json", headers=headers)
        answer = loop.until(loop.start(sent))
        assert not isinstance(answer, Exception), answer
        return answer

    lease = ask(ana, "POST", "/licenses/borrow", {"tool": "cad"}, **{"Idempotency-Key": "once"}).json()["id"]
    assert ask(ana, "POST", "/licenses/renew", {"id": lease}).status_code == 200
    assert ask(administrator, "POST", "/licenses/renew", {"id": lease}).status_code == 200
    assert ask(team, "POST", "/licenses/return", {"id": lease}).status_code == 200
    assert ask(administrator, "POST", "/licenses/return", {"id": lease}).status_code == 200
    assert ask(stranger, "POST", "/licenses/return", {"id": lease}).status_code == 401
    assert ask(ana, "POST", "/licenses/borrow", {"tool": "full"}).status_code == 200
    assert ask(ana, "POST", "/licenses/borrow", {"tool": "full"}).status_code == 409
    assert ask(ana, "POST", "/licenses/borrow", {"tool": "nothing"}).status_code == 404
    ticket = ask(ana, "POST", "/licenses/borrow", {"tool": "full", "wait_seconds": 60}).json()["ticket"]
    assert ask(ana, "GET", f"/licenses/queue/{ticket}").status_code == 202
    assert ask(administrator, "GET", f"/licenses/queue/{ticket}").status_code == 202
    assert ask(ana, "GET", "/licenses/cad/status").status_code == 200
    assert used == []


WHOLE = b"POST /licenses/borrow HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n"
STATUS = b"GET /licenses/cad/status HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture
def worker(loop: Loop) -> Iterator[workers.Worker]:
    """Provide a worker without an application."""
    config = Config()
    made = workers.Worker(0, os.getpid(), [], None, 30, config, Logger(config))
    made.poller, made.since, made.looked, made.nr_conns = selectors.DefaultSelector(), 0.0, 0.0, 1
    made.begun, made.closing = deque(), deque()
    made.hub = loop.hub
    yield made
    made.poller.close()


@pytest.fixture
def connected(worker: workers.Worker) -> Iterator[tuple[socket.socket, TConn]]:
    """Provide a client's end of a connection, and the worker's."""
    client, served = socket.socketpair()
    connection = TConn(worker.cfg, served, ("127.0.0.1", 1), ("127.0.0.1", 2))
    connection.init()
    with client, served:
        yield client, connection


@pytest.mark.any_database
def test_a_client_that_does_not_read_its_answers_is_cut_off(
    worker: workers.Worker, connected: tuple[socket.socket, TConn]
) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "100000")])
        return [b"x" * 100_000]

    worker.wsgi = application
    client, connection = connected
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    worker.hub.start(worker._answer, connection, WHOLE + b"\r\n{}")
    received = b""
    while part := client.recv(65536):
        received += part
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert len(received) < 100_000
    client.close()
    worker.murder_pending()


@pytest.mark.any_database
@pytest.mark.parametrize("reads", [True, False], ids=["its request", "its answer"])
def test_a_client_that_stalls_gives_its_thread_back(
    worker: workers.Worker,
    connected: tuple[socket.socket, TConn],
    monkeypatch: pytest.MonkeyPatch,
    reads: bool,
) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        if reads:
            environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", "10000000")])
        return [b"x" * 10_000_000]

    monkeypatch.setattr(workers, "STALL", struct.pack("ll", 0, 10_000))
    worker.wsgi = application
    _, connection = connected
    connection.parser.unreader.unread(STATUS + b"Content-Length: 5\r\n\r\n")
    connection.queued_at = 0.0
    assert copy_context().run(worker.handle, connection) is False


@pytest.mark.any_database
def test_the_loop_and_threads_give_the_application_the_same(
    worker: workers.Worker, connected: tuple[socket.socket, TConn]
) -> None:
    """A head that comes again is not read again, and each request has its own body."""
    called: list[dict[str, Any]] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        of_threads = {"wsgi.errors", "wsgi.early_hints"}
        given = {name: value for name, value in environ.items() if name not in of_threads}
        called.append(given | {"wsgi.input": environ["wsgi.input"].read()})
        # As a call under SCRIPT_NAME does.
        environ["PATH_INFO"] = "/"
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    worker.wsgi = application
    _, connection = connected
    heads = [
        WHOLE + b"Authorization: Bearer lic_x\r\nX-A: \xe9\r\nX-B: 1\r\nX-B: 2\r\n",
        WHOLE.replace(b"borrow", b"return"),
        *(b"GET /licenses/cad%%20%d/status HTTP/1.1\r\nHost: a\r\n" % number for number in range(workers.HEADS)),
    ]
    for head in [*heads, *heads]:
        for body in (b"{}", b"[]") if head.startswith(b"POST") else (b"",):
            data = head + b"\r\n" + body
            worker.hub.start(worker._answer, connection, data)
            connection.parser.unreader.unread(data)
            worker.handle_request(next(connection.parser), connection)
            of_loop, of_thread = called[-2:]
            assert of_loop == of_thread
            assert of_loop["wsgi.input"] == body
            worker.poller.unregister(connection.sock)


@pytest.mark.any_database
@pytest.mark.parametrize("head", [WHOLE, WHOLE.replace(b"1.1", b"1.0"), WHOLE + b"Connection: close\r\n"])
@pytest.mark.parametrize(
    ("status", "headers", "pieces"),
    [
        ("200 OK", [("Content-Length", "2"), ("X-A", "\xe9 "), ("Connection", "close")], [b"ok"]),
        ("409 Conflict", [("Content-Length", "0")], [b""]),
        ("200 OK", [("Content-Length", "4")], [b"no", b"pe"]),
        ("200 OK", [], [b"ok"]),
        ("204 No Content", [("Content-Length", "0")], []),
    ],
)
def test_the_loop_and_threads_send_the_same_bytes(
    worker: workers.Worker,
    connected: tuple[socket.socket, TConn],
    head: bytes,
    status: str,
    headers: list[tuple[str, str]],
    pieces: list[bytes],
) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response(status, headers)
        return pieces

    def received() -> list[bytes]:
        client.setblocking(False)
        lines = client.recv(65536).split(b"\r\n")
        return [line for line in lines if not line.startswith(b"Date: ")]

    worker.wsgi = application
    client, connection = connected
    connection.parser.unreader.unread(head + b"\r\n{}")
    request = next(connection.parser)
    is_kept = worker.handle_request(request, connection)
    of_thread = received()
    environ = wsgi.create(request, connection.sock, connection.client, connection.server, worker.cfg)[1]
    assert worker._respond(connection, request, environ) is is_kept
    assert received() == of_thread


@pytest.mark.any_database
def test_an_error_after_the_answer_ends_the_connection_and_sends_nothing_more(
    worker: workers.Worker, connected: tuple[socket.socket, TConn]
) -> None:
    class Pieces(list[bytes]):
        def close(self) -> None:
            raise ValueError

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        return Pieces([b"ok"])

    worker.wsgi = application
    client, connection = connected
    worker.hub.start(worker._answer, connection, WHOLE + b"\r\n{}")
    received = b""
    while part := client.recv(65536):
        received += part
    assert received.endswith(b"\r\n\r\nok")
    assert received.count(b"HTTP/1.1") == 1


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("request_", "is_of_loop"),
    [
        (WHOLE + b"\r\n{}", True),
        (WHOLE.replace(b"/licenses", b"/admin/licenses") + b"\r\n{}", False),
        (WHOLE + b"Authorization: Bearer lic_x\r\n\r\n{}", True),
        (b"GET /licenses/cad/status HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"GET /licenses/cad/status?user=ana HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"GET /licenses/status HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"GET /admin/ HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"GET /licenses/livez HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (WHOLE + b"Authorization: Basic YTpi\r\n\r\n{}", False),
        (WHOLE + b"Authorization: Bearer eyJ.x.y\r\n\r\n{}", False),
        (WHOLE + b"Cookie: sessionid=a\r\n\r\n{}", False),
        (WHOLE + b"Expect: 100-continue\r\n\r\n{}", False),
        (WHOLE + b"Transfer-Encoding: chunked\r\n\r\n{}", False),
        (WHOLE + b"Content-Length: 2\r\n\r\n{}", False),
        (WHOLE + b"content-length : 2\r\n\r\n{}", True),
        # The loop would wait for these bodies.
        (STATUS + b"Content-Length: 000000000005\r\n\r\n", False),
        (STATUS + b"Content-Length: 123456\r\n\r\n", False),
        (STATUS + b"Content-Length: 5 \t\r\n\r\n", False),
        (STATUS + b"Content-Length: +5\r\n\r\n", False),
        # Not whole, or more than one.
        (WHOLE + b"\r\n{", False),
        (WHOLE, False),
        (WHOLE + b"\r\n{}" + WHOLE, False),
        (b"", False),
    ],
)
def test_the_loop_answers_whole_short_calls(request_: bytes, is_of_loop: bool) -> None:
    assert workers.is_of_loop(request_) is is_of_loop


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("request_", "is_begun"),
    [
        (b"G", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", True),
        (WHOLE, True),
        (WHOLE + b"\r\n{", True),
        (WHOLE + b"\r\n{}", False),
        (WHOLE + b"\r\n{}GET", False),
        (WHOLE + b"Cookie: sessionid=a\r\n\r\n{", True),
        # The client waits for an answer.
        (WHOLE + b"Expect: 100-continue\r\n\r\n", False),
        # Only gunicorn can tell the end.
        (STATUS + b"Transfer-Encoding: chunked\r\n\r\n2\r\n", False),
        (WHOLE + b"Content-Length: 2\r\n\r\n{", False),
        # Too much to keep in memory.
        (STATUS + b"Content-Length: 123456\r\n\r\n", False),
        (STATUS + b"A: b\r\n" * 20_000, False),
        # gunicorn refuses it now.
        (b"GET / HTTP/1.1\n", False),
        (b"G" * 5000, False),
    ],
)
def test_the_loop_waits_for_the_rest_of_a_request(request_: bytes, is_begun: bool) -> None:
    assert workers.is_begun(request_, Config()) is is_begun


@pytest.mark.any_database
def test_a_worker_leaves_connections_to_one_that_has_fewer_but_not_for_long(
    worker: workers.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_connections", [0, 0, 0, 0])
    monkeypatch.setattr(workers, "PAUSE", 0)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as clients:
        worker.sockets, worker.nr_conns = [listener], 0
        worker.set_accept_enabled(True)

        def accepted() -> int:
            """Return the connections of the worker after a client has come, and the loop has gone round once."""
            clients.enter_context(socket.create_connection(listener.getsockname()))
            worker.wait_for_and_dispatch_events(PATIENCE)
            return int(worker.nr_conns)

        assert [accepted() for _ in range(3)] == [1, 2, 3]
        # Another worker begins, without a connection. This one waits, looks again, and takes one.
        workers._connections[1] = 1
        assert [accepted() for _ in range(4)] == [3, 3, 4, 4]
        # The other one has as many, then fewer, and then it is gone.
        workers._connections[1] = 5
        assert [accepted() for _ in range(3)] == [4, 5, 6]
        workers._connections[1] = 1
        assert accepted() == 6
        workers.gone(1)
        assert [accepted() for _ in range(3)] == [6, 7, 8]
        worker.set_accept_enabled(False)
        assert list(workers._connections) == [0, 0, 0, 0]
        for conn in worker.pending_conns:
            conn.close()
