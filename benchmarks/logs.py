"""Measure what a request's line in the log costs.

``python -m benchmarks.logs``: the processor's time of the middleware, the
formatter and the write, around a view that does nothing but know what a borrow
knows. Needs no database. A borrow with its return writes two lines.
"""

import argparse
import logging
import os
import secrets
import sys
import tempfile
import time
import uuid
from collections.abc import Callable


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.logs", description=__doc__)
    parser.add_argument("--requests", type=int, default=5000, help="in a round; 5000")
    parser.add_argument("--rounds", type=int, default=9, help="of which the fastest is told; 9")
    options = parser.parse_args()
    os.environ |= {"SECRET_KEY": secrets.token_urlsafe(48), "DJANGO_SETTINGS_MODULE": "licenseserver.settings"}
    import django

    django.setup()
    from licenseserver import logs

    for form in logs.FORMATTERS:
        for level in ("INFO", "WARNING"):
            with tempfile.TemporaryFile("w") as file:
                handler = logging.StreamHandler(file)
                handler.setFormatter(logs.FORMATTERS[form]())
                logging.root.handlers = [handler]
                logging.getLogger("licenses").setLevel(level)
                seconds = fastest(request(), options.requests, options.rounds)
            sys.stdout.write(f"{form}, {level}: {1_000_000 * seconds:.1f} us a request\n")
    return 0


def request() -> Callable[[], object]:
    """Answers one request, with the middleware and what a borrow notes."""
    from django.http import HttpRequest, HttpResponse
    from django.test import RequestFactory

    from licenses.access.callers import Caller, Kind
    from licenses.api.middleware import EventMiddleware
    from licenseserver import logs

    lease, caller, answer = uuid.uuid4(), Caller(Kind.TOKEN, "ana", credential="token 3"), HttpResponse()

    def view(request: HttpRequest) -> HttpResponse:
        logs.note(user="ana", tool="cad_tool")
        logs.note(lease=lease, user="ana", tool="cad_tool")
        request.auth = caller  # type: ignore[attr-defined]
        return answer

    middleware, asked = EventMiddleware(view), RequestFactory().post("/licenses/borrow")
    return lambda: middleware(asked)


def fastest(call: Callable[[], object], times: int, rounds: int) -> float:
    """Seconds of the processor for one call; others that run meanwhile only add."""
    measured = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(times):
            call()
        measured.append((time.process_time() - start) / times)
    return min(measured)


if __name__ == "__main__":
    sys.exit(main())
