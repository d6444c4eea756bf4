"""Where a model's bytes come from. In the browser `llamaweb.files.sources` adds URLs and files of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from llamaweb.errors import ModelFileError
from llamaweb.secrets import digest, without_secrets

# Of addresses signed for S3 and what is like it, for Google's and Azure's storage, and for CloudFront.
_SIGNATURES = ("x-amz-signature", "x-goog-signature", "signature", "sig")
_SIGNING = re.compile(
    r"x-amz-.*|x-goog-.*|signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid"
    r"|sig|sv|ss|srt|sr|st|se|sp|spr|sip|skoid|sktid|skt|ske|sks|skv"
)
_SERVER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*")


class Source(Protocol):
    """Random access to the bytes of one file. `sibling` opens another file of the same place."""

    name: str
    sound: bool  # False once the file was found damaged, so that whoever keeps it gives it up

    async def size(self) -> int:
        """Length of the file in bytes."""

    async def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; raises ModelFileError if the file is shorter."""

    def sibling(self, name: str) -> Self:
        """The file `name` beside this one; it, or reading it, raises ModelFileError if there is none."""


class BytesSource:
    """A file held in memory."""

    sound = True

    def __init__(self, data: bytes, name: str = "bytes") -> None:
        self.name = name
        self._data = data

    async def size(self) -> int:
        return len(self._data)

    async def read(self, offset: int, length: int) -> bytes:
        check_range(self.name, offset, length, len(self._data))
        return bytes(self._data[offset : offset + length])

    def sibling(self, name: str) -> Self:
        raise ModelFileError("it is not in memory; give the path or the address of the model's first file.")


class FileSource:
    """A file on this machine's disk."""

    sound = True

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.name = self._path.name
        if not self._path.is_file():
            raise ModelFileError(f"There is no file {path}; give the path of a GGUF file.")

    async def size(self) -> int:
        return self._path.stat().st_size

    async def read(self, offset: int, length: int) -> bytes:
        check_range(self.name, offset, length, await self.size())
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def sibling(self, name: str) -> Self:
        return type(self)(self._path.with_name(name))


def file_name(url: str) -> str:
    """The last part of an address, without secrets."""
    path = _SERVER.sub("", re.split("[?#]", url, maxsplit=1)[0], count=1)
    return without_secrets(unquote(path.rstrip("/").rpartition("/")[2])) or lasting_url(url)


def sibling_url(url: str, name: str) -> str:
    """The address of the file `name` in the same folder."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rsplit('/', 1)[0]}/{quote(name, safe='')}"))


def lasting_url(url: str) -> str:
    """The address as it is at every visit, and may be shown and kept: without its fragment, and without what signs it
    for a while, and with its secrets hidden. What is no address at all is taken, too."""
    place = without_secrets(url)
    path, query = re.split("[?#]", place, maxsplit=1)[0], "&".join(_query(place)[0])
    return f"{path}?{query}" if query else path


def signature(url: str) -> str:
    """What signs an address for a while, told from what signs it another time, and not to be read; empty where nothing
    does."""
    _, signing = _query(url)
    return digest("&".join(signing)) if signing else ""


def _query(url: str) -> tuple[list[str], list[str]]:
    """The pairs of an address' query: those that last, and those that sign it for a while."""
    pairs = url.partition("#")[0].partition("?")[2].split("&")
    signed = any(_key(pair) in _SIGNATURES for pair in pairs)
    lasting: list[str] = []
    signing: list[str] = []
    for pair in pairs:
        (signing if signed and _SIGNING.fullmatch(_key(pair)) else lasting).append(pair)
    return lasting, signing


def _key(pair: str) -> str:
    return pair.partition("=")[0].lower()


def check_range(name: str, offset: int, length: int, size: int) -> None:
    """Raises ModelFileError for bytes that a file of `size` bytes does not have."""
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelFileError(
            f"{name} is cut off: bytes {offset} to {offset + length} are needed, the file has {size}; fetch it again."
        )
