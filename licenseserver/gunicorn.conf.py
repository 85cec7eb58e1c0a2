"""Settings of gunicorn, which ``python -m licenseserver`` starts."""

import gc
import io
import logging
import logging.config
import os
import pathlib
import re
import shutil
import signal
import sys
from typing import Any

# gunicorn runs this file by path, which puts this folder first instead of the project's.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "licenseserver.settings")

from licenseserver.environment import is_local, settings_or_exit

settings_or_exit()
from django.conf import settings  # noqa: E402
from gunicorn.glogging import Logger  # noqa: E402

from licenseserver import logs, private  # noqa: E402

# Configure logging now, so that errors before Django's start are events too.
logging.config.dictConfig(settings.LOGGING)
logging.captureWarnings(True)
# No line has its source, thread or process, so do not determine them
# (https://docs.python.org/3/howto/logging.html#optimization).
logging._srcfile = None
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
sys.excepthook = logs.uncaught


class ServerLog(Logger):
    """Send gunicorn's lines through our logging.

    For a request that it can't read, keep the fault and drop the request's text, which may
    contain credentials. For an address that it can't listen on, log one line.
    """

    cannot_listen = False

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True

    def warning(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        if str(msg).startswith("Invalid request from"):
            # A quotation of the request follows.
            msg, args = re.split(r"""b?['"]""", str(msg), maxsplit=1)[0].rstrip(": "), ()
        super().warning(msg, *args, **kwargs)

    def error(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        # gunicorn tries five times with two lines each, and logs another one at the end.
        if re.match("(Connection in use|Invalid address|Can't connect to|connection to .* failed)", str(msg)):
            if self.cannot_listen:
                return
            self.cannot_listen = True
            why = {"Connection in use": "is in use", "Invalid address": "is not an address of this machine"}
            said = why.get(str(msg).partition(":")[0], f"can't be used ({str(msg).rpartition('failed: ')[2]})")
            msg = "BIND: %s %s; trying for 5 s. Stop the server that listens there, or set BIND to another host:port."
            args = (settings.BIND, said)
        super().error(msg, *args, **kwargs)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(sys.exc_info()[1], BlockingIOError):
            # A client that stalls is no defect (licenseserver/workers.py).
            self.debug(msg, *args, **kwargs)
            return
        super().exception(msg, *(str(arg).partition("?")[0] for arg in args), **kwargs)


logger_class = ServerLog
loglevel = settings.LOG_LEVEL.lower()
bind = settings.BIND
workers = settings.WEB_CONCURRENCY

# Counters are in files that all workers share, one folder per server. Files of an
# earlier server would add wrong counts, so delete them, but only once: a HUP runs this
# file again in the same process.
if os.environ.get("LICENSESERVER_METRICS_OWNER") != str(os.getpid()):
    try:
        metrics_dir = private.metrics_folder(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
    except (OSError, private.NotPrivate) as error:
        sys.exit(f"licenseserver: PROMETHEUS_MULTIPROC_DIR can't be used: {error}")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
    os.environ["LICENSESERVER_METRICS_OWNER"] = str(os.getpid())
# The library reads the folder's variable on import.
from licenseserver import metric_files  # noqa: E402

metric_files.install()

# Load the application once, so that workers start fast and share memory.
preload_app = True
worker_class = "licenseserver.workers.Worker"
# For all but the calls that the loop answers (licenseserver/workers.py). With the leaders of batches they are 16,
# and each can hold a connection to the database.
threads = 12
timeout = 30
graceful_timeout = 25
keepalive = 5
# It would wait without a limit for a client that does not read.
sendfile = False
# Keep the heartbeat file of a worker in memory, so that it does not wait for a disk.
worker_tmp_dir = "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None  # noqa: S108
# A read-only container has no home directory for gunicorn's control socket.
control_socket_disable = True
limit_request_line = 4094
limit_request_fields = 100
limit_request_field_size = 8190
# Trust no header about the connection. gunicorn would trust local addresses and sockets.
# Django reads the header of TRUST_PROXY.
forwarded_allow_ips = ""
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}


def on_starting(server: Any) -> None:
    """Warn of insecure settings and of a database that can't be used, and seed the default tools if
    configured.

    A server with LICENSE_AUTH=open starts only on local addresses, unless
    LICENSE_OPEN_TO_NETWORK is set.
    """
    from django.core.management import call_command
    from django.db import DatabaseError, InterfaceError, connections

    from licenses import database, readiness
    from licenses.checks import (
        DEMO_KEY,
        OPEN,
        OPEN_TO_NETWORK,
        PUBLIC_KEY,
        READABLE,
        UNLIMITED,
        readable_databases,
        unlimited,
    )
    from licenses.errors import Refusal

    if settings.LICENSE_AUTH == "open":
        if not settings.LICENSE_OPEN_TO_NETWORK and not all(map(is_local, server.cfg.address)):
            sys.stderr.write(f"licenseserver: {OPEN_TO_NETWORK}\n")
            sys.exit(2)
        server.log.warning(OPEN)
    if settings.SECRET_KEY == DEMO_KEY:
        server.log.warning(PUBLIC_KEY)
    for path in readable_databases():
        server.log.warning(READABLE, path)
    if settings.LICENSE_DB_POOLER:
        try:
            if missing := unlimited():
                server.log.warning(UNLIMITED, ", ".join(missing))
        except DatabaseError:
            pass  # The next check reports it.
        finally:
            connections.close_all()
    readiness.share()
    if settings.LICENSE_DB_SEED:
        try:
            done = io.StringIO()
            call_command("seed", stdout=done)
            for line in done.getvalue().splitlines():
                server.log.info("Seeding: %s", line)
        except (DatabaseError, InterfaceError, Refusal) as error:
            server.log.critical("Can't seed (LICENSE_DB_SEED): %s", database.reason(error.__cause__ or error))
            sys.exit(2)
        finally:
            # Workers must not inherit the connection.
            connections.close_all()
    try:
        readiness.check(at_start=True)
    finally:
        connections.close_all()
    # Keep what all workers share out of garbage collection. Otherwise a worker that stops first
    # looks at all of it, and copies it (https://docs.python.org/3/library/gc.html#gc.freeze).
    gc.freeze()


# The signals of the master to stop workers, and of a terminal.
STOPPING = {signal.SIGTERM, signal.SIGQUIT}
master = os.getpid()


def pre_fork(server: Any, worker: Any) -> None:
    """Block the signals that stop a worker until it handles them.

    Before that it has the master's handlers, which would drop a signal, so that the
    worker would be killed only after ``graceful_timeout``.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def forked() -> None:
    if os.getpid() == master:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


os.register_at_fork(after_in_parent=forked)


def post_worker_init(worker: Any) -> None:
    """Handle the signals, also those that arrived meanwhile."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def post_fork(server: Any, worker: Any) -> None:
    """Leave Ctrl-C to the master, which stops the workers.

    A terminal sends it to every process. A worker that gets both signals at once can
    deadlock in gunicorn's handler and is killed only after ``graceful_timeout``. Block the
    signal here, because gunicorn sets its handler before the worker is ready.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # gunicorn would refuse requests without the path, such as probes. wsgi.py accepts both.
    os.environ.pop("SCRIPT_NAME", None)
    logs.start_thread()
    from licenses import metrics
    from licenseserver.workers import LEADERS

    metrics.worker_started(worker.cfg.threads + LEADERS)
    if settings.TRACING:
        from licenseserver import tracing

        worker.stop_tracing = tracing.start()


def worker_exit(server: Any, worker: Any) -> None:
    """Send the last traces."""
    if settings.TRACING and hasattr(worker, "stop_tracing"):
        worker.stop_tracing()


def child_exit(server: Any, worker: Any) -> None:
    """Drop the live gauges and the connections of a worker that is gone."""
    from prometheus_client import multiprocess

    from licenseserver import workers

    multiprocess.mark_process_dead(worker.pid)
    workers.gone(worker.age)


def on_exit(server: Any) -> None:
    """Delete the metrics folder if this server created it."""
    folder = pathlib.Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    if private.is_own_folder(folder):
        shutil.rmtree(folder, ignore_errors=True)
