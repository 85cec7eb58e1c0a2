"""Pack the client into one file: ``python scripts/pack_client.py dist/license.pyz``.

The file runs with Python 3.9 or later on Linux, macOS and Windows, and needs nothing else: a
zip with the client, and with tomli, which reads the configuration file before Python 3.11.
The same sources give the same bytes; SOURCE_DATE_EPOCH is the time of the files in it.
"""

import argparse
import importlib.metadata
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHEBANG = b"#!/usr/bin/env python3\n"
# Older Pythons must be able to read this file.
MAIN = b"""\
import sys

if sys.version_info < (3, 9):
    sys.exit("license.pyz needs Python 3.9 or later; this is Python %d.%d." % sys.version_info[:2])

from license_client.cli import main

sys.exit(main())
"""
# The first moment that a zip can tell.
EARLIEST = 315532800


def files() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file."""
    yield "__main__.py", MAIN
    yield "LICENSE", (ROOT / "client" / "LICENSE").read_bytes()
    source = ROOT / "client" / "src"
    for path in source.glob("license_client/**/*.py"):
        yield path.relative_to(source).as_posix(), path.read_bytes()
    for file in importlib.metadata.files("tomli") or ():
        # Wheels for one kind of machine have compiled files too, which are not needed.
        if file.suffix == ".py" or file.name == "LICENSE":
            yield f"tomli/{file.name}", Path(str(file.locate())).read_bytes()


def pack(target: Path, *, moment: int) -> None:
    """Write the file; ``moment`` is in seconds since 1970."""
    date_time = time.gmtime(max(moment, EARLIEST))[:6]
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        out.write(SHEBANG)
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted(files()):
                entry = zipfile.ZipInfo(name, date_time)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    target.chmod(0o755)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    pack(parser.parse_args().target, moment=int(os.environ.get("SOURCE_DATE_EPOCH", "0")))


if __name__ == "__main__":
    main()
