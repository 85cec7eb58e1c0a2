"""gunicorn's threaded worker, whose loop answers the calls that come most often itself."""

import io
import mmap
import re
import resource
import selectors
import socket
import struct
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from typing import Any

from django.conf import settings
from django.core.cache import close_caches
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, reset_queries
from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import ThreadWorker

from .hub import Hub, here, start_leading

# Lanes that can have a batch at the same time (``licenses.lanes``): seats, heartbeats, levels, tokens.
LEADERS = 4
# In seconds: a wait for events that took no longer found them.
AT_ONCE = 0.001
# In seconds: a connection that is closed waits this long for the client's end.
CLOSING = 2.0
# Files that a worker may have open, without those of connections: databases, metrics, pages.
OTHER_FILES = 128
# The loop starts this number of calls, which fill a batch, before it goes on with them.
STARTED = 64
# The loop answers requests up to this many bytes, and reads this many at once.
SHORT = 8192
# In seconds, and bytes: the loop waits this long for the next part of a request, up to this length.
NEXT_PART = 30
LONGEST = settings.API_BODY_LIMIT + SHORT
# A thread waits as long for a client: to read the rest, or to write.
STALL = struct.pack("ll", NEXT_PART, 0)
# The calls that wait only in lanes. Their credential may only be a token of this server, because the keys
# for a JWT may have to be fetched, and a password takes a lot of time. And the probe that restarts a server: it
# must not wait for threads that wait for the database.
ROOT = rb"(?:%b)?" % re.escape(settings.SCRIPT_NAME or "").encode()
OF_LOOP = re.compile(
    rb"(?:POST %b/licenses/(?:borrow|renew|return)|GET %b/(?:livez|licenses/(?:queue/[^/ ?]+|[^/ ?]+/status)))"
    rb" HTTP/1\.1\r\n" % (ROOT, ROOT)
)
# What else a thread must handle: other credentials, cookies, and bodies whose end a length does not tell.
OF_THREADS = re.compile(
    rb"\r\n(?:authorization:(?![ \t]*bearer lic_)|cookie|expect|upgrade|transfer-encoding)", re.IGNORECASE
)
LENGTH = re.compile(rb"\r\ncontent-length:([^\r]*)", re.IGNORECASE)
DIGITS = re.compile(rb"[ \t]*(\d{1,9})[ \t]*")
EXPECTS = re.compile(rb"\r\nexpect:", re.IGNORECASE)
END = b"\r\n\r\n"
# Of each connection: a client borrows and returns, or asks the same again and again.
HEADS = 2

# A worker that has this number of connections more than another leaves new ones to that one, for a moment (in
# seconds). Connections that are kept would stay where they are, and a worker uses one core only.
AHEAD = 2
# With this number of connections it takes what comes: then luck is fair enough, and nobody may wait.
MANY = 64
PAUSE = 0.005
# The connections of each worker that accepts some, and one more; 0 is no worker. Workers share this memory.
_connections = memoryview(mmap.mmap(-1, 8 * settings.WEB_CONCURRENCY)).cast("i")

_waited: ContextVar[float] = ContextVar("waited", default=0.0)


def waited() -> float:
    """Return the seconds that this request waited for a thread, or for the loop; 0 outside gunicorn."""
    return _waited.get()


def gone(age: int) -> None:
    """Forget the connections of a worker that has ended or accepts no more."""
    _connections[age % len(_connections)] = 0


def is_of_loop(data: bytes) -> bool:
    """Return whether these bytes are one whole request that the loop answers."""
    end = data.find(END)
    if end < 0 or not OF_LOOP.match(data):
        return False
    head = data[: end + 2]
    return len(data) == end + len(END) + _body_length(head) and not OF_THREADS.search(head)


def is_begun(data: bytes, config: Any) -> bool:
    """Return whether these bytes are the beginning of a request whose rest the loop waits for. gunicorn reads in
    a thread what its length does not tell, what waits for an answer first, and what it refuses."""
    end = data.find(END)
    if end >= 0:
        head = data[: end + 2]
        return len(data) < end + len(END) + _body_length(head) <= LONGEST and not EXPECTS.search(head)
    try:
        next(RequestParser(config, iter([data]), None))
    except NoMoreData:
        return len(data) < LONGEST
    except ParseException:
        pass
    return False


