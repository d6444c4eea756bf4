"""Addresses of this machine and of private networks, to which no server out there may lead us."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

from aiohttp import ThreadedResolver

from llamaweb.errors import ModelFileError

# IPv6 addresses that are nothing but one of IPv4 in their last bits: compatible, mapped, translated, and of NAT64.
# One of a network's own NAT64 (RFC 8215) is not public, whatever is in it.
_WRAPPED = tuple(map(IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
_UNICAST = IPv6Network("2000::/3")  # all that is given out; what is local to a site is elsewhere
_ISATAP = 0x00005EFE  # before the last bits, which are one of IPv4; with one bit more if that is unique
_UNIQUE = 0x02000000


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public network, and so is any of IPv4 that it has in it."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv4Address):
        return _is_global(ip)
    low = IPv4Address(int(ip) & 0xFFFFFFFF)
    if any(ip in wrapped for wrapped in _WRAPPED):
        return _is_global(low)
    if ip.teredo:  # its server, and who is behind it
        return all(map(_is_global, ip.teredo))
    within = [ip.sixtofour] if ip.sixtofour else []
    if int(ip) >> 32 & 0xFFFFFFFF & ~_UNIQUE == _ISATAP:
        within.append(low)
    return ip in _UNICAST and _is_global(ip) and all(map(_is_global, within))


def _is_global(ip: IPv4Address | IPv6Address) -> bool:
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
