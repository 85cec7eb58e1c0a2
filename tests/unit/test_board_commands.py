"""The commands that the board shows to copy keep the address of the server as it is, whatever is in it."""

import re
import subprocess

import pytest
import yaml

from licenses.board.commands import commands_for

ADDRESSES = [
    "https://licenses.example.com",
    "http://[2001:db8::1]:8000/tools",
    "https://h/it's",
    'https://h/"x" y',
    "https://h/$(touch x)`id`${IFS}$HOME%PATH%",
    "https://h/a; b & c | d # e: f\\n",
    "https://h/Türme/ツール",
    "https://h/!x~*?[a-z]{1,2}",
]


def text_for(where: str, server: str) -> str:
    (text,) = [command.text for command in commands_for("cad_tool", server) if command.where == where]
    return text


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("server", ADDRESSES)
def test_a_shell_reads_the_address(server: str, shell: str) -> None:
    line, run = text_for("Terminal", server).splitlines()
    done = subprocess.run(
        [shell, "-c", f'{line}\nprintf %s "$LICENSE_SERVER"'], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (server, "")
    assert run == "license run --tool cad_tool --wait 30m -- ./your-command"


@pytest.mark.parametrize("server", ADDRESSES)
def test_yaml_reads_the_address(server: str) -> None:
    assert yaml.safe_load(text_for("GitHub Actions", server))["env"]["LICENSE_SERVER"] == server
    of_gitlab = yaml.safe_load(text_for("GitLab CI", server))["variables"]["LICENSE_SERVER"]
    # GitLab replaces variables, and reads two dollars as one.
    assert "$" not in of_gitlab.replace("$$", "")
    assert of_gitlab.replace("$$", "$") == server


@pytest.mark.parametrize("server", ADDRESSES)
def test_groovy_and_powershell_read_the_address(server: str) -> None:
    """Read the literals as the languages define them: both replace nothing between single quotes."""
    groovy = re.search(r"LICENSE_SERVER = '((?:[^'\\]|\\.)*)'\n", text_for("Jenkins", server))
    assert groovy
    assert re.sub(r"\\(.)", r"\1", groovy[1]) == server
    powershell = re.match(r"\$env:LICENSE_SERVER = '((?:[^']|'')*)'\n", text_for("PowerShell", server))
    assert powershell
    assert powershell[1].replace("''", "'") == server
