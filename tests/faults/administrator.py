"""The administrators of the site, who change it while everybody works.

Runs as a process of its own, which reads one change a line from standard input
and calls the services that the admin's pages call. ``python -m
tests.faults.administrator`` needs the server's environment.
"""

import contextlib
import json
import sys
from datetime import timedelta
from typing import Any

import django


def main() -> None:
    """Carry out changes until standard input ends; one line of JSON for each."""
    django.setup()
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"changed": change(**json.loads(line))}
        except Exception as error:  # noqa: BLE001 - the harness counts it as unknown
            answer = {"error": f"{type(error).__name__}: {error}"}
            _forget_connection()
        print(json.dumps(answer), flush=True)


def change(*, what: str, **values: Any) -> bool:
    """Make one change in one transaction; whether anything is different now."""
    from django.db import transaction

    from licenses import auditing, rationing
    from licenses.auditing import Actor
    from licenses.clock import database_now
    from licenses.models import Allotment, Team, Tool

    by = Actor.of_command("faults")
    if what == "allot":
        team = Team.objects.get(name=values["team"])
        share = rationing.Allowance(quota=values["quota"], reservation=values["reservation"])
        # Nobody else changes it: what is read here is what the service finds.
        allotment = Allotment.objects.get(tool__name=values["tool"], team=team)
        rationing.allot(tool=values["tool"], allowances={team: share}, by=by)
        return (allotment.quota, allotment.reservation) != (share.quota, share.reservation)
    with transaction.atomic():
        tool = Tool.objects.locked([values["tool"]]).get()
        if what == "capacity":
            if tool.capacity == values["seats"]:
                return False
            tool.capacity, field = values["seats"], "capacity"
            previous = None
        else:
            seconds = values["seconds"]
            if tool.valid_until is None and seconds is None:
                return False
            previous = tool.valid_until
            tool.valid_until = None if seconds is None else database_now() + timedelta(seconds=seconds)
            field = "valid_until"
        with auditing.changing(tool, by=by):
            tool.save(update_fields=[field])
        if field == "valid_until":
            expiry.follow_validity(tool=tool.name, previous=previous)
    return True


def _forget_connection() -> None:
    from django.db import connection

    # It is broken, and a new one is made.
    with contextlib.suppress(Exception):
        connection.close()


if __name__ == "__main__":
    main()
