"""Check the version of a release and print its notes and tags. See ``--help``.

It needs only Python 3.11 or newer. It reads the files of this repository, or of the
folder ``--root``, and changes nothing.
"""

import argparse
import ast
import re
import sys
import tomllib
from datetime import date
from pathlib import Path

VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
HEADING = re.compile(r"^## \[?(?P<name>[^\]\s]+)\]?(?: - (?P<date>\S+))?\s*$", re.MULTILINE)
# The definitions of links at the end of a changelog: `[1.0.0]: https://...`.
LINK = re.compile(r"^\[[^\]]+\]: \S+$", re.MULTILINE)


class Refused(Exception):
    """The release is not possible. The text says why."""


def versions(root: Path) -> dict[str, str]:
    """Return the version in each file that has one."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    client = tomllib.loads((root / "client/pyproject.toml").read_text())["project"]["version"]
    # Two plain lines, so that this needs no YAML parser.
    chart = (root / "deploy/chart/Chart.yaml").read_text()
    told = dict(re.findall(r'^(version|appVersion): "?([^"\s]+)"?$', chart, re.MULTILINE))
    return {
        "licenseserver.__version__": _version_of_package(root / "licenseserver"),
        "pyproject.toml": project,
        "client/pyproject.toml": client,
        "license_client.__version__": _version_of_package(root / "client/src/license_client"),
        "Chart.yaml version": told.get("version", "none"),
        "Chart.yaml appVersion": told.get("appVersion", "none"),
    }


def _version_of_package(folder: Path) -> str:
    """Return ``__version__`` without importing the package."""
    (version,) = (
        node.value.value
        for node in ast.parse((folder / "__init__.py").read_text()).body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and [target.id for target in node.targets if isinstance(target, ast.Name)] == ["__version__"]
    )
    return str(version)


def check(root: Path, tag: str | None) -> str:
    """Return the version that all files have. Raises Refused if they differ.

    With the tag of a release, also check that the tag is for this version and that the
    changelog has notes for it.
    """
    told = versions(root)
    if len(set(told.values())) > 1:
        raise Refused("The versions differ:\n" + "\n".join(f"  {version}  {place}" for place, version in told.items()))
    version = told["licenseserver.__version__"]
    if not VERSION.fullmatch(version):
        raise Refused(f"{version} is not a version like 1.2.3.")
    if tag is not None:
        if tag != f"v{version}":
            raise Refused(f"The tag is {tag}, but the version is {version}. Its tag must be v{version}.")
        notes(root, version)
    return version


def notes(root: Path, version: str) -> str:
    """Return the notes of a version in CHANGELOG.md (Keep a Changelog).

    Raises Refused if the section is missing, without a date, there twice, or empty.
    """
    changelog = (root / "CHANGELOG.md").read_text()
    headings = list(HEADING.finditer(changelog))
    found = [number for number, heading in enumerate(headings) if heading["name"] == version]
    if len(found) != 1:
        raise Refused(f"CHANGELOG.md has {len(found)} sections `## {version} - <date>`. It must have one.")
    heading = headings[found[0]]
    try:
        date.fromisoformat(heading["date"] or "")
    except ValueError:
        raise Refused(
            f"CHANGELOG.md has the date {heading['date']!r} for {version}. Write a date like 2026-01-31."
        ) from None
    end = headings[found[0] + 1].start() if found[0] + 1 < len(headings) else len(changelog)
    text = LINK.sub("", changelog[heading.end() : end]).strip()
    if not re.search(r"^[-*] \S", text, re.MULTILINE):
        raise Refused(f"CHANGELOG.md has no entry for {version}.")
    return text


def tags(ref: str, commit: str) -> list[str]:
    """Return the tags of the image for a Git ref.

    A release `v1.2.3` gets 1.2.3, which stays, and 1.2 and 1, which move (not 0, because
    before 1.0 a minor version may break something). The main branch gets `main`, which
    moves, and sha-<first 12 digits of the commit>, which stays. Raises Refused for any
    other ref.
    """
    if ref == "refs/heads/main":
        return ["main", f"sha-{commit[:12]}"]
    if ref.startswith("refs/tags/v") and (version := VERSION.fullmatch(ref.removeprefix("refs/tags/v"))):
        major, minor, patch = version.groups()
        return [f"{major}.{minor}.{patch}", f"{major}.{minor}"] + ([major] if major != "0" else [])
    raise Refused(f"{ref} is neither the main branch nor a release's tag, so it publishes nothing.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help=argparse.SUPPRESS)
    actions = parser.add_subparsers(dest="action", required=True)
    checking = actions.add_parser("check", help="check that all files and the tag have one version, and print it")
    checking.add_argument("--tag", help="the tag of a release; the changelog must have notes for it")
    actions.add_parser("notes", help="print the notes of a version").add_argument("version")
    tagging = actions.add_parser("tags", help="print the tags of the image, one per line")
    tagging.add_argument("ref", help="refs/heads/main or refs/tags/v1.2.3")
    tagging.add_argument("commit")
    options = parser.parse_args()
    try:
        match options.action:
            case "check":
                print(check(options.root, options.tag))
            case "notes":
                print(notes(options.root, options.version))
            case "tags":
                print(*tags(options.ref, options.commit), sep="\n")
    except Refused as refusal:
        sys.exit(f"release: {refusal}")


if __name__ == "__main__":
    main()
