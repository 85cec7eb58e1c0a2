"""Call the server from inside the cluster, for scripts/verify_kind.

    caller.py ask PATH [JSON]      print the status on a line, then the answer
    caller.py scrape URL           print the answer, like a scrape of Prometheus
    caller.py go-on TOOL FILE      borrow and return until FILE exists; print the
                                   number of pairs and the failed calls

It reads CALLER_URL and CALLER_TOKEN from the environment, and needs only Python.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

URL = os.environ["CALLER_URL"]
# Like an ingress controller that ends TLS.
HEADERS = {
    "Authorization": f"Bearer {os.environ['CALLER_TOKEN']}",
    "Content-Type": "application/json",
    "X-Forwarded-Proto": "https",
}


def ask(path: str, body: str | None = None) -> tuple[int, str]:
    """Return the status and the answer, or 0 and the error if there is no answer."""
    request = urllib.request.Request(URL + path, data=body.encode() if body else None, headers=HEADERS)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error)


def go_on(tool: str, end: Path) -> tuple[int, list[str]]:
    """Return the number of seats borrowed and returned, and every failed call.

    Each call uses a new connection, so it can reach another pod. The pause between
    two pairs is 0.1 s.
    """
    pairs, failures = 0, []
    while not end.exists():
        status, text = ask("/licenses/borrow", json.dumps({"tool": tool}))
        if status == 200:
            status, text = ask("/licenses/return", json.dumps({"id": json.loads(text)["id"]}))
        if status == 200:
            pairs += 1
        else:
            failures.append(f"{time.strftime('%H:%M:%S')} {status} {text}")
        time.sleep(0.1)
    return pairs, failures


match sys.argv[1:]:
    case ["ask", path, *rest]:
        print(*ask(path, *rest), sep="\n")
    case ["scrape", url]:
        with urllib.request.urlopen(url, timeout=10) as metrics:
            sys.stdout.write(metrics.read().decode())
    case ["go-on", tool, end]:
        pairs, failures = go_on(tool, Path(end))
        print(pairs, len(failures))
        print(*failures, sep="\n")
    case _:
        sys.exit(__doc__)
