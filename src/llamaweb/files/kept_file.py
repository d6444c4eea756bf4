"""A model's file in the browser's storage, of which it is told apart from others that it cannot be read."""

from __future__ import annotations

from typing import Any

from pyodide.ffi import JsException

from llamaweb.errors import ModelFileError
from llamaweb.files.blob_source import BlobSource, broken_copy
from llamaweb.javascript import js_file


class KeptFile(BlobSource):
    """As a BlobSource, but what cannot be read is a BrokenCopyError; once it is closed, `sound` tells whether there was
    such an error."""

    def __init__(self, blob: Any, name: str) -> None:
        super().__init__(blob, name)
        self._readers: list[Any] = []

    async def stream(self, offset: int) -> Any:
        left = await self.size() - offset
        self._readers.append(js_file("files/kept.js")(await super().stream(offset), left))
        return self._readers[-1]

    def failed(self, error: JsException) -> ModelFileError:
        self.sound = False
        return broken_copy(self.name, str(error))

    async def close(self) -> None:
        self.sound = self.sound and not any(reader.broken for reader in self._readers)
        await super().close()
