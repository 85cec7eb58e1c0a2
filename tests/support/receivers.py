"""Receivers of notifications on loopback: a mail server, and a program with a webhook."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from benchmarks.ports import free_port

HOST = "127.0.0.1"


@dataclass
class Post:
    """A request that a webhook got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def is_signed_with(self, secret: str) -> bool:
        """Check signature and time as a receiver does."""
        try:
            Webhook(secret).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


@dataclass
class Receiver:
    """A webhook. It answers the next requests with ``answers``: a status, or a function that writes the whole
    answer; afterwards with 200."""

    port: int
    posts: list[Post] = field(default_factory=list)
    answers: list[int | Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    text: str = "ok"
    # Set to end requests that hang.
    released: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def url(self, path: str = "/hook/s3cr3t-path") -> str:
        return f"http://{HOST}:{self.port}{path}"

    def hang(self, _: BaseHTTPRequestHandler) -> None:
        """Answer nothing until the test releases it."""
        self.released.wait(60)

    def trickle(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a byte at a time, without an end."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.released.wait(0.2):
            handler.wfile.write(b"X-A: b\r\n")

    def wait_for(self, posts: int, seconds: float = 180) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.posts) >= posts, seconds), self.posts


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """Provide a webhook on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with receiver.arrived:
                receiver.posts.append(Post(self.path, headers, body))
                answer = receiver.answers.pop(0) if receiver.answers else 200
                receiver.arrived.notify_all()
            if callable(answer):
                try:
                    answer(self)
                except OSError:
                    # The server has given up.
                    self.close_connection = True
                return
            self.send_response(answer)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            text = receiver.text.encode()
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Keep the output of the tests quiet."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    receiver = Receiver(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class MailServer:
    """An SMTP server. It answers the next recipients with ``refusals``, such as ``550 no such user``."""

    port: int
    mails: list[EmailMessage] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if self.refusals:
            return self.refusals.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        mail = message_from_bytes(envelope.content, policy=policy.default)
        with self.arrived:
            self.mails.append(mail)
            self.recipients += envelope.rcpt_tos
            self.arrived.notify_all()
        return "250 OK"

    def wait_for(self, mails: int, seconds: float = 180) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.mails) >= mails, seconds), self.mails


@contextmanager
def running_mail_server(**options: Any) -> Iterator[MailServer]:
    """Provide an SMTP server on loopback; ``options`` are those of aiosmtpd's Controller."""
    mail_server = MailServer(free_port())
    controller = Controller(mail_server, hostname=HOST, port=mail_server.port, ready_timeout=60, **options)
    controller.start()
    try:
        yield mail_server
    finally:
        controller.stop()


def text_of(mail: EmailMessage) -> str:
    """Return the text of a mail."""
    part = mail.get_body()
    assert part is not None
    text: str = part.get_content()
    return text
