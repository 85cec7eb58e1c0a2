"""Several sweepers at once, and one that dies: each message reaches its receiver."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import commands
from tests.support.databases import migrated_database
from tests.support.paths import ROOT
from tests.support.receivers import HOST, MailServer, Receiver, running_mail_server, running_receiver
from tests.support.servers import server_environment
from tests.support.waiting import until

TOOLS = 25


class Site:
    """A database with people and a webhook, and what sweepers of it send."""

    def __init__(self, environment: dict[str, str], receiver: Receiver, mail_server: MailServer) -> None:
        self.environment = environment
        self.receiver = receiver
        self.mail_server = mail_server

    def run(self, code: str) -> Any:
        """Run code with the server's settings; return what it prints, as JSON."""
        printed = commands.output("shell", "--verbosity", "0", "--command", code, environment=self.environment)
        return json.loads(printed) if printed else None

    def sweep(self) -> str:
        """Run the sweeper once; return what it prints."""
        return commands.output("expire_leases", environment=self.environment)

    @contextmanager
    def sweeping(self, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Provide a sweeper that goes round and round."""
        sweeper = subprocess.Popen(
            [sys.executable, "manage.py", "expire_leases", "--loop", "--every", "0.2", *arguments],
            cwd=ROOT,
            env=self.environment,
        )
        try:
            yield sweeper
        finally:
            if sweeper.poll() is None:
                sweeper.send_signal(signal.SIGTERM)
                sweeper.wait(60)

    def deliveries(self) -> Any:
        return self.run(
            "import json; from licenses.models import Delivery\n"
            "print(json.dumps(list(Delivery.objects.order_by('pk').values_list('state', 'attempts'))))"
        )


SETUP = f"""
from datetime import timedelta
from django.contrib.auth.models import User
from django.utils import timezone
from licenses.auditing import Actor
from licenses.models import Tool, Webhook
from licenses.notifications import webhooks
User.objects.create_superuser("root", "root@example.com")
for number in range({TOOLS}):
    Tool.objects.create(name=f"tool{{number}}", capacity=1, valid_until=timezone.now() + timedelta(days=3))
webhook = Webhook(name="program", events=["license_ends"])
webhooks.save(webhook, url="ADDRESS", by=Actor.of_command("test"))
"""


# A month has ended since the last look, and root wants its costs.
MONTH = """
from datetime import timedelta
from django.contrib.auth.models import User
from django.utils import timezone
from licenses.models import Sweep
from licenses.notifications import preferences
root = User.objects.get(username="root")
preferences.choose(root, wanted={*preferences.choices_of(root).wanted, ("month_costs", None)})
now = timezone.now()
Sweep.objects.update_or_create(pk=1, defaults={"finished_at": now, "looked_at": now - timedelta(days=40)})
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with migrated_database(tmp_path) as database, running_receiver() as receiver, running_mail_server() as mail_server:
        environment = server_environment(tmp_path, database, 0) | {
            "LICENSE_WEBHOOK_HOSTS": HOST,
            "LICENSE_EMAIL_HOST": HOST,
            "LICENSE_EMAIL_PORT": str(mail_server.port),
            "LICENSE_EMAIL_TLS": "off",
            "LICENSE_EMAIL_FROM": "licenses@example.com",
            "NO_PROXY": "*",
        }
        site = Site(environment, receiver, mail_server)
        site.run(SETUP.replace("ADDRESS", receiver.url()))
        yield site


def test_several_sweepers_send_each_message_once(site: Site) -> None:
    site.run(MONTH)
    with ExitStack() as sweepers:
        running = [sweepers.enter_context(site.sweeping()) for _ in range(3)]
        site.receiver.wait_for(TOOLS)
        until(
            lambda: all(state == "sent" for state, _ in site.deliveries()),
            otherwise=lambda: str(site.deliveries()),
        )
    assert [sweeper.returncode for sweeper in running] == [0, 0, 0]
    assert sorted(post.json["data"]["tool"] for post in site.receiver.posts) == sorted(
        f"tool{number}" for number in range(TOOLS)
    )
    assert len({post.id for post in site.receiver.posts}) == TOOLS
    # A mail for those that one sweeper found due together, and one with the costs of the month.
    assert site.deliveries() == [["sent", 1]] * (2 * TOOLS + 1)
    assert {mail["To"] for mail in site.mail_server.mails} == {"root@example.com"}
    (costs,) = [mail for mail in site.mail_server.mails if mail["Subject"].startswith("Costs in ")]
    assert len(list(costs.iter_attachments())) == 3


def test_another_sweeper_sends_what_a_killed_one_had_begun_to_send(site: Site) -> None:
    site.receiver.answers[:] = [site.receiver.hang]
    with site.sweeping() as sweeper:
        site.receiver.wait_for(1)
        sweeper.kill()
        sweeper.wait(60)
    interrupted = site.receiver.posts[0].id
    site.receiver.released.set()
    # The claim of the dead one holds, for its answer may still come.
    site.sweep()
    assert [post.id for post in site.receiver.posts].count(interrupted) == 1
    assert [attempts for state, attempts in site.deliveries() if state == "waiting"] == [1]
    site.run(
        "from django.utils import timezone; from licenses.models import Delivery\n"
        "Delivery.objects.waiting().update(due_at=timezone.now())"
    )
    assert "notifications: 1 sent, 0 postponed, 0 given up" in site.sweep()
    assert [post.id for post in site.receiver.posts].count(interrupted) == 2
    assert {state for state, _ in site.deliveries()} == {"sent"}


def test_a_receiver_that_hangs_delays_no_sweep(site: Site, tmp_path: Path) -> None:
    site.receiver.answers[:] = [site.receiver.hang]
    alive = tmp_path / "alive"
    with site.sweeping("--alive", str(alive)) as sweeper:
        site.receiver.wait_for(1)
        until(alive.exists, otherwise="no round ended")
        alive.unlink()
        until(alive.exists, otherwise="no round ended while the receiver was silent")
        site.receiver.released.set()
    assert sweeper.returncode == 0
