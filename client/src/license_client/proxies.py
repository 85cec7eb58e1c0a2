"""Which proxy a call goes through, by the variables that curl and others heed."""

from __future__ import annotations

import ipaddress
import os
import urllib.parse
import urllib.request
from dataclasses import dataclass


@dataclass(frozen=True)
class Proxy:
    """A proxy, and where its address comes from; ``str()`` hides a password."""

    address: str
    source: str

    def __str__(self) -> str:
        kind, _, rest = self.address.rpartition("://")
        return f"the proxy {kind or 'http'}://{rest.rpartition('@')[2]} ({self.source})"

    @property
    def host(self) -> str:
        """The name of its machine; empty if the address has none."""
        try:
            return self._parts.hostname or ""
        except ValueError:
            return ""

    @property
    def is_supported(self) -> bool:
        """Whether it is an HTTP proxy with a host, which is what Python can use."""
        try:
            # Raises ValueError for what is no port.
            parts, port = self._parts, self._parts.port
        except ValueError:
            return False
        # A colon and no port is a slip like http:/proxy.
        return parts.scheme in {"http", "https"} and bool(self.host) and port != 0 and not parts.netloc.endswith(":")

    @property
    def _parts(self) -> urllib.parse.SplitResult:
        address = self.address if "://" in self.address else f"http://{self.address}"
        try:
            return urllib.parse.urlsplit(address)
        except ValueError:
            return urllib.parse.SplitResult("", address, "", "", "")


def proxy_for(server: str) -> Proxy | None:
    """Return the proxy for the server's address: of ``http_proxy`` or
    ``https_proxy``, or of the system's settings on Windows and macOS; None if there
    is none, or ``no_proxy`` names the server, by name, by address or by network.
    """
    parts = urllib.parse.urlsplit(server)
    address = urllib.request.getproxies().get(parts.scheme)
    if not address or urllib.request.proxy_bypass(parts.netloc) or _in_no_proxy(parts.hostname or ""):
        return None
    if parts.scheme not in urllib.request.getproxies_environment():
        return Proxy(address, "the system's settings")
    variable = f"{parts.scheme}_proxy"
    # Python takes the lower case first.
    return Proxy(address, variable if os.environ.get(variable) else variable.upper())


def is_loopback(host: str) -> bool:
    """Whether this name or address is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost" or host.lower().endswith(".localhost")


def _in_no_proxy(host: str) -> bool:
    """Whether ``no_proxy`` has the address or its network, which Python ignores."""
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
