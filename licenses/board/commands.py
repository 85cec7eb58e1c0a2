"""The commands that get a seat in a terminal or in a job, to copy from a tool's page."""

import json
from dataclasses import dataclass
from shlex import quote


@dataclass(frozen=True, slots=True)
class Command:
    """A text to copy: ``where`` it is for, and a ``note`` about what it needs."""

    where: str
    text: str
    note: str = ""


def commands_for(tool: str, server: str) -> list[Command]:
    """Return the ways to run a command with a seat of a tool of this server.

    The address is quoted as each language wants. The name of a tool needs no quotes (``TOOL_NAME_PATTERN``).
    """
    run = f"license run --tool {tool} --wait 30m"
    yaml = json.dumps(server, ensure_ascii=False)
    groovy = "'" + server.replace("\\", "\\\\").replace("'", "\\'") + "'"
    powershell = "'" + server.replace("'", "''") + "'"
    return [
        Command("Terminal", f"export LICENSE_SERVER={quote(server)}\n{run} -- ./your-command"),
        Command(
            "GitHub Actions",
            f"""env:
  LICENSE_SERVER: {yaml}
  LICENSE_TOKEN: ${{{{ secrets.LICENSE_TOKEN }}}}
  LICENSE_USER: ${{{{ github.repository }}}}
steps:
  - run: exec {run} --ttl 5m -- ./your-command
""",
            "Needs the secret LICENSE_TOKEN, with a team's token.",
        ),
        Command(
            "GitLab CI",
            f"""variables:
  LICENSE_SERVER: {yaml.replace("$", "$$")}
  LICENSE_USER: $CI_PROJECT_PATH
script:
  - {run} --ttl 5m -- ./your-command
""",
            "Needs the masked variable LICENSE_TOKEN, with a team's token.",
        ),
        Command(
            "Jenkins",
            f"""environment {{
  LICENSE_SERVER = {groovy}
  LICENSE_TOKEN = credentials('license-token')
  LICENSE_USER = "${{env.JOB_NAME}}"
}}
steps {{
  sh 'exec {run} --ttl 5m -- ./your-command'
}}
""",
            "Needs the secret text license-token, with a team's token.",
        ),
        Command("PowerShell", f"$env:LICENSE_SERVER = {powershell}\n{run} -- .\\your-command.exe"),
    ]
