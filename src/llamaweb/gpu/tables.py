"""Tables that a plan leaves with the host: kept in JavaScript's memory as the file has them, and read by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import js
import numpy as np
from pyodide.ffi import to_js

from llamaweb.ggml import dequantize
from llamaweb.javascript import js_file
from llamaweb.kernels.formats import whole_blocks
from llamaweb.model.gguf_file import TensorInfo

_CHUNK = 8 << 20  # bytes


class HostTable:
    """One table, of `info`."""

    def __init__(self, info: TensorInfo) -> None:
        self._info = info
        self._row, self._rows = info.shape
        self._row_bytes = info.nbytes // self._rows
        self._each = max(_CHUNK // self._row_bytes, 1)
        self._chunks = js.Array.new()
        self._found = js_file("gpu/rows.js")(self._chunks, self._each, self._row_bytes)

    @property
    def chunk_bytes(self) -> int:
        """Of whole rows, that `keep` takes at once."""
        return self._each * self._row_bytes

    def keep(self, chunk: Any) -> None:
        """The next chunk, a Uint8Array; the last may be shorter."""
        self._chunks.push(chunk)

    def rows(self, tokens: Sequence[int]) -> np.ndarray:
        """Float32 (len(tokens), row in whole blocks of 32); a token behind the last has the last row, as on the GPU."""
        ids = np.minimum(np.array(tokens, np.uint32), self._rows - 1)
        data = np.frombuffer(self._found(to_js(ids)).to_bytes(), np.uint8)
        found = np.zeros((len(ids), whole_blocks(self._row)), np.float32)
        found[:, : self._row] = dequantize(data, self._info.type).reshape(len(ids), self._row)
        return found
