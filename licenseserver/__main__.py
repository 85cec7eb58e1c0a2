"""``python -m licenseserver``: serve under gunicorn, with gunicorn.conf.py."""

import os
import sys
from pathlib import Path

from licenseserver.environment import settings_or_exit


def main() -> None:
    """Serve until told to stop; a wrong setting ends it with one line.

    The settings come before gunicorn, which reads WEB_CONCURRENCY by itself
    when it is imported, and answers a wrong one with a traceback.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "licenseserver.settings")
    settings_or_exit()
    from gunicorn.app.wsgiapp import run

    sys.argv[1:] = ["--config", str(Path(__file__).with_name("gunicorn.conf.py")), "licenseserver.wsgi"]
    run()


if __name__ == "__main__":
    main()
