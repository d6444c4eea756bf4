"""Which origins a page must reach to load the model at an address."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import aiohttp

from llamaweb.model.hub import ENDPOINT

# The hub leads to one of these, another one from time to time.
_HUB = (ENDPOINT, "https://*.huggingface.co", "https://*.hf.co")
_SECONDS = 30


async def origins(url: str) -> tuple[str, ...]:
    """The address's own, and those that it leads to. Where it does not answer, the page will say what is wrong with
    it. No address of a public server leads to one of this machine or of its network."""
    own = _origin(url)
    if own in (ENDPOINT, "https://hf.co"):
        return ("https://hf.co", *_HUB)
    found = [own]
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers={"Range": "bytes=0-0", "Accept-Encoding": "identity"}) as response,
        ):
            found += [_origin(str(each.url)) for each in (*response.history, response)]
    except (aiohttp.ClientError, TimeoutError, ValueError):
        pass
    return tuple(dict.fromkeys(each for each in found if _is_near(own) or not _is_near(each)))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()


def _is_near(origin: str) -> bool:
    host = urlsplit(origin).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