def _body_length(head: bytes) -> int:
    """Return the length of a body; -1 if only gunicorn can tell."""
    lengths = LENGTH.findall(head)
    if not lengths:
        return 0
    digits = DIGITS.fullmatch(lengths[0])
    return int(digits[1]) if digits and len(lengths) == 1 else -1


class Answer(wsgi.Response):
    """An answer whose head and body are sent together, if the body is one piece."""

    headers_sent: bool
    _date = (0, "")

    def write(self, arg: bytes) -> None:
        """Send a piece of the body, after the head."""
        if self.headers_sent or self.upgrade or self._omits_body or self.response_length != len(arg):
            super().write(arg)
            return
        self.headers_sent, self.sent = True, len(arg)
        lines = [
            f"HTTP/{self.req.version[0]}.{self.req.version[1]} {self.status}",
            f"Server: {self.version}",
            f"Date: {self._now()}",
            f"Connection: {'close' if self.should_close() else 'keep-alive'}",
            *(f"{name}: {value}" for name, value in self.headers),
            "\r\n",
        ]
        util.write(self.sock, "\r\n".join(lines).encode("latin-1") + arg)

    @classmethod
    def _now(cls) -> str:
        """Return the time for the head: made once in a second."""
        now = int(time.time())
        if cls._date[0] != now:
            cls._date = now, util.http_date(now)
        return cls._date[1]


def close_connections(**signal: Any) -> None:
    """Close old connections to the database at the start and the end of a request in a thread, as Django does. The
    loop has none. Receives a signal."""
    if here() is None:
        reset_queries()
        close_old_connections()


class _Answered:
    """What became of a connection, as gunicorn expects it from a thread."""

    def __init__(self, result: object) -> None:
        self._result = result

    def cancelled(self) -> bool:
        return False

    def result(self) -> object:
        return self._result


