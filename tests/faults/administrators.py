"""Administrators at work: they change tools and quotas, and take seats back."""

import json
import random
import secrets
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx

from .clients import Caller, Shared
from .history import Operation
from .site import TOOLS

PAUSE_SECONDS = 0.4


class Administrators(threading.Thread):
    """One change after the other, until the run is over."""

    def __init__(self, shared: Shared, code: Path, environment: dict[str, str], token: str, seed: int) -> None:
        super().__init__(name="admin", daemon=True)
        self.shared = shared
        self.caller = Caller(shared, "admin", token)
        self.chance = random.Random(f"{seed}-admin")
        self.failure: BaseException | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.administrator"],
            cwd=Path(__file__).resolve().parents[2],
            env=environment | {"PYTHONPATH": str(code)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self) -> None:
        try:
            while not self.shared.stopping.wait(PAUSE_SECONDS):
                self.chance.choice(
                    [self._capacity, self._quota, self._reservation, self._dates, self._force, self._force]
                )()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the thread is joined
            self.failure = error

    def stop(self) -> None:
        """Put the site back as it was, and end the process."""
        for name, values in TOOLS.items():
            self._change(what="capacity", tool=name, seats=values["capacity"])
        self._change(what="until", tool="dated", seconds=None)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self.caller.close()

    def _capacity(self) -> None:
        name = self.chance.choice(["cad", "spare"])
        self._change(what="capacity", tool=name, seats=TOOLS[name]["capacity"] + self.chance.choice([-2, -1, 0, 1, 2]))

    def _quota(self) -> None:
        self._change(what="allot", tool="sim", team="red", quota=self.chance.choice([1, 2, 3]), reservation=0)

    def _reservation(self) -> None:
        self._change(what="allot", tool="sim", team="blue", quota=None, reservation=self.chance.choice([0, 1, 2, 2]))

    def _dates(self) -> None:
        """Let a license end while people work with it, and extend it."""
        self._change(what="until", tool="dated", seconds=0.2)
        self.shared.stopping.wait(0.8)
        self._change(what="until", tool="dated", seconds=None)

    def _force(self) -> None:
        """Take a seat back from a holder."""
        others = list(self.shared.newest.values())
        if others:
            lease = self.chance.choice(others)
            path = f"/api/v1/leases/{lease}/force-return/"
            self.caller.call("force", "POST", path, {"reason": "needed elsewhere"}, facts={"lease": lease})

    def _change(self, **change: Any) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        start = self.shared.recorder.now()
        self._process.stdin.write(json.dumps(change) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process ended"}
        known = "changed" in answer
        self.shared.recorder.write(
            Operation(
                "admin",
                "change",
                start,
                self.shared.recorder.now(),
                200 if known else None,
                change | {"changed": answer.get("changed", False)},
                None if known else answer["error"],
            )
        )


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
