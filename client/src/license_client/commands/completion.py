"""Complete commands, options and names in bash, zsh and fish.

The scripts ask this program, so that they know the tools of the server, and need no
change when an option comes. A package like argcomplete would do that too, but the single
file ``license.pyz`` has only Python's own library.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from license_client.api import Client
from license_client.calling import in_time
from license_client.config import load
from license_client.output import Unwritable, show
from license_client.parsing import Commands
from license_client.units import clock_time

# The hidden command of the scripts: __complete SHELL WORD..., the last word being the one to complete;
# __complete bash BREAKS LINE, because bash splits words also at these characters, such as the colon of an address.
HIDDEN = "__complete"
# Seconds that a server may take to answer while somebody types.
PATIENCE = 1.0
# A character that nobody types.
MARK = "\0"

SCRIPTS = {
    "bash": """\
_license() {
    local IFS=$'\\n'
    COMPREPLY=($("$1" __complete bash "$COMP_WORDBREAKS" "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
}
complete -o default -F _license license license.pyz
""",
    "zsh": """\
#compdef license license.pyz
_license() {
    local -a found
    found=("${(@f)$($words[1] __complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n $found[1] ]]; then
        _describe -V license found
    else
        _default
    fi
}
if [[ $funcstack[1] == _license ]]; then
    _license
else
    compdef _license license license.pyz
fi
""",
    "fish": """\
function __license_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] __complete fish $words[2..-1] 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c license -c license.pyz -f -a '(__license_complete)'
""",
}


class Candidate(NamedTuple):
    value: str
    description: str = ""


def register(commands: Commands) -> None:
    """Add the command."""
    completion = commands.add_local(
        "completion",
        _completion,
        "Print a script that completes commands and tools in your shell.",
        examples=[
            'eval "$(license completion bash)"                # in ~/.bashrc',
            'eval "$(license completion zsh)"                 # in ~/.zshrc, after compinit',
            "license completion fish | source                # in ~/.config/fish/config.fish",
        ],
    )
    completion.add_argument("shell", choices=sorted(SCRIPTS), help="the shell that reads the script")


def _completion(options: argparse.Namespace) -> int:
    show(SCRIPTS[options.shell].rstrip("\n"))
    return 0


def complete(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Print how the last word can go on, one candidate a line, as the shell wants it."""
    shell, *words = arguments
    known = ""
    if shell == "bash":
        breaks, line = words
        words, known = _words_in(line, breaks)
    # Bash replaces only what is behind the last break.
    found = [
        candidate._replace(value=candidate.value[len(known) :])
        for candidate in candidates(parser, words)
        if candidate.value.startswith(known)
    ]
    with contextlib.suppress(Unwritable):
        if found:
            show("\n".join(_line(shell, candidate) for candidate in found))
    return 0


def _words_in(line: str, breaks: str) -> tuple[list[str], str]:
    """Return the words of a line after the command, and the part of the last one that bash keeps."""
    # A quote or an escape can be open. A mark shows where the line ends, also after a blank.
    for closing in ("", '"', "'"):
        with contextlib.suppress(ValueError):
            *words, last = shlex.split(f"{line}{MARK}{closing}")[1:] or [MARK]
            current = last.replace(MARK, "")
            if closing:
                # An open quote is a break, and there is none behind it.
                end = max(len(current) - len(line.rpartition(closing)[2]), 0)
            else:
                end = max((current.rfind(sign) for sign in breaks), default=-1) + 1
            return [*words, current], current[:end]
    return [""], ""


def _line(shell: str, candidate: Candidate) -> str:
    value, description = candidate
    if shell == "zsh":
        return value.replace("\\", "\\\\").replace(":", "\\:") + (f":{description}" if description else "")
    return f"{value}\t{description}" if shell == "fish" and description else value


def candidates(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[Candidate]:
    """Return how the last of these words can go on; none where the shell should offer files."""
    *before, current = words
    given: dict[str, str] = {}
    waiting: argparse.Action | None = None
    places = _positionals(parser)
    for word in before:
        options = parser._option_string_actions
        name, equals, value = word.partition("=")
        if waiting is not None:
            given[waiting.dest] = word
            waiting = None
        elif word == "--":
            # What follows is another program's command line.
            return []
        elif name in options:
            action = options[name]
            if equals:
                given[action.dest] = value
            elif action.nargs is None:
                waiting = action
        elif places and isinstance(places[0], argparse._SubParsersAction):
            if word not in places[0].choices:
                return []
            parser = places[0].choices[word]
            places = _positionals(parser)
        elif places and places[0].nargs != "+":
            places = places[1:]
    return _at(parser, places, waiting, current, given)


def _positionals(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not action.option_strings]


def _at(
    parser: argparse.ArgumentParser,
    places: Sequence[argparse.Action],
    waiting: argparse.Action | None,
    current: str,
    given: Mapping[str, str],
) -> list[Candidate]:
    """Return the candidates for the current word, after an option that is ``waiting`` for its value."""
    name, equals, _ = current.partition("=")
    options = parser._option_string_actions
    if waiting is not None:
        found = _values(waiting, given)
    elif equals and name in options:
        found = [Candidate(f"{name}={value}", about) for value, about in _values(options[name], given)]
    elif current.startswith("-"):
        found = _options(parser)
    elif places and _has_names(places[0]):
        found = _values(places[0], given)
    else:
        # The next word is free text or a file: show what else there is, and then leave it to the shell.
        found = _options(parser) if not current else []
    return [candidate for candidate in found if candidate.value.startswith(current)]


def _options(parser: argparse.ArgumentParser) -> list[Candidate]:
    return [
        Candidate(text, action.help or "")
        for action in parser._actions
        for text in action.option_strings
        if text.startswith("--")
    ]


def _has_names(action: argparse.Action) -> bool:
    """Return whether the values are words that are known here or to the server."""
    return action.choices is not None or getattr(action, "completes", "") in SOURCES


def _values(action: argparse.Action, given: Mapping[str, str]) -> list[Candidate]:
    if isinstance(action, argparse._SubParsersAction):
        return [Candidate(choice.dest, choice.help or "") for choice in action._choices_actions]
    if action.choices is not None:
        return [Candidate(str(choice)) for choice in action.choices]
    asked = SOURCES.get(getattr(action, "completes", ""))
    return _ask(asked, given) if asked is not None else []


def _ask(source: Callable[[Client, str], list[Candidate]], given: Mapping[str, str]) -> list[Candidate]:
    """Return the names that the server knows; none if it does not answer at once."""
    try:
        config = load(
            server=given.get("server"),
            token=given.get("token"),
            user=given.get("user"),
            file=given.get("config"),
            on_former_name=lambda old, new: None,
        )
        client = config.client(patience=0, timeout=PATIENCE)
        return in_time(client, lambda: source(client, config.user))
    except Exception:  # noqa: BLE001 - no error may disturb the line that somebody types
        return []


def _tools(client: Client, user: str) -> list[Candidate]:
    return [Candidate(tool.tool, f"{tool.available} of {tool.total} available") for tool in client.status()]


def _leases(client: Client, user: str) -> list[Candidate]:
    leases = client.borrows(user=user)
    tools = sorted({item.tool for lease in leases for item in lease.items})
    since = [Candidate(lease.id, f"{lease.tools}, since {clock_time(lease.borrowed_at)}") for lease in leases]
    return [Candidate(tool, "your lease") for tool in tools] + since


def _tickets(client: Client, user: str) -> list[Candidate]:
    places = client.places(user=user)
    tools = sorted({tool for place in places for tool in place.tools})
    return [Candidate(tool, "you wait for it") for tool in tools] + [
        Candidate(place.ticket, f"position {place.position}") for place in places
    ]


SOURCES: dict[str, Callable[[Client, str], list[Candidate]]] = {"tool": _tools, "lease": _leases, "ticket": _tickets}
