"""What `helm test` runs: is the server ready, and does it hand out seats?

From the environment: SMOKE_URL; SMOKE_TOKEN, a token for the API, if there is
one; SMOKE_TOOL, a tool to borrow a seat of and to return it, if any; SMOKE_USER,
who borrows. Needs Python alone, and exits with 1 at the first thing amiss.
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
# A token has an owner; whoever has none needs a name.
USER = os.environ.get("SMOKE_USER", "") or ("" if TOKEN else "helm-test")


class Stay(urllib.request.HTTPRedirectHandler):
    """Follows nobody: a redirect is an answer like another."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask(path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """The status and the document of an answer."""
    # As the ingress does it: plain HTTP would be refused.
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
            return error.code, "it wants HTTPS. Has proxy.trustedSources this pod? If it needn't, set test.url."
        return error.code, text
    except OSError as error:
        return 0, str(error)


def expect(what: str, wanted: int, answer: tuple[int, Any]) -> Any:
    """The document, if the status is the wanted one; else the end."""
    status, document = answer
    if status != wanted:
        sys.exit(f"FAIL  {what}: wanted {wanted}, got {status}: {document}")
    print(f"ok    {what}")
    return document


expect("the server is ready: its database answers and is migrated", 200, ask("/readyz"))
status = ask("/licenses/status")
if status[0] == 401 and not TOKEN:
    expect("who shows no credential is refused (test.tokenSecret would go on from here)", 401, status)
    sys.exit()
tools = expect("it tells the seats", 200, status)
print(*(f"      {tool['tool']}: {tool['available']} of {tool['total']} available" for tool in tools), sep="\n")
if TOOL:
    asked = {"tool": TOOL, "host": "helm-test", "ttl_seconds": 300} | ({"user": USER} if USER else {})
    lease = expect(f"a seat of {TOOL} is borrowed", 200, ask("/licenses/borrow", asked))
    expect("and returned", 200, ask("/licenses/return", {"id": lease["id"]}))
