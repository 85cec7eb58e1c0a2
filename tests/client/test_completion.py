"""Shells complete commands, options and the names that the server knows."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.shell import CLIENT_PYTHON, Shell
from tests.support.terminal import on_terminal
from tests.support.waiting import PATIENCE

SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"there is no {name} here"))
    for name in ("bash", "zsh", "fish")
]

# What each shell runs to complete a line as if somebody pressed the key.
PRESS = {
    "bash": """
eval "$(license completion bash)"
COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; COMPREPLY=()
_license license
printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "zsh": """
compdef() {{ :; }}
_describe() {{ print -l -- ${{found%%:*}} }}
_default() {{ print files }}
eval "$(license completion zsh)"
words=({words}); CURRENT=${{#words}}
_license
""",
    "fish": """
license completion fish | source
complete --do-complete "{line}"
""",
}


@pytest.fixture
def completing(shell: Shell, tmp_path: Path) -> Shell:
    """Provide a shell with ``license`` on its path."""
    program = tmp_path / "bin" / "license"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{CLIENT_PYTHON}" -m license_client "$@"\n')
    program.chmod(0o755)
    shell.environment["PATH"] = f"{program.parent}:{shell.environment['PATH']}"
    return shell


def press(shell: Shell, name: str, line: str) -> list[str]:
    """Return what a shell offers for the last word of a line."""
    *words, last = line.split(" ")
    script = PRESS[name].format(words=" ".join([*words, last or "''"]), line=line)
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
    done = subprocess.run(
        [name, *options, "-c", script],
        env=shell.environment,
        cwd=shell.environment["HOME"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stderr == ""
    return [found.partition("\t")[0] for found in done.stdout.splitlines() if found]


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_completes_commands_options_and_tools(completing: Shell, name: str) -> None:
    assert press(completing, name, "license st") == ["status"]
    assert press(completing, name, "license status --js") == ["--json"]
    assert press(completing, name, "license run --on-lost ") == ["continue", "kill"]
    assert press(completing, name, "license run --tool ") == ["analysis", "cad_tool", "simulation"]
    assert press(completing, name, "license who cad") == ["cad_tool"]


# As bash has them.
BREAKS = " \t\n\"'@><=;|&(:"


def offered(shell: Shell, line: str) -> list[str]:
    done = shell("__complete", "bash", BREAKS, f"license {line}")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_own_leases_and_their_tools_are_completed(shell: Shell) -> None:
    lease = shell("borrow", "cad_tool").stdout.strip()
    shell("borrow", "analysis", LICENSE_USER="ana")
    assert offered(shell, "return ") == ["cad_tool", lease]
    assert offered(shell, f"renew {lease[:4]}") == [lease]
    assert offered(shell, "return --user ana an") == ["analysis"]


def test_a_value_after_an_equals_sign_is_completed(shell: Shell) -> None:
    assert shell("__complete", "zsh", "run", "--tool=cad").stdout.startswith("--tool=cad_tool:")
    # Bash replaces what is behind the sign.
    assert offered(shell, "run --tool=cad") == ["cad_tool"]
    assert offered(shell, "run --color=") == ["auto", "always", "never"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("who --server {url} cad", ["cad_tool"]),
        ("who --server={url} cad", ["cad_tool"]),
        ("who --server '{url}' \"cad", ["cad_tool"]),
        ("who --server={url} ", ["analysis", "cad_tool", "simulation"]),
        ('who "--server={url}', []),
        ("run --tool='cad", ["cad_tool"]),
        ("run --project 'a b' --tool cad", ["cad_tool"]),
        ("run --project a\\ b --tool cad", ["cad_tool"]),
        ("run --project 'a", []),
        ("run --project a\\", []),
    ],
)
def test_addresses_and_quotes_are_words_as_in_bash(shell: Shell, line: str, found: list[str]) -> None:
    assert offered(shell, line.format(url=shell.server.url)) == found


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize("line", ["who --server={url} cad", "who --server {url} cad", "run --tool=cad"])
def test_bash_completes_behind_an_address(completing: Shell, line: str) -> None:
    """In a bash as a person has it, which splits the line itself."""
    environment = completing.environment | {"PS1": "ready> ", "TERM": "dumb", "INPUTRC": "/dev/null"}
    typed = f"license {line.format(url=completing.server.url)}"
    with on_terminal(["bash", "--norc", "--noprofile", "-i"], environment) as bash:
        bash.write("eval \"$(license completion bash)\"; echo it is ''there\n")
        bash.read_until("it is there")
        bash.write(f"{typed}\t")
        bash.read_until("cad_tool ")
        # Nothing of the line was typed twice, so it runs.
        bash.write("--help\n")
        bash.read_until("usage: license")
        assert re.search(re.escape(typed) + "_tool --help", bash.seen.decode())


@pytest.mark.parametrize("line", ["run --tool cad_tool -- ma", "status --config ", "fly ", "borrow no_such"])
def test_where_nothing_is_known_the_shell_offers_files(shell: Shell, line: str) -> None:
    assert offered(shell, line) == []


def test_a_server_that_is_away_or_refuses_disturbs_nobody(shell: Shell, tmp_path: Path) -> None:
    assert offered(shell, "run --server http://127.0.0.1:9 --tool ") == []
    assert offered(shell, "who --server 'no address' ") == []
    (tmp_path / "bad.toml").write_text("port = 1")
    assert offered(shell, f"who --config {tmp_path / 'bad.toml'} ") == []


def test_a_shell_that_is_not_supported_is_refused(shell: Shell) -> None:
    assert shell("completion", "tcsh").returncode == 64
