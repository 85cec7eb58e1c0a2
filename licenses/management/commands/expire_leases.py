"""Close expired leases and tickets, delete old keys and sessions, roll up finished days, and send notifications."""

import logging
import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, InterfaceError, close_old_connections

from licenses import database
from licenses.access import device_logins
from licenses.errors import Refusal
from licenses.history import rollups
from licenses.leases import expiry
from licenses.management.base import ServerCommand
from licenses.notifications import delivery, occasions
from licenses.notifications.courier import Courier
from licenses.signin import sessions

logger = logging.getLogger(__name__)

# The most days per round of --loop, so that the --alive file is touched often enough.
DAYS_A_ROUND = 31


class Command(ServerCommand):
    help = (
        "Close expired leases and queue tickets, delete expired sessions and old idempotency keys, roll up the "
        "history of finished days, and send notifications. Seats come free without it, but tables grow, reports are "
        "slow, and nobody gets a message. Several can run at once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--loop", action="store_true", help="repeat until SIGTERM or SIGINT")
        parser.add_argument(
            "--alive", type=Path, metavar="FILE", help="touch this file after each round of --loop, for health checks"
        )
        parser.add_argument(
            "--every", type=float, default=15, metavar="SECONDS", help="the pause between rounds of --loop; default: 15"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["every"] <= 0:
            raise CommandError("--every must be above 0 seconds.")
        if not options["loop"]:
            done = self._tidy()
            self.stdout.write(
                "{leases} lease(s), {tickets} ticket(s), {keys} key(s), {sessions} session(s), "
                "{days} day(s) rolled up".format(**done)
            )
            delivered = asdict(delivery.deliver())
            if any(delivered.values()):
                text = "notifications: {sent} sent, {postponed} postponed, {given_up} given up"
                self.stdout.write(text.format(**delivered))
            return
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        courier = Courier(every=options["every"])
        courier.start()
        while True:
            try:
                close_old_connections()
                done = self._tidy(at_most=DAYS_A_ROUND)
                logger.log(logging.INFO if any(done.values()) else logging.DEBUG, "tidied", extra={"facts": done})
                if done["notifications"]:
                    courier.wake()
                if options["alive"]:
                    options["alive"].touch()
            except (Refusal, DatabaseError, InterfaceError) as error:
                # The database may be back in the next round.
                logger.warning("Not tidied: %s", database.reason(error.__cause__ or error))
            if stopped.wait(options["every"]):
                courier.stop()
                return
            if not courier.is_alive:
                raise CommandError("The thread that sends notifications has ended; the log has the reason.")

    def _tidy(self, *, at_most: int | None = None) -> dict[str, int]:
        """Return the numbers of rows that were closed or deleted, of days that were rolled up, at most
        ``at_most``, and of new notifications."""
        done = asdict(expiry.tidy()) | {"notifications": occasions.look(), "sessions": sessions.delete_expired()}
        done |= {"logins": device_logins.forget_expired()}
        return done | {"days": rollups.roll_up(at_most=at_most)}
