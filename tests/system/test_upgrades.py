"""Upgrade under load: old and new code on one database, through every migration."""

import io
import itertools
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from django.db import connection

from benchmarks.ports import free_port
from tests.support.databases import LOCK_WAITS, empty_database
from tests.support.paths import ROOT
from tests.support.servers import Server, server_environment
from tests.support.waiting import PATIENCE

MIGRATIONS = sorted(path.stem for path in (ROOT / "licenses" / "migrations").glob("[0-9]*.py"))
PEOPLE = 4
# Of the versions before these neither code nor migrations change.
NEWEST = 4
# In one process, because each takes a second to start.
MIGRATE = """
from django.core.management import call_command

for target in targets:
    call_command("migrate", *target, verbosity=0)
"""


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def has_history() -> bool:
    """Return whether this is a full clone with the old commits."""
    try:
        return git("rev-parse", "--is-shallow-repository").strip() == b"false"
    except (OSError, subprocess.CalledProcessError):
        return False


def migrations_at(commit: str) -> list[str]:
    names = git("ls-tree", "--name-only", commit, "licenses/migrations/").decode()
    return sorted(re.findall(r"/(\d{4}_\w+)\.py", names))


def version_with(number: int) -> str | None:
    """Return the newest commit that has the first so many migrations and no others, if
    there is one: some came together, and one was numbered anew."""
    path = f"licenses/migrations/{MIGRATIONS[number]}.py"
    added = git("log", "--first-parent", "--diff-filter=A", "--format=%H", "--", path).decode().split()
    # Uncommitted code comes last.
    newest = f"{added[-1]}~1" if added else "HEAD"
    for commit in git("rev-list", "--first-parent", "--max-count=50", newest).decode().split():
        if migrations_at(commit) == MIGRATIONS[:number]:
            return commit
    return None


def versions() -> list[str | None]:
    """Return the commits of the newest versions that brought migrations, the oldest first; None is the
    code as it is here."""
    found = filter(None, map(version_with, range(len(MIGRATIONS) - 1, 0, -1)))
    return [*reversed(list(itertools.islice(found, NEWEST))), None]


def code_of(commit: str | None, folder: Path) -> Path:
    """Return the code of a commit, unpacked."""
    if commit is None:
        return ROOT
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit))) as archive:
        archive.extractall(folder, filter="data")
    return folder


@dataclass
class Work:
    """People who borrow and return all the time, at whichever replica is live."""

    live: list[Server]
    step: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[str, int]] = field(default_factory=list)
    borrowed: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    rounds: list[int] = field(default_factory=lambda: [0] * PEOPLE)
    turns: Iterator[int] = field(default_factory=itertools.count)

    def go_on(self, person: int) -> None:
        while not self.stopped.is_set():
            try:
                lease = self.ask("borrow", {"tool": "cad_tool", "user": f"user{person}"})["id"]
                self.borrowed.append(lease)
                self.ask("return", {"id": lease})
            except (httpx.HTTPError, KeyError, ValueError) as error:
                self.failures.append(repr(error))
            self.rounds[person] += 1
            # Leaves some of the processor to servers that start.
            self.stopped.wait(0.1)

    def ask(self, call: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.send(call, body)
        self.answers.append((call, answer.status_code))
        if answer.status_code != 200:
            self.failures.append(answer.text)
        told: dict[str, Any] = answer.json()
        return told

    def send(self, call: str, body: dict[str, Any]) -> httpx.Response:
        # As a load balancer does, each request goes to the next one.
        replicas = self.live
        server = replicas[next(self.turns) % len(replicas)]
        return httpx.post(f"{server.url}/licenses/{call}", json=body, timeout=PATIENCE)

    def wait_for_rounds(self, number: int) -> None:
        """Until everybody has begun and finished so many more."""
        wanted = [done + number for done in self.rounds]
        while any(done < least for done, least in zip(self.rounds, wanted, strict=True)):
            assert not self.failures, (self.step, self.failures)
            assert not self.stopped.wait(0.01)


@contextmanager
def work(server: Server) -> Iterator[Work]:
    going_on = Work([server])
    threads = [threading.Thread(target=going_on.go_on, args=(person,)) for person in range(PEOPLE)]
    for thread in threads:
        thread.start()
    try:
        yield going_on
    finally:
        going_on.stopped.set()
        for thread in threads:
            thread.join()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="replicas share a PostgreSQL")
