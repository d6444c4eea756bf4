"""A model's bytes over HTTP, outside the browser: only what is asked for is fetched, where the server can."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from llamaweb.errors import ModelFileError, per_second
from llamaweb.host.inward import Resolver
from llamaweb.host.reasons import BROKEN_OFF, NO_ANSWER, NO_NAME, NOT_TRUSTED, reason
from llamaweb.model.source import file_name, lasting_url, sibling_url
from llamaweb.secrets import without_secrets

ANSWER_SECONDS = 30  # for the head of an answer, whatever says before that it is coming; and of silence, as in the page
SLOW_SECONDS = 15  # after which a body that comes at less than SLOWEST bytes a second is given up
SLOWEST = 1000
REDIRECTS = 10

# Of a library's errors; the first that fits.
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (aiohttp.ClientConnectorDNSError, NO_NAME),
    (aiohttp.ClientSSLError, NOT_TRUSTED),
    (aiohttp.ServerTimeoutError, NO_ANSWER),
    (aiohttp.ServerDisconnectedError, "its server ended the connection"),
    (aiohttp.ClientPayloadError, BROKEN_OFF),
    (aiohttp.ClientResponseError, "it does not answer in HTTP"),
)


_NO_BRACKETS = "the brackets in its server's name hold no IPv6 address"
_NO_SERVER = "its server's name is none that a server can have"


class _Astray(ValueError):
    """A server leads nowhere; the message is a reason."""


class HTTPSource:
    """The `Source` of one address. A server without ranged requests is read from the start as far as is asked for,
    which for a header is little."""

    sound = True

    def __init__(self, url: str, session: aiohttp.ClientSession, resolver: Resolver) -> None:
        self.name = file_name(url)
        self.led: list[str] = []  # the addresses that have answered, each of which led to the next
        self._url = url
        self._shown = lasting_url(url)  # to a person, or in a log: without what lets somebody in
        self._session = session
        self._resolver = resolver
        self._size: int | None = None
        self._whole: aiohttp.ClientResponse | None = None  # of a server without ranges
        self._begin = bytearray()  # what was read of it

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
        return type(self)(sibling_url(self._url, name), self._session, self._resolver)

    async def _get(self, offset: int, length: int) -> bytes:
        try:
            if self._whole is None:
                # A part of what is compressed, or its length, would say nothing of the file.
                headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
                async with asyncio.timeout(ANSWER_SECONDS):
                    response = await self._ask(headers)
                if response.status == 206:
                    try:
                        self._size = self._told(response.headers.get("Content-Range", "").rpartition("/")[2])
                        return await self._body(response, length)
                    finally:
                        response.close()  # whatever else it sends
                if response.status != 200:
                    response.close()
                    answered = f"{response.status} {response.reason}"
                    raise ModelFileError(f"{self._shown} answers {answered}; check the address.")
                encoding = response.headers.get("Content-Encoding", "identity")
                if encoding != "identity":
                    response.close()
                    raise ModelFileError(
                        f"The server of {self._shown} sends it compressed ({encoding}) and without ranges; download "
                        "the file instead."
                    )
                self._whole = response  # the session closes it
                self._size = self._told(response.headers.get("Content-Length", ""))
            return await self._first(offset + length, offset)
        except (OSError, aiohttp.ClientError, ValueError) as error:
            self._give_up()
            raise ModelFileError(f"{self._shown} cannot be reached ({_reason(error)}); check the address.") from error

    async def _ask(self, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """The answer, after redirects; those from a public server lead to public ones alone."""
        url: Any = self._url  # then the library's own, so that what is looked at is what is asked
        self._resolver.outward = False  # what the user names may be anywhere
        for _ in range(REDIRECTS):
            response = await self._session.get(url, headers=headers, allow_redirects=False)
            self.led.append(str(response.url))
            if response.status not in (301, 302, 303, 307, 308) or "Location" not in response.headers:
                return response
            response.close()
            self._resolver.outward = self._resolver.public(response.url)
            try:
                url = response.url.join(URL(response.headers["Location"]))
            except ValueError:
                raise _Astray("it leads to what is no address") from None
            if url.scheme not in ("http", "https"):
                raise _Astray("it leads to an address of another kind")
            if _fault(str(url)):
                raise _Astray("it leads to what is no address")
            self._resolver.check(url)
        raise _Astray("it leads from address to address without end")

    async def _body(self, response: aiohttp.ClientResponse, length: int) -> bytes:
        """At most `length` bytes of the rest of a body."""
        data, began = bytearray(), time.monotonic()
        while len(data) < length and (piece := await response.content.read(length - len(data))):
            data += piece
            seconds = time.monotonic() - began
            if seconds > SLOW_SECONDS and len(data) < SLOWEST * seconds:
                rate = per_second(len(data) / seconds)
                raise ModelFileError(
                    f"{self._shown} sends {rate}, too slowly to be read; try again or another address."
                )
        return bytes(data)

    def _told(self, size: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", size):
            raise ModelFileError(f"The server of {self._shown} does not tell the file's size; download the file.")
        return int(size)

    def _give_up(self) -> None:
        """Of an answer that broke off nothing more comes; whoever reads on asks anew."""
        if self._whole is not None:
            self._whole.close()
        self._whole = None
        self._begin.clear()

    async def _first(self, end: int, offset: int) -> bytes:
        assert self._whole is not None
        self._begin += await self._body(self._whole, end - len(self._begin))
        return bytes(self._begin[offset:end])


def _reason(error: Exception) -> str:
    """Why an address cannot be reached, in words of ours."""
    if isinstance(error, _Astray):
        return str(error)
    return next((words for kind, words in _REASONS if isinstance(error, kind)), None) or reason(error)


def check_address(url: str) -> str:
    """The same, if it is an address; ModelFileError if it is none."""
    if fault := _fault(url):
        raise ModelFileError(f"{without_secrets(url)} is not an address ({fault}); check it.")
    return url


def _fault(url: str) -> str:
    """What is wrong with an address as it is written; empty if nothing is. A backslash is another sign to each program,
    which would ask different servers."""
    server = re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if re.search(r"[\\\s\x00-\x1f\x7f]", server):
        return "its server's name has a backslash, white space or a control character"
    try:
        parts = urlsplit(url)
        if not (name := parts.hostname):
            return "it names no server"
    except ValueError:
        return _NO_BRACKETS if re.search(r"[\[\]]", server) else _NO_SERVER
    try:
        _ = parts.port
    except ValueError:
        return "its port is no number from 0 to 65535"
    try:
        found = URL(url).raw_host or ""
        (found if ":" in found else name).encode("idna")
    except ValueError:
        return _NO_SERVER
    return ""


@asynccontextmanager
async def open_address(url: str) -> AsyncIterator[HTTPSource]:
    """A source for `url`, with a connection of its own; ModelFileError if it is no address."""
    check_address(url)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=ANSWER_SECONDS)
    resolver = Resolver()
    connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        yield HTTPSource(url, session, resolver)
