"""List the licenses of the image's packages in docs/third-party-licenses.md.

    python scripts/third_party_licenses.py          write the list
    python scripts/third_party_licenses.py --check  fail if the list is out of date

Both fail at a license that is not in AGREED. It reads the metadata of the installed
packages of the files PINNED.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LIST = ROOT / "docs" / "third-party-licenses.md"
# The requirement files of the Dockerfile.
PINNED = (ROOT / "requirements.txt", ROOT / "requirements" / "tracing.txt")

# We may use, change and distribute these in an image. MPL and LGPL require the source of
# the library, changed or not; the image has both unchanged, as on PyPI.
AGREED = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "LGPL-3.0-only", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0"}

# Packages without an SPDX expression; read from their license files.
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

These are the packages of the server's image, from `requirements.txt` and
`requirements/tracing.txt`. `make third-party` writes the list. `make lint` fails if the
list is out of date, or a license is not agreed in `scripts/third_party_licenses.py`.
The client needs only `tomli` (MIT), before Python 3.11. The image's SBOM lists the
packages of its base, Debian ([releasing.md](development/releasing.md)).

| package | license |
|---|---|
"""


def pinned() -> list[str]:
    """Return the packages of the image that are installed here."""
    text = "".join(path.read_text() for path in PINNED)
    requirements = [Requirement(line) for line in re.findall(r"^([A-Za-z0-9][^\\\n]*)", text, re.MULTILINE)]
    return sorted({one.name for one in requirements if one.marker is None or one.marker.evaluate()})


def license(package: str) -> str:
    """Return the SPDX expression of a package. Exit if neither its metadata nor READ has it."""
    try:
        fields = metadata(package)
    except PackageNotFoundError:
        sys.exit(f"licenses: {package} is not installed here")
    (told,) = fields.get_all("License-Expression") or [None]
    if told and package in READ:
        sys.exit(f"licenses: {package} has its license in its metadata now ({told}); remove it from READ")
    expression = told or READ.get(package)
    if not expression:
        sys.exit(f"licenses: {package} has no license in its metadata: read its license and add it to READ")
    return expression


def agreed(expression: str) -> bool:
    """Return whether one alternative has only agreed licenses."""
    if "(" in expression:
        return False
    return any(set(alternative.split(" AND ")) <= AGREED for alternative in expression.split(" OR "))


def main() -> None:
    licenses = {package: license(package) for package in pinned()}
    if strange := {package: expression for package, expression in licenses.items() if not agreed(expression)}:
        sys.exit(f"licenses: not agreed: {strange}")
    text = HEAD + "".join(f"| {package} | {expression} |\n" for package, expression in sorted(licenses.items()))
    if sys.argv[1:] != ["--check"]:
        LIST.write_text(text)
    elif not LIST.exists() or LIST.read_text() != text:
        sys.exit(f"licenses: {LIST.relative_to(ROOT)} is out of date; run `make third-party`")


if __name__ == "__main__":
    main()
