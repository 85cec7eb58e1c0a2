"""Build the documentation as a site: ``make docs`` (Sphinx with MyST). Every warning, for
example a broken link, is an error."""

import os
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
REPOSITORY_URL = os.environ.get("REPOSITORY_URL", "https://git.example.com/tools/licenseserver")

project = "Floating-license server"
project_copyright = "The licenseserver authors, Apache License 2.0"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = project
html_copy_source = False
myst_heading_anchors = 4
# The text of a console session or a log line can be invalid in its language.
suppress_warnings = ["misc.highlighting_failure"]

# The order in the sidebar. Sphinx warns about a page that is missing here.
CONTENTS = {
    "Start": ["quickstart"],
    "How to": [
        *(f"howto/{page}" for page in ("tools", "ci", "sign-in", "teams", "manage", "site", "board")),
        *(f"howto/{page}" for page in ("notifications", "reports", "flexlm")),
    ],
    "Operate": [
        *(f"howto/{page}" for page in ("kubernetes", "monitoring", "operations", "backup", "upgrades", "scaling")),
        *("howto/limits", "performance", "runbooks/README"),
        *(f"runbooks/{page}" for page in ("licenses", "server", "slo", "watching")),
    ],
    "Reference": [f"reference/{page}" for page in ("api", "errors", "settings", "commands", "metrics", "log")],
    "Development": [
        *(f"development/{page}" for page in ("setup", "architecture", "recipes", "glossary", "testing", "releasing")),
        *("reliability", "third-party-licenses"),
    ],
}
LINK = re.compile(r"\]\((?P<path>\.\./[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def prepare(app: Any, name: str, source: list[str]) -> None:
    """Add the contents to the front page, and point links that lead out of docs/ to the repository."""

    def pointed(link: re.Match[str]) -> str:
        target = (DOCS / name).parent.joinpath(link["path"]).resolve()
        # A broken link stays as it is, so that MyST warns about it.
        if target.is_relative_to(DOCS) or not target.exists():
            return link[0]
        kind = "tree" if target.is_dir() else "blob"
        path = target.relative_to(DOCS.parent)
        return f"]({REPOSITORY_URL}/{kind}/main/{path}{link['anchor'] or ''})"

    source[0] = LINK.sub(pointed, source[0])
    if name == "index":
        for caption, pages in CONTENTS.items():
            entries = "\n".join(pages)
            source[0] += f"\n```{{toctree}}\n:caption: {caption}\n:hidden:\n\n{entries}\n```\n"


def setup(app: Any) -> None:
    """Register the preparation of pages with Sphinx."""
    app.connect("source-read", prepare)
