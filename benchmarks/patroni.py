"""Three PostgreSQLs under Patroni on this machine, with etcd and HAProxy, to be killed and thrown away.

The programs ``patroni``, ``etcd`` and ``haproxy`` are the system's (Debian has all
three); those of PostgreSQL come with the wheel of the tests.
"""

import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from .clusters import DATABASE, PROGRAMS, USER, own_folder, wait_for
from .ports import free_port

NAMES = ("one", "two", "three")
# What Patroni itself calls in the database.
PASSWORD = "known-to-this-machine-alone"  # noqa: S105


@dataclass
class Node:
    """One PostgreSQL and the Patroni that starts, watches and promotes it."""

    name: str
    folder: Path
    etcd: int
    # In seconds: how long a leader is one after its last sign of life, how often
    # Patroni looks, and how long it tries again what fails.
    ttl: int
    loop_wait: int
    retry_timeout: int
    port: int = field(default_factory=free_port)
    rest: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        own_folder(self.folder)
        file = self.folder / "patroni.json"
        # JSON is YAML too.
        file.write_text(json.dumps(self._configuration()))
        if USER:
            shutil.chown(file, USER, USER)

    def _configuration(self) -> dict[str, object]:
        return {
            "scope": "licenses",
            "name": self.name,
            "etcd3": {"host": f"127.0.0.1:{self.etcd}"},
            "restapi": {"listen": f"127.0.0.1:{self.rest}", "connect_address": f"127.0.0.1:{self.rest}"},
            "bootstrap": {
                "dcs": {
                    "ttl": self.ttl,
                    "loop_wait": self.loop_wait,
                    "retry_timeout": self.retry_timeout,
                    "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True},
                },
                "initdb": [{"encoding": "UTF8"}],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}",
                "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": str(self.folder / "data"),
                "bin_dir": str(PROGRAMS),
                "pgpass": str(self.folder / "pgpass"),
                "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                "parameters": {"unix_socket_directories": "", "log_min_messages": "fatal"},
                "authentication": {
                    role: {"username": user, "password": PASSWORD}
                    for role, user in {"superuser": "postgres", "replication": "replicator"}.items()
                },
            },
        }

    def start(self) -> None:
        """Start Patroni, which starts PostgreSQL as what it is to be."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["patroni", str(self.folder / "patroni.json")],
                user=USER,
                cwd="/",
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """End Patroni and PostgreSQL at once, as a machine that loses its power does."""
        postmaster = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        if self.process is not None:
            self.process.kill()
        os.kill(postmaster, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(30)
            self.process = None

    def stop(self) -> None:
        """End both in order."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def says(self, role: str) -> bool:
        """Whether it takes itself for the ``primary``, a ``replica``, a
        ``synchronous`` one: what HAProxy asks, too."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.rest}/{role}", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def hand_over(self, to: "Node") -> None:
        """A planned switchover; returns when Patroni says that it is done."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.rest}/switchover",
            json.dumps({"leader": self.name, "candidate": to.name}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60):  # noqa: S310 - loopback
            pass

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{DATABASE}"


@dataclass
class Managed:
    """The nodes, of which one is the primary."""

    nodes: list[Node]

    @property
    def url(self) -> str:
        """Of whichever takes writes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://postgres@{hosts}/{DATABASE}?target_session_attrs=read-write&connect_timeout=2"

    def primary(self) -> Node:
        """Waits until there is one."""
        wait_for(lambda: any(node.says("primary") for node in self.nodes), "a primary", 120)
        return next(node for node in self.nodes if node.says("primary"))

    def heir(self) -> Node:
        """The synchronous standby; waits until there is one."""
        wait_for(lambda: any(node.says("synchronous") for node in self.nodes), "a synchronous standby", 120)
        return next(node for node in self.nodes if node.says("synchronous"))


def missing() -> list[str]:
    """Of the programs that are needed, those that aren't here."""
    return [program for program in ("patroni", "etcd", "haproxy") if _program(program) is None]


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def managed(folder: Path, *, ttl: int, loop_wait: int, retry_timeout: int) -> Iterator[Managed]:
    """Three nodes in synchronous mode, with an empty database, and their end."""
    client, peer = free_port(), free_port()
    own_folder(folder / "etcd")
    nodes: list[Node] = []
    with (folder / "etcd.log").open("ab") as log:
        etcd = subprocess.Popen(
            [
                "etcd",
                *("--data-dir", str(folder / "etcd" / "data")),
                *("--listen-client-urls", f"http://127.0.0.1:{client}"),
                *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
                *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
                *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
                *("--initial-cluster", f"default=http://127.0.0.1:{peer}"),
            ],
            user=USER,
            cwd="/",
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        for name in NAMES:
            node = Node(name, folder / name, client, ttl, loop_wait, retry_timeout)
            node.start()
            nodes.append(node)
        cluster = Managed(nodes)
        with psycopg.connect(cluster.primary().url.replace(DATABASE, "postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        wait_for(lambda: sum(node.says("replica") for node in nodes) == len(NAMES) - 1, "the standbys", 120)
        cluster.heir()
        yield cluster
    finally:
        # The primary last, or one after the other becomes it.
        for node in sorted(nodes, key=lambda node: node.says("primary")):
            node.stop()
        etcd.terminate()
        etcd.wait(30)


@contextmanager
def balanced(folder: Path, cluster: Managed) -> Iterator[str]:
    """The URL of an HAProxy that leads to the primary, as Patroni's manual has it."""
    port = free_port()
    servers = [
        f"  server {node.name} 127.0.0.1:{node.port} maxconn 100 check port {node.rest}" for node in cluster.nodes
    ]
    (folder / "haproxy.cfg").write_text(
        "\n".join(
            [
                "global",
                "  maxconn 1000",
                "defaults",
                "  mode tcp",
                "  timeout connect 4s",
                "  timeout client 30m",
                "  timeout server 30m",
                "  timeout check 5s",
                "listen primary",
                f"  bind 127.0.0.1:{port}",
                "  option httpchk GET /primary",
                "  http-check expect status 200",
                "  default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions",
                *servers,
                "",
            ]
        )
    )
    with (folder / "haproxy.log").open("ab") as log:
        process = subprocess.Popen(
            [str(_program("haproxy")), "-db", "-f", str(folder / "haproxy.cfg")], stdout=log, stderr=subprocess.STDOUT
        )
    url = f"postgresql://postgres@127.0.0.1:{port}/{DATABASE}?connect_timeout=2"
    try:
        # Until a node's first check HAProxy takes it for a primary; it asks them in turn.
        wait_for(lambda: all(_leads_to_primary(url) for _ in range(3 * len(NAMES))), "HAProxy")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _leads_to_primary(url: str) -> bool:
    try:
        psycopg.connect(url, target_session_attrs="read-write").close()
    except psycopg.OperationalError:
        return False
    return True
