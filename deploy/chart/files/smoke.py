"""Test for `helm test` that the server is ready and lends seats.

It reads from the environment: SMOKE_URL; SMOKE_TOKEN, an API token, if there is one;
SMOKE_TOOL, a tool to borrow and return a seat of, if any; SMOKE_USER, the user. It
needs only Python, and exits with 1 at the first failure.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

URL = os.environ["SMOKE_URL"].rstrip("/")
TOKEN = os.environ.get("SMOKE_TOKEN", "")
TOOL = os.environ.get("SMOKE_TOOL", "")
# A token has an owner; without a token the call needs a name.
USER = os.environ.get("SMOKE_USER", "") or ("" if TOKEN else "helm-test")
NEEDS_HTTPS = "The server requires HTTPS. Add this pod to proxy.trustedSources, or set test.url."


class Stay(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: it is an answer like any other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask(path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Return the status and the document of an answer."""
    # Like the ingress; the server refuses plain HTTP.
    headers = {"X-Forwarded-Proto": "https", "Content-Type": "application/json"}
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data=data, headers=headers)
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        if '"https_required"' in text:
            return error.code, NEEDS_HTTPS
        return error.code, text
    except OSError as error:
        return 0, str(error)


def expect(what: str, wanted: int, answer: tuple[int, Any]) -> Any:
    """Return the document if the status is the wanted one; otherwise exit with 1."""
    status, document = answer
    if status != wanted:
        sys.exit(f"FAIL  {what}: expected {wanted}, got {status}: {document}")
    print(f"ok    {what}")
    return document


expect("the server is ready: its database answers and is migrated", 200, ask("/readyz"))
status = ask("/licenses/status")
if status == (403, NEEDS_HTTPS) and not TOKEN and not TOOL:
    expect("a call over plain HTTP is refused (set test.url to test more)", 403, status)
    sys.exit()
if status[0] == 401 and not TOKEN:
    expect("a call without a credential is refused (set test.tokenSecret to test more)", 401, status)
    sys.exit()
tools = expect("the server shows the seats", 200, status)
print(*(f"      {tool['tool']}: {tool['available']} of {tool['total']} available" for tool in tools), sep="\n")
if TOOL:
    asked = {"tool": TOOL, "host": "helm-test", "ttl_seconds": 300} | ({"user": USER} if USER else {})
    lease = expect(f"a seat of {TOOL} is borrowed", 200, ask("/licenses/borrow", asked))
    expect("the seat is returned", 200, ask("/licenses/return", {"id": lease["id"]}))
