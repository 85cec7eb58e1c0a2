#!/usr/bin/env python
"""Django's command line for the license server."""

import os
import sys


def main() -> None:
    """Run a management command. A wrong setting or an unusable database ends it with one line and exit
    code 2."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "licenseserver.settings")
    from licenseserver import logs
    from licenseserver.environment import settings_or_exit

    settings_or_exit()
    sys.excepthook = logs.uncaught
    # A command has no counters to share with the server's workers.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    from django.core.management import execute_from_command_line
    from django.db import DatabaseError, InterfaceError

    from licenses import database
    from licenses.errors import Refusal

    try:
        execute_from_command_line(sys.argv)
    except (DatabaseError, InterfaceError, Refusal) as error:
        cause = error.__cause__ if isinstance(error, Refusal) and error.__cause__ else error
        is_defect = isinstance(cause, (DatabaseError, InterfaceError)) and database.fault(cause) is None
        if "--traceback" in sys.argv or is_defect:
            raise
        sys.stderr.write(f"licenseserver: the database can't be used: {database.reason(cause)}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
