"""Addresses of this machine and of private networks, to which no server out there may lead us."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from aiohttp import ThreadedResolver

from llamaweb.errors import ModelFileError

_NAT64 = ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public network, whatever IPv6 form it is wrapped in."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast


class Resolver(ThreadedResolver):
    """Names to addresses, which are looked at before anything is sent there. outward: none of them may be inward."""

    def __init__(self) -> None:
        super().__init__()
        self.outward = False
        self._public: dict[str, bool] = {}

    def public(self, url: Any) -> bool:
        """Whether a server's addresses are all public, as far as they are known: a name is looked up when asked."""
        host = url.raw_host or ""
        try:
            return is_public(host)
        except ValueError:
            return self._public.get(host, True)

    def check(self, url: Any) -> None:
        """Refuses an address that is written as a number, which nobody resolves; ModelFileError."""
        if self.outward and not self.public(url):
            raise _inward(url.raw_host or "")

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[Any]:
        found = await super().resolve(host, port, family)
        self._public[host] = all(is_public(each["host"]) for each in found)
        if self.outward and not self._public[host]:
            raise _inward(host)
        return found


def _inward(host: str) -> ModelFileError:
    return ModelFileError(
        f"The server leads to {host}, an address of this machine or of a private network; give that address yourself "
        "if you mean it."
    )
