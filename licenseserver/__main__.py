"""Serve with gunicorn and gunicorn.conf.py: ``python -m licenseserver``."""

import os
import sys
from pathlib import Path

from licenseserver.environment import settings_or_exit


def main() -> None:
    """Serve until a signal stops it. A wrong setting ends it with one line.

    Load the settings before gunicorn, which reads WEB_CONCURRENCY on import and
    fails with a traceback if it is wrong.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "licenseserver.settings")
    settings_or_exit()
    from gunicorn.app.wsgiapp import run

    sys.argv[1:] = ["--config", str(Path(__file__).with_name("gunicorn.conf.py")), "licenseserver.wsgi"]
    run()


if __name__ == "__main__":
    main()
