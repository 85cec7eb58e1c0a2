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

# Longest name of somebody who holds leases.
USER_LENGTH = 64
# Longest name of a machine: DNS has none that is longer (RFC 1035, 2.3.4).
HOST_LENGTH = 255


def is_clean(text: str) -> bool:
    """Whether every character can be seen and stays on its line."""
    return not any(unicodedata.category(character) in UNCLEAN_CATEGORIES for character in text)


def is_user_name(text: object) -> bool:
    """Whether leases can be held under this name, as it stands."""
    return is_host_name(text) and len(text) <= USER_LENGTH


def is_host_name(text: object) -> TypeGuard[str]:
    """Whether leases can be held by a machine of this name, as it stands."""
    return (
        isinstance(text, str)
        and 0 < len(text) <= HOST_LENGTH
        and is_clean(text)
        and text == unicodedata.normalize("NFC", text.strip())
    )
