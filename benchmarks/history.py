"""Measure the history on a site's past: rolling it up, the reports, what-if, forgetting.

``python -m benchmarks.history``: on a PostgreSQL of its own, or DATABASE_URL's,
or with ``--sqlite`` in a file.
"""

import argparse
import heapq
import os
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from . import stack

TOOLS = 20
TEAMS = 12
PEOPLE = 400
# Of a working day's borrows, by its hour.
BUSY = [1, 1, 1, 1, 1, 2, 6, 18, 34, 38, 36, 30, 20, 32, 36, 34, 26, 16, 8, 5, 4, 3, 2, 1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--leases", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=365, help="over which they are spread; 365")
    parser.add_argument("--sqlite", action="store_true", help="instead of PostgreSQL")
    options = parser.parse_args()
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="licenseserver-bench-")))
        if options.sqlite:
            os.environ |= {"DATABASE_URL": "", "LICENSE_DB_PATH": str(folder / "history.db")}
        elif "DATABASE_URL" not in os.environ:
            os.environ["DATABASE_URL"] = closing.enter_context(stack.postgres(folder / "postgres"))
        os.environ |= {
            # A big INSERT isn't what is measured.
            "DATABASE_STATEMENT_TIMEOUT": "0",
            "SECRET_KEY": secrets.token_urlsafe(48),
            "SECURE_SSL": "false",
            "DJANGO_SETTINGS_MODULE": "licenseserver.settings",
        }
        import django
        from django.core.management import call_command
        from django.db import connections

        django.setup()
        closing.callback(connections.close_all)
        call_command("migrate", verbosity=0)
        _say("filled", _timed(lambda: fill(options.leases, options.days)))
        return measure()


def fill(leases: int, days: int) -> str:
    """A past of engineers: busy on working days, idle at night, refused at noon."""
    from django.db import connection

    from licenses.models import Denial, Lease, Team, Tool

    chance = random.Random(7)  # noqa: S311 - the same past every time
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    tools = [
        Tool.objects.create(name=f"tool{number}", capacity=6 + 3 * number, seat_hour_price="1.5")
        for number in range(TOOLS)
    ]
    teams = [Team.objects.create(name=f"team{number}") for number in range(TEAMS)]
    refused: list[Denial] = []

    def borrowed() -> Iterator[Lease]:
        out: dict[int, list[datetime]] = {tool.pk: [] for tool in tools}
        for moment in moments(leases, days, midnight, chance):
            tool = chance.choices(tools, weights=[tool.capacity for tool in tools])[0]
            ends = out[tool.pk]
            while ends and ends[0] <= moment:
                heapq.heappop(ends)
            person = chance.randrange(PEOPLE)
            if len(ends) >= tool.capacity:
                refused.append(
                    Denial(tool=tool, user=f"user{person}", code="exhausted", first_at=moment, last_at=moment)
                )
                continue
            end = moment + timedelta(seconds=round(chance.expovariate(1 / 5400)) + 1)
            heapq.heappush(ends, end)
            yield Lease(
                tool=tool,
                user=f"user{person}",
                team=teams[person % TEAMS],
                project=f"project{person % 40}",
                borrowed_at=moment,
                ended_at=end,
                end_reason="returned",
            )

    batch: list[Lease] = []
    for lease in borrowed():
        batch.append(lease)
        if len(batch) == 20_000:
            Lease.objects.bulk_create(batch, batch_size=None if connection.vendor == "postgresql" else 1000)
            batch.clear()
    Lease.objects.bulk_create(batch)
    Denial.objects.bulk_create(refused)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return f"{Lease.objects.count()} leases, {len(refused)} refused, {days} days, {TOOLS} tools"


def moments(number: int, days: int, end: datetime, chance: random.Random) -> Iterator[datetime]:
    """So many moments, in their order, up to an hour of today."""
    hours = [end - timedelta(hours=back) for back in range(24 * days, -8, -1)]
    weights = [BUSY[hour.hour] * (1.0 if hour.weekday() < 5 else 0.1) for hour in hours]
    now = datetime.now(UTC)
    total = sum(weights)
    for hour, weight in zip(hours, weights, strict=True):
        here = round(number * weight / total)
        for second in sorted(chance.uniform(0, 3600) for _ in range(here)):
            moment = hour + timedelta(seconds=second)
            if moment < now:
                yield moment


def measure() -> int:
    """Tell how long each thing takes that people wait for."""
    from licenses.history import days, reports, retention, rollups, whatif
    from licenses.history.reports import Period, Span
    from licenses.models import DenialDay, HistoryMark, Lease, TeamHour, Tool, ToolHour, UsageDay

    year, month = Span.of_last_days(365), Span.of_last_days(30)
    tools = list(Tool.objects.order_by("name"))
    busiest = max(tools, key=lambda tool: tool.capacity)
    _say("rebuild", _timed(lambda: f"{rollups.rebuild()} days"))
    rows = [model.objects.count() for model in (ToolHour, TeamHour, UsageDay)]
    _say("", (0, "rows: {} of tools' hours, {} of teams', {} of usage by day".format(*rows)))

    def last_day() -> str:
        mark = HistoryMark.objects.get()
        HistoryMark.objects.update(rolled_up_until=mark.rolled_up_until - days.DAY)
        start = days.midnight(mark.rolled_up_until - days.DAY)
        for hours in (ToolHour, TeamHour):
            hours.objects.filter(hour__gte=start).delete()
        for dates in (UsageDay, DenialDay):
            dates.objects.filter(day__gte=start.date()).delete()
        return f"{rollups.roll_up()} day"

    _say("roll up a day", _timed(last_day))
    wanted: dict[str, Callable[[], Any]] = {
        "all tools, year by month": lambda: reports.utilization(tools=tools, span=year, period=Period.MONTH),
        "all tools, year by day": lambda: reports.utilization(tools=tools, span=year, period=Period.DAY),
        "one tool, month by hour": lambda: reports.utilization(tools=[busiest], span=month, period=Period.HOUR),
        "one tool, year by hour of week": lambda: reports.hours_of_week(tool=busiest, span=year),
        "usage, year by team": lambda: reports.usage(by=["team"], span=year),
        "usage, year by user and tool": lambda: reports.usage(by=["tool", "user"], span=year),
        "denials, year by day": lambda: reports.denials(by=["day"], span=year),
        "what-if, month, 5 capacities": lambda: whatif.replay(
            tool=busiest, capacities=range(busiest.capacity - 2, busiest.capacity + 3), span=month
        ),
        "what-if, year, 1 capacity": lambda: whatif.replay(tool=busiest, capacities=[busiest.capacity], span=year),
    }
    for name, report in wanted.items():
        _say(name, min(_timed(report) for _ in range(3)))
    half = Span.of_last_days(180).first
    _say("delete what is older than 180 days", _timed(lambda: f"{retention.delete(before=half).leases} leases"))
    _say("take names out of the rest", _timed(lambda: f"{retention.anonymize(before=month.last).leases} leases"))
    _say("", (0, f"{Lease.objects.count()} leases left"))
    return 0


def _timed(work: Callable[[], Any]) -> tuple[float, str]:
    start = time.perf_counter()
    done = work()
    return time.perf_counter() - start, done if isinstance(done, str) else ""


def _say(what: str, measured: tuple[float, str]) -> None:
    seconds, more = measured
    sys.stdout.write(f"{what:<36}{f'{seconds:8.2f} s' if seconds else '':<12}{more}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
