#!/usr/bin/env python
"""Django's command line for the license server."""

import os
import sys


def main() -> None:
    """Run one management command; a wrong setting ends it with one line."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "licenseserver.settings")
    from licenseserver import logs
    from licenseserver.environment import settings_or_exit

    settings_or_exit()
    sys.excepthook = logs.uncaught
    # The server's workers share their counters there; a command has none to share.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