@pytest.mark.skipif(not has_history(), reason="needs the whole history of the repository")
def test_nobody_notices_an_upgrade(tmp_path: Path) -> None:
    """From version to version, with one database, while people work."""
    with empty_database(tmp_path) as database, ExitStack() as closing:

        def migrate(number: int) -> None:
            # Use today's command, because older versions do not have it.
            environment = server_environment(tmp_path, database, 0)
            targets = [["auth"], ["admin"], ["sessions"], ["licenses", MIGRATIONS[number - 1]]]
            command = [sys.executable, "manage.py", "shell", "-v", "0", "-c", f"targets = {targets}\n{MIGRATE}"]
            subprocess.run(command, cwd=ROOT, env=environment, check=True)

        def replica(version: str | None) -> Server:
            folder = tmp_path / (version or "here")
            folder.mkdir()
            code = code_of(version, folder / "code")
            port = free_port()
            environment = server_environment(folder, database, port) | {"WEB_CONCURRENCY": "2"}
            server = Server(f"http://127.0.0.1:{port}", environment, folder / "server.log", code=code)
            closing.callback(server.stop)
            server.start()
            return server

        first, *later = versions()
        assert first
        assert len(later) == NEWEST
        before = len(migrations_at(first))
        migrate(before)
        leaving = replica(first)
        with work(leaving) as people:
            people.wait_for_rounds(5)
            kept = people.ask("borrow", {"tool": "cad_tool", "user": "kept"})["id"]
            for version in later:
                after = len(migrations_at(version)) if version else len(MIGRATIONS)
                people.step = f"from {MIGRATIONS[before - 1]} to {MIGRATIONS[after - 1]}"
                # First the migrations, while only old code runs; then both.
                migrate(after)
                people.wait_for_rounds(5)
                arriving = replica(version)
                people.live = [leaving, arriving]
                people.wait_for_rounds(5)
                people.live = [arriving]
                # Wait until no call is pending.
                people.wait_for_rounds(2)
                leaving.stop()
                before, leaving = after, arriving
            people.wait_for_rounds(5)
            people.ask("return", {"id": kept})
        assert people.failures == []
        assert {status for _, status in people.answers} == {200}
        with psycopg.connect(database["DATABASE_URL"]) as rows:
            ended = rows.execute("SELECT id::text FROM licenses_lease WHERE ended_at IS NOT NULL").fetchall()
            assert sorted(lease for (lease,) in ended) == sorted([*people.borrowed, kept])
            assert rows.execute("SELECT sum(in_use) FROM licenses_tool").fetchone() == (0,)
            last = rows.execute("SELECT max(name) FROM django_migrations WHERE app = 'licenses'").fetchone()
            assert last == (MIGRATIONS[-1],)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="a request is held up by a row lock")
def test_a_stopping_server_answers_the_requests_that_it_has_begun(server: Server) -> None:
    answers: list[httpx.Response] = []
    with psycopg.connect(server.environment["DATABASE_URL"]) as lock:
        lock.execute("SELECT * FROM licenses_tool WHERE name = 'cad_tool' FOR UPDATE")
        body = {"tool": "cad_tool", "user": "ana"}
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{server.url}/licenses/borrow", json=body, timeout=30))
        )
        asking.start()
        with psycopg.connect(server.environment["DATABASE_URL"], autocommit=True) as watching:
            while watching.execute(LOCK_WAITS).fetchone() == (0,):
                assert asking.is_alive()
        assert server.process is not None
        server.process.terminate()
        while "Handling signal: term" not in server.log.read_text():
            assert asking.is_alive()
        assert server.process.poll() is None
        lock.rollback()
    asking.join()
    assert server.process.wait(30) == 0
    (answer,) = answers
    assert answer.status_code == 200
    with psycopg.connect(server.environment["DATABASE_URL"]) as rows:
        found = rows.execute("SELECT id::text FROM licenses_lease WHERE ended_at IS NULL").fetchall()
    assert found == [(answer.json()["id"],)]