class Worker(ThreadWorker):
    """Serve like gunicorn's worker, but note the wait of each request, and give the address up at a stop.

    A worker of gunicorn 27 that stops accepts no new connection but holds the address until
    its last connection is closed, for up to ``graceful_timeout``. Meanwhile new clients get no
    answer, and a new server can't listen there. Without a master it serves open connections
    while clients use them.
    """

    alive: bool
    worker_connections: int
    # Until when it leaves new connections to others, and whether it just did.
    patient_until, was_patient = 0.0, False

    def set_accept_enabled(self, enabled: bool) -> None:
        """Start or stop to accept connections. Give the addresses up when the worker stops."""
        self._listen()
        super().set_accept_enabled(enabled)
        if enabled:
            return
        gone(self.age)
        if not self.alive:
            for listener in self.sockets:
                self._accept_the_rest(listener)
                listener.close()

    def accept(self, listener: Any) -> None:
        """Accept a connection, or leave it to a worker that has fewer; but not for long: that one may be busy."""
        fewest = min(filter(None, _connections), default=0)
        is_ahead = fewest + AHEAD <= self.nr_conns + 1 < MANY
        if self.alive and is_ahead and not self.was_patient:
            for each in self.sockets:
                self.poller.unregister(each)
            self.patient_until = time.monotonic() + PAUSE
            return
        self.was_patient = False
        super().accept(listener)

    def _listen(self) -> None:
        """Look for new connections again."""
        if self.patient_until:
            self.patient_until, self.was_patient = 0.0, True
            for listener in self.sockets:
                self.poller.register(listener, selectors.EVENT_READ, self.accept)

    def _accept_the_rest(self, listener: Any) -> None:
        """Accept waiting connections, because closing the last listener would cut them."""
        listener.setblocking(False)
        before = -1
        while before < self.nr_conns:
            before = self.nr_conns
            self.accept(listener)

    def init_process(self) -> None:
        """Prepare the loop in the process of the worker."""
        request_started.disconnect(reset_queries)
        # The server uses no cache.
        request_finished.disconnect(close_caches)
        for signal in (request_started, request_finished):
            signal.disconnect(close_old_connections)
            signal.connect(close_connections)
        self._make_room()
        self.begun: deque[Any] = deque()
        self.closing: deque[tuple[float, socket.socket]] = deque()
        self.leaders = ThreadPoolExecutor(LEADERS, "leader", initializer=start_leading)
        super().init_process()

    def _make_room(self) -> None:
        """Let the process open a file for each connection, or else accept fewer: a worker that may open no more files
        would end, and cut its calls."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = self.worker_connections + OTHER_FILES
        if resource.RLIM_INFINITY != soft < needed:
            soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            self.worker_connections = max(soft - OTHER_FILES, 1)

    def run(self) -> None:
        """Serve until the worker is stopped."""
        self.since = self.looked = time.monotonic()
        self.hub = Hub(lambda: self.method_queue.defer(time.monotonic), self.tpool, self.leaders)
        super().run()
        self.leaders.shutdown(wait=False)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for requests, start them, and go on with those that wait no longer."""
        if self.patient_until:
            timeout = min(timeout, PAUSE)
        elif self._accepting:
            _connections[self.age % len(_connections)] = self.nr_conns + 1
        timeout = self.hub.sleeps(timeout)
        before = time.monotonic()
        events = self.poller.select(timeout)
        self.hub.awake()
        # What is there at once may wait since the loop looked last.
        woke = time.monotonic()
        if woke > self.patient_until > 0:
            self._listen()
        self.since, self.looked = (self.looked if woke - before < AT_ONCE else woke), woke
        for number, (key, _) in enumerate(events, 1):
            key.data(key.fileobj)
            if number % STARTED == 0:
                self.hub.go_on()
        self.hub.go_on()

    def enqueue_req(self, conn: Any) -> None:
        """Answer the request of a connection in the loop or in a thread. Wait in the loop until it is whole:
        clients that stall must not hold threads.

        In the loop, connections do not block.
        """
        if self.cfg.is_ssl:
            self._to_thread(conn)
            return
        begun = conn.parser.unreader.take_buffered() if conn.initialized else b""
        if begun:
            conn.sock.setblocking(False)
        is_over = False
        try:
            data = conn.sock.recv(SHORT)
            is_over = not data
        except BlockingIOError:
            data = b""
        except OSError:
            data, is_over = b"", True
        data = begun + data
        if not data:
            if is_over:
                self._drop(conn.sock)
            else:
                self._wait_for_more(conn, self.pending_conns, self.cfg.keepalive)
            return
        conn.init()
        if is_of_loop(data):
            self.hub.start(self._answer, conn, data)
            return
        conn.parser.unreader.unread(data)
        if not is_over and is_begun(data, self.cfg):
            self._wait_for_more(conn, self.begun, NEXT_PART)
        else:
            self._to_thread(conn)

    def _wait_for_more(self, conn: Any, waiting: deque[Any], seconds: float) -> None:
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + seconds
        waiting.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._read_more, conn, waiting))

    def _read_more(self, conn: Any, waiting: deque[Any], sock: Any) -> None:
        self.poller.unregister(sock)
        waiting.remove(conn)
        conn.timeout = None
        self.enqueue_req(conn)

    def _to_thread(self, conn: Any) -> None:
        conn.queued_at = time.monotonic()
        super().enqueue_req(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Keep the connection of a request, or close it. gunicorn would stop the loop until the client has
        closed its side, for up to 2 s."""
        try:
            is_over = fs.cancelled() or not fs.result()
        except Exception:  # noqa: BLE001 - gunicorn closes it
            is_over = False
        if is_over:
            self._close(conn.sock)
        else:
            super().finish_request(conn, fs)

    def _close(self, sock: Any) -> None:
        """Send the end, and wait in the loop for the client's (RFC 9112, 9.6)."""
        try:
            sock.shutdown(socket.SHUT_WR)
            sock.setblocking(False)
            self.poller.register(sock, selectors.EVENT_READ, self._read_rest)
        except OSError:
            self._drop(sock)
        else:
            self.closing.append((time.monotonic() + CLOSING, sock))

    def _read_rest(self, sock: Any) -> None:
        try:
            if sock.recv(SHORT):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.poller.unregister(sock)
        self._drop(sock)

    def _drop(self, sock: Any) -> None:
        self.nr_conns -= 1
        sock.close()

    def murder_pending(self) -> None:
        """Close connections that wait for too long: for a request, its next part, or the client to close them."""
        super().murder_pending()
        now = time.monotonic()
        while self.begun and self.begun[0].timeout < now:
            sock = self.begun.popleft().sock
            self.poller.unregister(sock)
            self._drop(sock)
        while self.closing and (self.closing[0][0] < now or self.closing[0][1].fileno() < 0):
            _, sock = self.closing.popleft()
            if sock.fileno() >= 0:
                self.poller.unregister(sock)
                self._drop(sock)

    def _answer(self, conn: Any, data: bytes) -> None:
        """Answer the request of these bytes (``is_of_loop``), in a greenlet of the loop."""
        # It came after the last answer: clients do not send the next request before.
        since = max(self.since, conn.timeout - self.cfg.keepalive) if conn.timeout else self.since
        _waited.set(time.monotonic() - since)
        # A client that does not read its answers must not stop the loop: the connection is closed.
        conn.sock.setblocking(False)
        request, is_kept = None, False
        try:
            request, environ = self._read(conn, data)
            is_kept = self._respond(conn, request, environ)
        except (OSError, StopIteration) as error:
            self.log.debug("Closing connection. %s", error)
        except Exception as error:  # noqa: BLE001 - as gunicorn's own threads do
            self.handle_error(request, conn.sock, conn.client, error)
        self.finish_request(conn, _Answered(is_kept))

    def _read(self, conn: Any, data: bytes) -> tuple[Any, dict[str, Any]]:
        """Return gunicorn's request for these bytes, and the environment of its call. A client sends the same few
        heads again and again: each is read once for a connection."""
        head, _, body = data.partition(END)
        heads = vars(conn).setdefault("heads", {})
        known = heads.pop(head, None)
        if known is None:
            conn.parser.unreader.unread(data)
            request = next(conn.parser)
            _, environ = wsgi.create(request, conn.sock, conn.client, conn.server, self.cfg)
            conn.parser.finish_body()
            known = request, environ | {"wsgi.multithread": True}
            if len(heads) == HEADS:
                # The one that came last is the last one.
                del heads[next(iter(heads))]
        request, environ = heads[head] = known
        return request, environ | {"wsgi.input": io.BytesIO(body)}

    def _respond(self, conn: Any, request: Any, environ: dict[str, Any]) -> bool:
        """Answer a request, as ``handle_request`` does in threads; return whether the connection is kept."""
        start = datetime.now()
        answer = Answer(request, conn.sock, self.cfg)
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        if not self.alive or not self.cfg.keepalive or len(self.keepalived_conns) >= self.max_keepalived:
            answer.force_close()
        try:
            pieces = self.wsgi(environ, answer.start_response)
            try:
                for piece in pieces:
                    answer.write(piece)
                answer.close()
                self.log.access(answer, request, environ, datetime.now() - start)
            finally:
                if hasattr(pieces, "close"):
                    pieces.close()
        except Exception as error:
            if isinstance(error, OSError) or not answer.headers_sent:
                raise
            # No other answer can follow.
            self.log.exception("Error after the answer has begun")
            answer.force_close()
        return not answer.should_close()

    def handle(self, conn: Any) -> Any:
        """Answer the next request of a connection in one of the threads."""
        _waited.set(time.monotonic() - conn.queued_at)
        # A client that is gone without a word would hold the thread until the server stops.
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            conn.sock.setsockopt(socket.SOL_SOCKET, option, STALL)
        return super().handle(conn)

    def is_parent_alive(self) -> bool:
        """Return whether the master lives. If not, answer with ``Connection: close`` from now on."""
        is_alive: bool = super().is_parent_alive()
        if not is_alive:
            self.alive = False
        return is_alive
