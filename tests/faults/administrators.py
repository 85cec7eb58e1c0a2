"""Administrators at work: in the admin they change tools and quotas, and they take seats back."""

import random
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from .clients import Caller, Shared
from .history import Operation
from .pages import NotAnswered
from .site import TOOLS, Site

PAUSE_SECONDS = 0.2
# Until a license ends that is in use; its leases end with it.
NOTICE_SECONDS = 0.4


class Administrators(threading.Thread):
    """One deed after the other, until the run is over; only those named, if any are."""

    def __init__(self, shared: Shared, site: Site, seed: int, only: tuple[str, ...] = ()) -> None:
        super().__init__(name="admin", daemon=True)
        self.shared, self.site = shared, site
        self.caller = Caller(shared, "admin", site.tokens["admin"])
        self.pages = site.admin(shared.port)
        self.chance = random.Random(f"{seed}-admin")
        self.failure: BaseException | None = None
        # Pages with a change of unknown outcome: what they show may be old.
        self._in_doubt: set[str] = set()
        deeds: list[Callable[[], None]] = [
            self.change_a_capacity,
            self.change_a_quota,
            self.change_a_reservation,
            self.let_a_license_end,
            self.switch_a_tool_off,
            self.force_a_return,
            self.force_a_return,
            self.force_a_return,
        ]
        self.deeds = [deed for deed in deeds if not only or deed.__name__ in only]

    def run(self) -> None:
        try:
            while self.deeds and not self.shared.stopping.wait(PAUSE_SECONDS):
                self.chance.choice(self.deeds)()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the thread is joined
            self.failure = error

    def stop(self) -> None:
        """Put the site back as it was."""
        for name, values in TOOLS.items():
            changes = {"capacity": str(values["capacity"]), "enabled": "on", "valid_until_0": "", "valid_until_1": ""}
            for _ in range(20):
                if self._change(name, **changes):
                    break
        self.pages.close()
        self.caller.close()

    def change_a_capacity(self) -> None:
        name = self.chance.choice(["cad", "spare"])
        self._change(name, capacity=str(TOOLS[name]["capacity"] + self.chance.choice([-2, -1, 0, 1, 2])))

    def change_a_quota(self) -> None:
        self._change("sim for red", quota=self.chance.choice(["1", "2", "3"]))

    def change_a_reservation(self) -> None:
        self._change("sim for blue", reservation=self.chance.choice(["0", "1", "2", "2"]))

    def let_a_license_end(self) -> None:
        """Let a license end while people work with it, and extend it."""
        end = datetime.now(UTC) + timedelta(seconds=NOTICE_SECONDS)
        self._change("dated", valid_until_0=f"{end:%Y-%m-%d}", valid_until_1=f"{end:%H:%M:%S.%f}")
        # Long enough that a sweeper comes by.
        self.shared.stopping.wait(1.5)
        self._change("dated", valid_until_0="", valid_until_1="")

    def switch_a_tool_off(self) -> None:
        self._change("spare", enabled=None)
        self.shared.stopping.wait(0.2)
        self._change("spare", enabled="on")

    def force_a_return(self) -> None:
        """Take a seat back from a holder."""
        held = list(self.shared.held.values())
        if held:
            lease = self.chance.choice(held)
            path = f"/api/v1/leases/{lease}/force-return/"
            self.caller.call("force", "POST", path, {"reason": "needed elsewhere"}, facts={"lease": lease})

    def _change(self, subject: str, **changes: str | None) -> bool:
        """Change a page's fields, None being a box without its mark; whether that is certain now."""
        page, start = self.site.pages[subject], self.shared.recorder.now()
        facts: dict[str, Any] = {"subject": subject, **changes}
        status: int | None = 302
        try:
            before = self.pages.form(page)
            after = {name: value for name, value in (before | changes).items() if value is not None}
            facts["changed"] = after != before
            self.pages.send(page, after)
        except NotAnswered as error:
            status, facts["changed"] = error.status, error.is_sent and (error.status is None or error.status >= 500)
            facts["sent"] = error.is_sent
        if facts["changed"] and (status != 302 or page in self._in_doubt):
            # It may have been made, or another one of this page.
            facts["changed"] = None
        if status == 302:
            self._in_doubt.discard(page)
        elif facts["changed"] is None:
            self._in_doubt.add(page)
        self.shared.recorder.write(Operation("admin", "change", start, self.shared.recorder.now(), status, facts))
        return status == 302


def borrowed_in_full(port: int, token: str) -> dict[str, str]:
    """The tools whose whole capacity can't be borrowed, each with the reason."""
    missing = {}
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as http:
        for name, values in TOOLS.items():
            answer = http.get(f"/licenses/{name}/status")
            if answer.status_code != 200:
                missing[name] = answer.text
                continue
            status = answer.json()
            if status["borrowed"] or status["queued"]:
                missing[name] = f"{status['borrowed']} seats are out, {status['queued']} requests wait"
            elif "user_limit" not in values:
                body = {"tool": name, "user": "probe", "project": f"probe-{name}", "seats": values["capacity"]}
                answer = _until_decided(http, "/licenses/borrow", body)
                if answer.status_code != 200:
                    missing[name] = answer.text
                else:
                    _until_decided(http, "/licenses/return", {"id": answer.json()["id"]}).raise_for_status()
    return missing


def _until_decided(http: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    """The first answer that isn't 503: each connection to the database that a fault
    broke costs one. A borrow that is sent again has the same key."""
    key = {"Idempotency-Key": secrets.token_hex(8)}
    for _ in range(20):
        answer = http.post(path, json=body, headers=key)
        if answer.status_code != 503:
            break
    return answer
