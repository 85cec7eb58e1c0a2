"""Mail and webhooks, to a real mail server and a real receiver on loopback."""

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.utils import timezone

from licenses.models import AuditRecord, Delivery, Event, Notification, Webhook, WebhookKind
from licenses.notifications import delivery, messages, outbox, webhooks
from licenses.notifications.delivery import Delivered
from tests.support.quotas import SOMEBODY
from tests.support.receivers import HOST, MailServer, Receiver, running_mail_server, running_receiver, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def shared_receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(shared_receiver: Receiver, settings: Any) -> Receiver:
    """Provide a webhook's receiver that has seen nothing; webhooks may call it."""
    settings.LICENSE_WEBHOOK_HOSTS = [HOST]
    shared_receiver.posts.clear()
    shared_receiver.answers.clear()
    shared_receiver.headers.clear()
    shared_receiver.text = "ok"
    return shared_receiver


@pytest.fixture(scope="module")
def shared_mail_server() -> Iterator[MailServer]:
    with running_mail_server() as mail_server:
        yield mail_server


@pytest.fixture
def mail_server(shared_mail_server: MailServer, settings: Any) -> MailServer:
    """Provide a mail server that the server uses, and an account for ana."""
    mailed_by(shared_mail_server, settings)
    shared_mail_server.mails.clear()
    shared_mail_server.recipients.clear()
    shared_mail_server.refusals.clear()
    User.objects.create_user("ana", "ana@example.com")
    return shared_mail_server


