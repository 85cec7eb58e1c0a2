"""The former name of ``license_client``; it works for one release."""

import importlib
import sys

import license_client
from license_client import *  # noqa: F403
from license_client import License as Licence
from license_client import LicenseError as LicenceError
from license_client import former

for _name in ("api", "cli", "config", "holding", "messages", "running", "units"):
    sys.modules[f"{__name__}.{_name}"] = importlib.import_module(f"license_client.{_name}")

# `python -m licence` says it itself.
if sys.argv[:1] != ["-m"]:
    former.warn("the module licence", "license_client")

__all__ = [*license_client.__all__, "Licence", "LicenceError"]
