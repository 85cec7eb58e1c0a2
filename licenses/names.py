"""Define valid names of tools, users, hosts and reasons."""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import TypeGuard

# Control, format (invisible, text direction), lone surrogates, private use, line and
# paragraph separators: they do not belong in a name and harm a log or a screen.
UNCLEAN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}

# Names of tools and teams. The first character must not be a dot, because clients remove
# "/../" from a path, or a dash, because a command line reads it as an option.
TOOL_NAME_PATTERN = r"[a-z0-9_][a-z0-9_.-]{0,63}"

# The label in metrics for a name that is not a tool's. A tool can't have it.
UNKNOWN_TOOL_LABEL = "unknown"
# The calls under /licenses/. A tool can't have these names: /licenses/queue/status could
# mean the tool or the ticket.
CALLS = frozenset({"borrow", "explain", "queue", "renew", "return", "status"})
RESERVED_TOOL_NAMES = CALLS | {UNKNOWN_TOOL_LABEL}

# Longest name of a user, a host or a project. DNS names (RFC 1035, 2.3.4), e-mail
# addresses, Entra's UPNs and GitHub's "owner/repository" are not longer.
NAME_LENGTH = 255
# Longest name of an account: the limit of Django's table.
ACCOUNT_NAME_LENGTH = 150
# Short enough for an index, and longer than all names except with a few Arabic ligatures.
FOLDED_LENGTH = 300


def is_clean(text: str) -> bool:
    """Return whether every character is visible and stays on its line."""
    return not any(unicodedata.category(character) in UNCLEAN_CATEGORIES for character in text)


def visible(text: str) -> str:
    """Escape characters that would control a terminal or change the order of the text."""
    return "".join(sign if is_clean(sign) else sign.encode("unicode_escape").decode() for sign in text)


def is_name(text: object) -> TypeGuard[str]:
    """Return whether a user, a host or a project can have exactly this name."""
    return (
        isinstance(text, str)
        and 0 < len(text) <= NAME_LENGTH
        and is_clean(text)
        and text == unicodedata.normalize("NFC", text.strip())
    )


def distinguished(shown: Mapping[str, str]) -> dict[str, str]:
    """Return what is shown for each name, sorted as people read it. What several names have in common gets the name
    behind it, such as ``CAD (cad_2)``."""
    alike = Counter(text.casefold() for text in shown.values())
    apart = {name: f"{text} ({name})" if alike[text.casefold()] > 1 else text for name, text in shown.items()}
    return dict(sorted(apart.items(), key=lambda each: each[1].casefold()))


def folded(name: str) -> str:
    """Return a name without differences that people do not see: case and Unicode form (NFKC).

    At most ``FOLDED_LENGTH`` characters.
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())[:FOLDED_LENGTH]