def mailed_by(mail_server: MailServer, settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = HOST, mail_server.port
    settings.EMAIL_USE_TLS = False
    settings.DEFAULT_FROM_EMAIL = "Licenses <licenses@example.com>"
    settings.LICENSE_PUBLIC_URL = "https://licenses.example.com"


def make_webhook(url: str, *, kind: WebhookKind = WebhookKind.JSON, name: str = "chat") -> tuple[Webhook, str]:
    """Make a webhook for every event; the webhook and its secret."""
    webhook = Webhook(name=name, kind=kind, events=list(Event))
    return webhook, webhooks.save(webhook, url=url, by=SOMEBODY)


def offer(key: str = "1", tool: str = "cad", minutes: float = 10, user: str = "ana") -> None:
    until = timezone.now() + timedelta(minutes=minutes)
    facts = {"items": [{"tool": tool, "seats": 2}], "ticket": "t-1", "until": until}
    assert outbox.record(Event.SEAT_OFFERED, key=key, user=user, tool=tool, useful_until=until, facts=facts)


def next_attempt() -> timedelta:
    """Return the pause to the next attempt of the only delivery, and make it due."""
    row = Delivery.objects.get()
    pause = row.due_at - timezone.now()
    Delivery.objects.update(due_at=timezone.now())
    return pause


SENT, POSTPONED, GIVEN_UP = Delivered(sent=1), Delivered(postponed=1), Delivered(given_up=1)


# --- Mail -------------------------------------------------------------------


def test_the_command_for_a_test_mail_says_what_became_of_it(mail_server: MailServer, settings: Any) -> None:
    output = StringIO()
    call_command("sendtestemail", "ben@example.com", stdout=output)
    assert output.getvalue() == f"Accepted by {HOST}\n"
    (mail,) = mail_server.mails
    assert mail["To"] == "ben@example.com"
    mail_server.refusals[:] = ["550 No such user"]
    with pytest.raises(CommandError, match=r"^550 No such user$"):
        call_command("sendtestemail", "ben@example.com")
    with socket.socket() as nobody_listens:
        nobody_listens.bind((HOST, 0))
        settings.EMAIL_PORT = nobody_listens.getsockname()[1]
        with pytest.raises(CommandError, match=f"^{HOST}: .*refused"):
            call_command("sendtestemail", "ben@example.com")
    settings.EMAIL_HOST = ""
    with pytest.raises(CommandError, match=r"^LICENSE_EMAIL_HOST is not set"):
        call_command("sendtestemail", "ben@example.com")


def test_a_mail_says_what_happened_and_what_to_do(mail_server: MailServer) -> None:
    offer()
    assert delivery.deliver() == SENT
    (mail,) = mail_server.mails
    assert mail_server.recipients == ["ana@example.com"]
    assert str(mail["From"]) == "Licenses <licenses@example.com>"
    assert str(mail["Subject"]).startswith("Take 2 seats of cad before ")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert str(Notification.objects.get().pk) in mail["Message-ID"]
    text = text_of(mail)
    assert "Take the seats on the page before" in text
    assert "Ticket: t-1" in text
    assert "https://licenses.example.com/tools/cad/" in text
    assert "https://licenses.example.com/notifications/" in text
    assert delivery.deliver() == Delivered()


def test_many_occasions_of_a_kind_are_one_mail(mail_server: MailServer) -> None:
    for number in range(60):
        offer(str(number), tool=f"tool{number}")
    outbox.record(Event.TEST, key="1", user="ana", useful_until=timezone.now() + timedelta(days=1))
    assert delivery.deliver() == Delivered(sent=61)
    many, one = sorted(mail_server.mails, key=lambda mail: len(text_of(mail)), reverse=True)
    assert many["Subject"] == "60 times: A seat is offered"
    assert "Take 2 seats of tool7 before " in text_of(many)
    assert "And 10 more." in text_of(many)
    # They are about several tools.
    assert "\nhttps://licenses.example.com/\n" in text_of(many).replace("\r\n", "\n")
    assert one["Subject"] == "A test of the license server"


def test_a_name_makes_no_header(mail_server: MailServer) -> None:
    offer(tool="cad\r\nBcc: everybody@example.com\r\n\r\nspoofed")
    assert delivery.deliver() == SENT
    (mail,) = mail_server.mails
    assert mail["Bcc"] is None
    assert mail_server.recipients == ["ana@example.com"]


def test_a_refused_address_is_given_up_and_a_busy_server_is_not(mail_server: MailServer) -> None:
    mail_server.refusals[:] = ["451 try later", "550 no such user"]
    offer()
    assert delivery.deliver() == POSTPONED
    assert Delivery.objects.get().answer == "451 try later"
    next_attempt()
    assert delivery.deliver() == GIVEN_UP
    assert (Delivery.objects.get().state, Delivery.objects.get().answer) == ("failed", "550 no such user")


def test_mail_waits_for_a_mail_server_that_is_away(mail_server: MailServer, settings: Any) -> None:
    User.objects.create_user("ben", "ben@example.com")
    settings.EMAIL_PORT = 1
    offer("1")
    offer("2", user="ben")
    # The first attempt tells enough: the second message does not wait for the same server.
    assert delivery.deliver() == POSTPONED
    assert sorted(Delivery.objects.values_list("attempts", flat=True)) == [0, 1]
    settings.EMAIL_PORT = mail_server.port
    Delivery.objects.update(due_at=timezone.now())
    assert delivery.deliver() == Delivered(sent=2)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a certificate for this address, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(made.public_bytes(pem) + private)
    return file


def test_mail_goes_only_to_a_server_whose_certificate_is_valid(
    certificate: Path, mail_server: MailServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with running_mail_server(tls_context=context, require_starttls=True) as encrypted:
        mailed_by(encrypted, settings)
        settings.EMAIL_USE_TLS = True
        offer()
        assert delivery.deliver() == POSTPONED
        assert "certificate" in Delivery.objects.get().answer
        assert encrypted.mails == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        next_attempt()
        assert delivery.deliver() == SENT
        assert len(encrypted.mails) == 1


# --- Webhooks ---------------------------------------------------------------


def test_a_webhook_gets_a_signed_message(receiver: Receiver, settings: Any) -> None:
    settings.LICENSE_PUBLIC_URL = "https://licenses.example.com"
    _, secret = make_webhook(receiver.url())
    offer()
    assert delivery.deliver() == SENT
    (post,) = receiver.posts
    assert post.path == "/hook/s3cr3t-path"
    assert post.is_signed_with(secret)
    assert not post.is_signed_with(webhooks.new_secret())
    assert post.id == str(Notification.objects.get().pk) == post.json["data"]["id"]
    assert post.json["type"] == "seat_offered"
    assert post.json["data"].items() >= {"user": "ana", "tool": "cad", "items": [{"tool": "cad", "seats": 2}]}.items()
    assert post.json["data"]["url"] == "https://licenses.example.com/tools/cad/"


def test_the_signature_is_that_of_standard_webhooks() -> None:
    # The example of its libraries.
    headers = webhooks.signed(
        b'{"test": 2432232314}',
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_failed_message_comes_again_with_the_same_id_after_longer_and_longer_pauses(receiver: Receiver) -> None:
    make_webhook(receiver.url())
    offer(minutes=24 * 60)
    receiver.answers[:] = [500, 503, 404, 400]
    pauses = []
    for status in (500, 503, 404, 400):
        assert delivery.deliver() == POSTPONED
        assert Delivery.objects.get().answer == f"HTTP {status}: ok"
        pauses.append(next_attempt() / timedelta(seconds=1))
    assert delivery.deliver() == SENT
    # Between half and all of 30 s, 60 s, ...; less what the test takes.
    assert all(pause <= 30 * 2**number for number, pause in enumerate(pauses))
    assert pauses[3] > pauses[0]
    assert len({post.id for post in receiver.posts}) == 1
    assert Delivery.objects.get().attempts == 5


def test_pauses_grow_to_an_hour_and_differ() -> None:
    pauses = [[delivery.pause_after(attempts) / timedelta(seconds=1) for _ in range(50)] for attempts in range(1, 40)]
    for number, some in enumerate(pauses):
        full = min(30 * 2**number, 3600)
        assert all(full / 2 <= pause <= full for pause in some)
        assert len(set(some)) > 1


def test_a_receiver_chooses_when_it_is_asked_again(receiver: Receiver) -> None:
    make_webhook(receiver.url())
    offer()
    receiver.answers[:] = [429, 429]
    receiver.headers["Retry-After"] = "900"
    assert delivery.deliver() == POSTPONED
    assert timedelta(minutes=13) < next_attempt() <= timedelta(minutes=15)
    receiver.headers["Retry-After"] = "999999"
    assert delivery.deliver() == POSTPONED
    assert next_attempt() <= timedelta(hours=1)


def test_a_webhook_that_is_gone_is_disabled_on_record(receiver: Receiver) -> None:
    make_webhook(receiver.url())
    offer("1")
    offer("2")
    receiver.answers[:] = [410]
    assert delivery.deliver() == Delivered(given_up=2)
    assert len(receiver.posts) == 1
    assert not Webhook.objects.get().enabled
    record = AuditRecord.objects.get(action="changed")
    assert (record.subject_kind, record.before, record.after) == ("webhook", {"enabled": True}, {"enabled": False})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(receiver: Receiver, status: int) -> None:
    make_webhook(receiver.url())
    offer()
    receiver.answers[:] = [status]
    receiver.headers["Location"] = receiver.url("/elsewhere")
    assert delivery.deliver() == POSTPONED
    assert [post.path for post in receiver.posts] == ["/hook/s3cr3t-path"]
    assert Delivery.objects.get().answer.startswith(f"HTTP {status}: a redirect is not followed")


@pytest.mark.parametrize("way", ["hang", "trickle"])
def test_a_receiver_that_does_not_end_costs_a_bounded_time_and_once_for_all_its_messages(
    receiver: Receiver, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DEADLINE", 1.5)
    make_webhook(receiver.url())
    receiver.answers[:] = [getattr(receiver, way)]
    for number in range(5):
        offer(str(number))
    assert delivery.deliver() == POSTPONED
    assert len(receiver.posts) == 1
    assert sorted(Delivery.objects.values_list("attempts", "answer")) == [
        *[(0, "")] * 4,
        (1, "No answer within 2 s"),
    ]


def test_a_slow_receiver_keeps_no_other_from_its_messages(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "DEADLINE", 1.5)
    make_webhook(receiver.url(), name="slow")
    make_webhook(receiver.url(), name="quick")
    receiver.answers[:] = [receiver.hang]
    offer()
    assert delivery.deliver() == Delivered(sent=1, postponed=1)


def test_a_message_that_a_receiver_fails_on_keeps_back_no_other(receiver: Receiver) -> None:
    make_webhook(receiver.url())
    offer("bad")
    receiver.answers[:] = [500]
    assert delivery.deliver() == POSTPONED
    # The pause of the first message is over when another one comes.
    offer("good")
    Delivery.objects.update(due_at=timezone.now())
    receiver.answers[:] = [200, 500]
    assert delivery.deliver() == Delivered(sent=1, postponed=1)
    bad, good, again = (post.id for post in receiver.posts)
    assert bad == again != good


def test_messages_wait_for_a_receiver_that_fails_no_longer_than_after_a_first_attempt(receiver: Receiver) -> None:
    make_webhook(receiver.url())
    offer("1", minutes=24 * 60)
    offer("2", minutes=24 * 60)
    Delivery.objects.update(attempts=20)
    receiver.answers[:] = [500]
    assert delivery.deliver() == POSTPONED
    waiting, failed = Delivery.objects.order_by("attempts")
    assert (waiting.attempts, failed.attempts) == (20, 21)
    assert waiting.due_at <= timezone.now() + timedelta(seconds=30)
    assert failed.due_at > timezone.now() + timedelta(minutes=25)


def test_little_of_an_answer_is_read_and_kept(receiver: Receiver) -> None:
    make_webhook(receiver.url())
    offer()
    receiver.answers[:] = [500]
    receiver.text = "\x1b[31mx" * 500_000
    assert delivery.deliver() == POSTPONED
    answer = Delivery.objects.get().answer
    assert len(answer) < 200
    assert "\x1b" not in answer


def test_a_seat_is_not_offered_when_its_time_is_over(receiver: Receiver) -> None:
    make_webhook(receiver.url())
    offer()
    past = timezone.now() - timedelta(minutes=1)
    Notification.objects.update(useful_until=past)
    assert delivery.deliver() == GIVEN_UP
    assert receiver.posts == []
    assert Delivery.objects.get().answer == "Not sent in time"


def test_a_disabled_webhook_gets_nothing(receiver: Receiver) -> None:
    make_webhook(receiver.url())
    offer()
    Webhook.objects.update(enabled=False)
    assert delivery.deliver() == GIVEN_UP
    assert receiver.posts == []


def test_a_defect_in_one_message_keeps_back_no_other(receiver: Receiver) -> None:
    make_webhook(receiver.url())
    offer("1")
    Notification.objects.update(event=Event.LEASE_FORCED, facts={})
    offer("2")
    assert delivery.deliver() == Delivered(sent=1, postponed=1)


def test_a_webhook_needs_the_key_that_sealed_it(receiver: Receiver, settings: Any) -> None:
    make_webhook(receiver.url())
    offer()
    settings.SECRET_KEY = "another key of more than thirty-two characters"
    assert delivery.deliver() == POSTPONED
    assert Delivery.objects.get().answer == "SECRET_KEY has changed. Enter the address again."


def test_neither_the_address_nor_the_secret_is_in_the_log_or_in_a_row(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    _, secret = make_webhook(receiver.url())
    offer(minutes=24 * 60)
    receiver.answers[:] = [500, 302, receiver.hang]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webhooks, "DEADLINE", 1.0)
        for _ in range(3):
            assert delivery.deliver() == POSTPONED
            next_attempt()
    for port in (1, 2):
        webhooks.save(Webhook.objects.get(), url=f"http://{HOST}:{port}/hook/s3cr3t-path", by=SOMEBODY)
        assert delivery.deliver() == POSTPONED
        next_attempt()
    models = (Delivery, Notification, Webhook, AuditRecord)
    rows = str([row for model in models for row in model._default_manager.values()])
    for text in (caplog.text, rows):
        assert "s3cr3t-path" not in text
        assert secret not in text


# --- Which addresses --------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "ftp://hooks.example.com/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "hooks.example.com/x",
        "https://",
        "https://user:password@hooks.example.com/x",
        "https://hooks.example.com/x#fragment",
        "https://hooks.example.com:99999/x",
        "https://hooks.example.com/a b",
        "https://hooks.example.com\\@10.0.0.1/",
        "https://hooks.ex\u00e4mple.com/",
        "https://[::1/x",
        "http://localhost/x",
        "http://localhost./x",
        "http://127.0.0.1/x",
        "http://10.0.0.1/x",
        "http://192.168.1.1:8080/x",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/x",
        "http://[fd00::1]/x",
        "http://[fe80::1%25eth0]/x",
        "http://[::ffff:10.0.0.1]/x",
        "http://[::10.0.0.1]/x",
        "http://[64:ff9b::169.254.169.254]/x",
        "http://[64:ff9b:1::8.8.8.8]/x",
        "http://[2002:a00:1::1]/x",
        "http://[2001:0:a00:1:8000:63bf:f7f7:f7f7]/x",
        "http://[2001:0:808:808:8000:63bf:f5ff:fffe]/x",
        "http://[2606:4700:4700::5efe:10.0.0.1]/x",
        "http://[2606:4700:4700::200:5efe:169.254.169.254]/x",
        "http://[fec0::1]/x",
        "http://0.0.0.0/x",
        "http://224.0.0.1/x",
        "https://hooks.example.com/" + "x" * 2000,
    ],
)
def test_an_address_that_leads_astray_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        webhooks.check_url(url)


def test_a_public_address_is_accepted() -> None:
    assert webhooks.check_url("https://hooks.slack.com/services/T0/B0/x?y=z") == "hooks.slack.com"
    assert webhooks.check_url("https://8.8.8.8:8443/x") == "8.8.8.8"
    # A network without IPv4 reaches public IPv4 addresses so.
    for host in (
        "2606:4700:4700::1111",
        "64:ff9b::8.8.8.8",
        "::ffff:8.8.8.8",
        "2002:808:808::1",
        "2606:4700:4700::5efe:808:808",
    ):
        assert webhooks.check_url(f"https://[{host}]/x") == host


def test_the_setting_names_the_only_hosts(settings: Any) -> None:
    settings.LICENSE_WEBHOOK_HOSTS = ["chat.corp.example", ".internal.example", "10.0.0.7"]
    for url in ("https://chat.corp.example/x", "http://a.b.internal.example/x", "http://10.0.0.7:8065/x"):
        assert webhooks.check_url(url)
    for url in ("https://hooks.slack.com/x", "http://10.0.0.8/x", "http://localhost/x"):
        with pytest.raises(ValidationError):
            webhooks.check_url(url)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_that_means_a_private_address_is_not_called(
    scheme: str, receiver: Receiver, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LICENSE_WEBHOOK_HOSTS = []
    monkeypatch.setattr("urllib3.util.connection.socket.getaddrinfo", resolver_of(receiver))
    make_webhook(f"{scheme}://hooks.example.com/x")
    offer()
    assert delivery.deliver() == POSTPONED
    assert receiver.posts == []
    assert Delivery.objects.get().answer.startswith("The host has an address that is not public.")


def resolver_of(receiver: Receiver) -> Callable[..., Any]:
    """Return a resolver for which every name means this machine."""

    def resolve(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (HOST, receiver.port))]

    return resolve


# --- Forms of messages ------------------------------------------------------

HOSTILE = "<!channel> [x](http://evil.example) @all *b* `c` & ~"


def posted(receiver: Receiver, kind: WebhookKind, settings: Any) -> Any:
    settings.LICENSE_PUBLIC_URL = "https://licenses.example.com"
    make_webhook(receiver.url(), kind=kind)
    facts = {
        "items": [{"tool": "cad", "seats": 1}],
        "lease": "l-1",
        "host": HOSTILE,
        "ended_at": timezone.now(),
        "ended_by": "account root",
        "reason": HOSTILE,
    }
    later = timezone.now() + timedelta(days=1)
    outbox.record(Event.LEASE_FORCED, key="1", user="ana", tool="cad", useful_until=later, facts=facts)
    assert delivery.deliver() == SENT
    return receiver.posts[0].json


def test_slack_gets_a_text_without_mentions(receiver: Receiver, settings: Any) -> None:
    text = posted(receiver, WebhookKind.SLACK, settings)["text"]
    assert text.startswith("*Save your work: your lease of 1 seat of cad was ended by root*\nFor ana\n")
    assert "&lt;!channel&gt;" in text
    assert "<!" not in text
    assert "<https://licenses.example.com/yours/|Open the page>" in text


def test_mattermost_gets_markdown_without_mentions_and_links_of_users(receiver: Receiver, settings: Any) -> None:
    text = posted(receiver, WebhookKind.MATTERMOST, settings)["text"]
    assert text.startswith("**Save your work: your lease of 1 seat of cad was ended by root**\nFor ana\n")
    assert "@all" not in text
    assert "[x](" not in text
    assert "[Open the page](https://licenses.example.com/yours/)" in text


def test_teams_gets_an_adaptive_card(receiver: Receiver, settings: Any) -> None:
    message = posted(receiver, WebhookKind.TEAMS, settings)
    (attachment,) = message["attachments"]
    assert (message["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert card["body"][0]["text"] == "Save your work: your lease of 1 seat of cad was ended by root"
    assert {"title": "For", "value": "ana"} in card["body"][2]["facts"]
    assert card["actions"][0]["url"] == "https://licenses.example.com/yours/"
    assert "[x](" not in json.dumps(card)


@pytest.mark.parametrize("kind", [WebhookKind.SLACK, WebhookKind.TEAMS, WebhookKind.MATTERMOST])
def test_a_chat_gets_one_message_for_many_occasions(receiver: Receiver, kind: WebhookKind) -> None:
    make_webhook(receiver.url(), kind=kind)
    for number in range(20):
        offer(str(number), tool=f"tool{number}")
    assert delivery.deliver() == Delivered(sent=20)
    (post,) = receiver.posts
    assert "20 times" in post.body.decode()
    assert "tool19" in post.body.decode()


def test_a_program_gets_each_occasion(receiver: Receiver) -> None:
    make_webhook(receiver.url())
    for number in range(3):
        offer(str(number))
    assert delivery.deliver() == Delivered(sent=3)
    assert len({post.id for post in receiver.posts}) == 3


def test_a_message_has_no_link_if_the_server_does_not_know_its_address(settings: Any) -> None:
    settings.LICENSE_PUBLIC_URL = ""
    assert messages.address_of("/yours/") == ""
