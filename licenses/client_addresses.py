"""Find the address of a client."""

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from django.conf import settings

# For example 192.0.2.1:4711 and [2001:db8::1]:4711. Brackets may come without a port.
WITH_PORT = re.compile(r"(?P<ipv4>[0-9.]+):[0-9]{1,5}|\[(?P<ipv6>[^]]+)\](:[0-9]{1,5})?")


def client_address(headers: Mapping[str, Any]) -> str:
    """Return the client's IP address from WSGI variables, or "unknown".

    Only the last ``TRUSTED_PROXIES`` entries of ``X-Forwarded-For`` count: each proxy
    adds the address of its caller, and a client can invent the entries before them.
    Gateways may add a port, and brackets around an IPv6 address.
    """
    direct = str(headers.get("REMOTE_ADDR", ""))
    if proxies := settings.TRUSTED_PROXIES:
        seen = str(headers.get("HTTP_X_FORWARDED_FOR", "")).split(",")
        if proxies <= len(seen) and (claimed := _valid(seen[-proxies].strip())):
            return claimed
    return _valid(direct) or "unknown"


@lru_cache(maxsize=1024)
def network_of(address: str) -> str:
    """Return the addresses that one client can use: an IPv4 address or an IPv6 network."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network(f"{address}/64", strict=False))


@lru_cache(maxsize=1024)
def _valid(address: str) -> str:
    if with_port := WITH_PORT.fullmatch(address):
        address = with_port["ipv4"] or with_port["ipv6"]
    try:
        # Remove the zone: it names an interface of the machine that wrote the address.
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
