"""What a name may be made of: of a tool, a user, a host, a reason."""

import unicodedata
from typing import TypeGuard

# Control, format (invisible, text direction), lone surrogates, private use,
# line and paragraph separators: nothing that belongs in a name, and all of it
# is trouble in a log or on a screen.
UNCLEAN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}

# Of tools and teams. The first character may be neither a dot (clients fold
# "/../" out of a path) nor a dash (a command line would take it for an option).
TOOL_NAME_PATTERN = r"[a-z0-9_][a-z0-9_.-]{0,63}"

# The metrics' label for every name that isn't a tool's, and so no tool's name.
UNKNOWN_TOOL_LABEL = "unknown"
# The calls under /licenses/, and so no tool's names: /licenses/queue/status could be
# about the tool as well as about the ticket.
CALLS = frozenset({"borrow", "explain", "queue", "renew", "return", "status"})
RESERVED_TOOL_NAMES = CALLS | {UNKNOWN_TOOL_LABEL}

# Longest name of a user, a host or a project. DNS has no longer one (RFC 1035, 2.3.4),
# and e-mail addresses, Entra's UPNs and GitHub's "owner/repository" are shorter.
NAME_LENGTH = 255
# Longest name of an account: what Django's table has room for.
ACCOUNT_NAME_LENGTH = 150
# Short enough for an index, and longer than any name but a few Arabic ligatures get.
FOLDED_LENGTH = 300


def is_clean(text: str) -> bool:
    """Whether every character can be seen and stays on its line."""
    return not any(unicodedata.category(character) in UNCLEAN_CATEGORIES for character in text)


def is_name(text: object) -> TypeGuard[str]:
    """Whether a user, a host or a project can have this name, as it stands."""
    return (
        isinstance(text, str)
        and 0 < len(text) <= NAME_LENGTH
        and is_clean(text)
        and text == unicodedata.normalize("NFC", text.strip())
    )


def folded(name: str) -> str:
    """Return a name without what tells it from others only to a machine: case, and
    the form of its characters (NFKC). At most ``FOLDED_LENGTH`` characters."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())[:FOLDED_LENGTH]
