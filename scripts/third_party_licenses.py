"""The licenses of what the server's image installs, as docs/third-party-licenses.md has them.

    python scripts/third_party_licenses.py          writes the list anew
    python scripts/third_party_licenses.py --check  fails where the list isn't up to date

Either way it fails at a license that nobody has agreed to. It reads the metadata
of the packages that are installed beside it: those of the files PINNED.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LIST = ROOT / "docs" / "third-party-licenses.md"
# What the Dockerfile installs.
PINNED = (ROOT / "requirements.txt", ROOT / "requirements" / "tracing.txt")

# Ours to use, to change and to pass on in an image. MPL and LGPL want the source
# of the library itself offered, changed or not; the image has both unchanged,
# as PyPI has them.
AGREED = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "LGPL-3.0-only", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0"}

# Those that don't tell theirs as an SPDX expression, as read in their license files.
READ = {
    "asgiref": "BSD-3-Clause",
    "certifi": "MPL-2.0",
    "charset-normalizer": "MIT",
    "django-filter": "BSD-3-Clause",
    "django-prometheus": "Apache-2.0",
    # Its Swagger UI is under Apache-2.0, its Redoc under MIT.
    "drf-spectacular-sidecar": "BSD-3-Clause AND Apache-2.0 AND MIT",
    "inflection": "MIT",
    "protobuf": "BSD-3-Clause",
    "pyyaml": "MIT",
    "requests": "Apache-2.0",
    "sqlparse": "BSD-3-Clause",
    "uritemplate": "BSD-3-Clause OR Apache-2.0",
}

HEAD = """\
# Licenses of the dependencies

Of every package that the server's image installs, from `requirements.txt` and
`requirements/tracing.txt`, by `make third-party`; `make lint` fails when this list
is out of date, or a license comes in that `scripts/third_party_licenses.py` doesn't agree to.
The client needs only `tomli` (MIT), before Python 3.11. What the image's base, Debian, brings is in the image's SBOM
([releasing.md](development/releasing.md)).

| package | license |
|---|---|
"""


def pinned() -> list[str]:
    """The packages of the image that are installed on this platform."""
    text = "".join(path.read_text() for path in PINNED)
    requirements = [Requirement(line) for line in re.findall(r"^([A-Za-z0-9][^\\\n]*)", text, re.MULTILINE)]
    return sorted({one.name for one in requirements if one.marker is None or one.marker.evaluate()})


def license(package: str) -> str:
    """Its SPDX expression; exits where it tells none and none has been read."""
    try:
        fields = metadata(package)
    except PackageNotFoundError:
        sys.exit(f"licenses: {package} is not installed here")
    (told,) = fields.get_all("License-Expression") or [None]
    if told and package in READ:
        sys.exit(f"licenses: {package} tells its license now ({told}); take it out of READ")
    expression = told or READ.get(package)
    if not expression:
        sys.exit(f"licenses: {package} doesn't tell its license: read it, and add it to READ")
    return expression


def agreed(expression: str) -> bool:
    """Whether one of the alternatives has nothing but licenses that are agreed to."""
    if "(" in expression:
        return False
    return any(set(alternative.split(" AND ")) <= AGREED for alternative in expression.split(" OR "))


def main() -> None:
    licenses = {package: license(package) for package in pinned()}
    if strange := {package: expression for package, expression in licenses.items() if not agreed(expression)}:
        sys.exit(f"licenses: nobody has agreed to {strange}")
    text = HEAD + "".join(f"| {package} | {expression} |\n" for package, expression in sorted(licenses.items()))
    if sys.argv[1:] != ["--check"]:
        LIST.write_text(text)
    elif not LIST.exists() or LIST.read_text() != text:
        sys.exit(f"licenses: {LIST.relative_to(ROOT)} is out of date; `make third-party` writes it again")


if __name__ == "__main__":
    main()
