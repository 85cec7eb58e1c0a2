"""Find the proxy for a call, from the variables that curl and other programs use."""

from __future__ import annotations

import ipaddress
import os
import urllib.parse
import urllib.request
from dataclasses import dataclass


@dataclass(frozen=True)
class Proxy:
    """A proxy and the source of its address. ``str()`` hides a password."""

    address: str
    source: str

    def __str__(self) -> str:
        kind, _, rest = self.address.rpartition("://")
        return f"the proxy {kind or 'http'}://{rest.rpartition('@')[2]} ({self.source})"

    @property
    def host(self) -> str:
        """Return the name of its machine; empty if the address has none."""
        try:
            return self._parts.hostname or ""
        except ValueError:
            return ""

    @property
    def is_supported(self) -> bool:
        """Return whether Python can use it: an HTTP proxy with a host."""
        try:
            # The port raises ValueError if it is invalid.
            parts, port = self._parts, self._parts.port
        except ValueError:
            return False
        # A colon without a port is a mistake like http:/proxy.
        return parts.scheme in {"http", "https"} and bool(self.host) and port != 0 and not parts.netloc.endswith(":")

    @property
    def _parts(self) -> urllib.parse.SplitResult:
        address = self.address if "://" in self.address else f"http://{self.address}"
        try:
            return urllib.parse.urlsplit(address)
        except ValueError:
            return urllib.parse.SplitResult("", address, "", "", "")


def proxy_for(server: str) -> Proxy | None:
    """Return the proxy for the server's address, or None.

    The source is ``http_proxy`` or ``https_proxy``, or the system's settings on
    Windows and macOS. ``no_proxy`` excludes a server by name, address or network.
    """
    try:
        parts = urllib.parse.urlsplit(server)
    except ValueError:
        # Not an address: Client says so.
        return None
    address = urllib.request.getproxies().get(parts.scheme)
    if not address or urllib.request.proxy_bypass(parts.netloc) or _in_no_proxy(parts.hostname or ""):
        return None
    if parts.scheme not in urllib.request.getproxies_environment():
        return Proxy(address, "the system's settings")
    variable = f"{parts.scheme}_proxy"
    # Python reads the lower-case variable first.
    return Proxy(address, variable if os.environ.get(variable) else variable.upper())


def is_loopback(host: str) -> bool:
    """Return whether this name or address is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost" or host.lower().endswith(".localhost")


def _in_no_proxy(host: str) -> bool:
    """Return whether ``no_proxy`` contains the address or its network. Python does not check networks."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in urllib.request.getproxies_environment().get("no", "").split(","):
        try:
            if address in ipaddress.ip_network(entry.strip().strip("[]"), strict=False):
                return True
        except ValueError:
            continue  # a name
    return False
