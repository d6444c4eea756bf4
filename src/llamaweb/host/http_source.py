"""A model's bytes over HTTP, outside the browser: only the ranges that are asked for are fetched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit

import aiohttp

from llamaweb.errors import ModelFileError
from llamaweb.model.source import file_name, sibling_url


class HTTPSource:
    """The `Source` of one address; the server must answer ranged requests."""

    sound = True

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.name = file_name(url)
        self._url = url
        self._session = session
        self._size: int | None = None

    async def size(self) -> int:
        if self._size is None:
            await self._get(0, 1)
        assert self._size is not None
        return self._size

    async def read(self, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        data = await self._get(offset, length)
        if len(data) != length:
            raise ModelFileError(
                f"{self.name} is cut off: bytes {offset} to {offset + length} are needed, {len(data)} came; "
                "check the address."
            )
        return data

    def sibling(self, name: str) -> Self:
        return type(self)(sibling_url(self._url, name), self._session)

    async def _get(self, offset: int, length: int) -> bytes:
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
        try:
            async with self._session.get(self._url, headers=headers) as response:
                if response.status == 200:
                    raise ModelFileError(
                        f"The server of {self._url} has no ranged requests; download the file instead."
                    )
                if response.status != 206:
                    raise ModelFileError(f"{self._url} answers {response.status} {response.reason}; check the address.")
                total = response.headers.get("Content-Range", "").rpartition("/")[2]
                if not total.isdecimal():
                    raise ModelFileError(f"The server of {self._url} does not tell the file's size; download the file.")
                self._size = int(total)
                return await response.read()
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise ModelFileError(f"{self._url} cannot be reached ({reason}); check the address.") from error


@asynccontextmanager
async def open_address(url: str) -> AsyncIterator[HTTPSource]:
    """A source for `url`, with a connection of its own; ModelFileError if it is no address."""
    try:
        urlsplit(url)
    except ValueError as error:
        raise ModelFileError(f"{url} is not an address ({error}); check it.") from error
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        yield HTTPSource(url, session)
