"""Which origins a page must reach to load the model at an address."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

from llamaweb.errors import ModelFileError
from llamaweb.host.http_source import open_address
from llamaweb.model.hub import ENDPOINT

# The hub leads to one of these, another one from time to time.
_HUB = (ENDPOINT, "https://*.huggingface.co", "https://*.hf.co")
_SECONDS = 30


async def origins(url: str) -> tuple[str, ...]:
    """The address's own, and those that it leads to, as far as `inspect` would follow it: no public server leads to
    this machine or its network. Where one does not answer, the page will say what is wrong with it."""
    own = _origin(url)
    if own in (ENDPOINT, "https://hf.co"):
        return ("https://hf.co", *_HUB)
    async with open_address(url) as source:
        with suppress(ModelFileError, TimeoutError):
            async with asyncio.timeout(_SECONDS):
                await source.size()
    return tuple(dict.fromkeys((own, *map(_origin, source.led))))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()