@pytest.fixture
def unmigrated(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Provide the variables of a server whose database lacks the last migrations."""
    with empty_database(tmp_path) as database:
        environment = server_environment(tmp_path, database, 0)
        command = [sys.executable, "manage.py", "migrate", "--verbosity", "0", "licenses", MIGRATIONS[3]]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        yield environment


def migrating(environment: dict[str, str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite locks the whole database")
def test_a_migration_lets_others_pass_while_a_table_is_in_use(unmigrated: dict[str, str]) -> None:
    with psycopg.connect(unmigrated["DATABASE_URL"]) as dump, migrating(unmigrated) as migration:
        dump.execute("SELECT count(*) FROM licenses_lease")
        assert migration.stderr is not None
        while "A table is in use. Trying again." not in migration.stderr.readline():
            assert migration.poll() is None
        with psycopg.connect(unmigrated["DATABASE_URL"]) as people:
            # Longer than a migration delays a call.
            people.execute("SET statement_timeout = '20s'")
            people.execute("UPDATE licenses_tool SET in_use = in_use")
        dump.rollback()
        assert migration.wait(60) == 0, migration.stderr.read()
    with psycopg.connect(unmigrated["DATABASE_URL"]) as rows:
        done = rows.execute("SELECT name FROM django_migrations WHERE app = 'licenses' ORDER BY name").fetchall()
        assert [name for (name,) in done] == MIGRATIONS


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite makes no index concurrently")
def test_an_unfinished_index_is_created_again(unmigrated: dict[str, str]) -> None:
    with psycopg.connect(unmigrated["DATABASE_URL"]) as rows:
        rows.execute("CREATE INDEX lease_by_end ON licenses_lease (id)")
        # As PostgreSQL leaves it when CREATE INDEX CONCURRENTLY is interrupted.
        rows.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'lease_by_end'::regclass")
    with migrating(unmigrated) as migration:
        assert migration.wait(60) == 0
    with psycopg.connect(unmigrated["DATABASE_URL"]) as rows:
        found = rows.execute(
            "SELECT pg_get_indexdef(indexrelid), indisvalid FROM pg_index WHERE indexrelid = 'lease_by_end'::regclass"
        ).fetchone()
    assert found is not None
    assert "(ended_at) WHERE (ended_at IS NOT NULL)" in found[0]
    assert found[1]


# Migrates step by step, and prints what each step made PostgreSQL write anew under a lock.
REWRITTEN = """
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

def files():
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname, relfilenode FROM pg_class WHERE relkind IN ('r', 'i')"
                       " AND relnamespace = 'public'::regnamespace")
        return dict(cursor.fetchall())

for migration in migrations:
    before = files()
    with CaptureQueriesContext(connection) as statements:
        call_command("migrate", "licenses", migration, verbosity=0)
    online = [one["sql"] for one in statements if one["sql"].startswith("CREATE INDEX CONCURRENTLY")]
    after = files()
    for name in before:
        if after.get(name, before[name]) != before[name] and not any(f'"{name}"' in sql for sql in online):
            print(migration, name)
"""


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite locks the whole database")
def test_no_migration_makes_people_wait_for_a_table_or_an_index_to_be_copied(unmigrated: dict[str, str]) -> None:
    command = [sys.executable, "manage.py", "shell", "-v", "0", "-c", f"migrations = {MIGRATIONS[4:]}\n{REWRITTEN}"]
    done = subprocess.run(command, cwd=ROOT, env=unmigrated, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(connection.vendor != "postgresql", reason="one server has the SQLite file")
def test_two_migrations_at_once_take_turns(unmigrated: dict[str, str]) -> None:
    with migrating(unmigrated) as one, migrating(unmigrated) as other:
        assert (one.wait(60), other.wait(60)) == (0, 0)
