"""Send notifications by mail (SMTP)."""

import smtplib
from collections.abc import Sequence
from email.utils import parseaddr

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.urls import reverse

from licenses.models import Event, Notification

from . import messages, month_costs
from .attempts import Attempt


def send(address: str, notifications: Sequence[Notification], *, message_id: str) -> Attempt:
    """Mail notifications of one event to one address, as one message. The costs of a month are one notification.

    ``message_id`` is the same at each attempt, so that a mail server can drop a repeated message. An attempt
    ends ``EMAIL_TIMEOUT`` seconds after the server last answered.
    """
    costs = None
    if notifications[0].event == Event.MONTH_COSTS:
        (notification,) = notifications
        try:
            costs = month_costs.report(notification, address)
        except month_costs.Withdrawn as why:
            return Attempt(False, str(why), is_withdrawn=True)
    message = costs.message if costs else messages.write_all(notifications)
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2]
    mail = EmailMultiAlternatives(
        subject=message.title,
        body=body(message, tables=costs.text() if costs else ""),
        to=[address],
        connection=get_connection(),
        # No vacation notice answers an automatic message (RFC 3834).
        headers={"Message-ID": f"<{message_id}@{domain}>", "Auto-Submitted": "auto-generated"},
    )
    if costs:
        mail.attach_alternative(costs.html(preferences_page()), "text/html")
        for name, table in costs.files.items():
            mail.attach(name, table, "text/csv")
    try:
        mail.send()
    except smtplib.SMTPRecipientsRefused as refused:
        code, _ = next(iter(refused.recipients.values()))
        return Attempt(False, reason(refused), is_final=code >= 500)
    except (OSError, smtplib.SMTPException) as error:
        return Attempt(False, reason(error), is_of_channel=True)
    return Attempt(True, f"Accepted by {settings.EMAIL_HOST}")


def reason(error: OSError | smtplib.SMTPException) -> str:
    """Return why a mail was not sent: the answer of the mail server, or what kept the connection."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, text = next(iter(error.recipients.values()))
        return f"{code} {_readable(text)}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_readable(error.smtp_error)}"
    return f"{settings.EMAIL_HOST}: {error}"


def _readable(text: bytes | str) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def preferences_page() -> str:
    """Return the public address of the page on which people choose what they get, or ''."""
    return messages.address_of(reverse("board_notifications"))


def body(message: messages.Message, *, tables: str = "") -> str:
    """Return the text of a mail."""
    # Without columns, because many mail programs have a proportional font.
    facts = "\n".join(f"{name}: {value}" for name, value in message.facts)
    preferences = preferences_page()
    why = f"Choose which messages you get: {preferences}" if preferences else ""
    footer = "\n".join(["-- ", "Sent by the license server.", *filter(None, [why])])
    # The sums of tables come first, and their explanation after them, as in HTML.
    first = [facts, message.text] if tables else [message.text, facts]
    return "\n\n".join(filter(None, [*first, tables, message.url, footer])) + "\n"
