"""A file that is kept in the browser's storage while it loads, as a model's is: what the tests of that share."""

from __future__ import annotations

import hashlib

import numpy as np

SIZE = 2_000_003
DATA = b"GGUF" + np.random.RandomState(4).bytes(SIZE - 4)
OTHER = DATA[:4] + DATA[:3:-1]
PAGE = b"<!doctype html><title>Log in</title>"
SHA256 = hashlib.sha256(DATA).hexdigest()
ETAG = {"ETag": '"one"'}


async def load(url, sha256=None, stop=None, offset=70_000, keep=True, only=False):
    """As a model is loaded: a header, then the rest, cancelled after `stop` bytes. What came, warnings, the cache."""
    import asyncio
    import hashlib
    import warnings
    from dataclasses import asdict

    from pyodide.ffi import JsException

    from llamaweb import cache
    from llamaweb.files.blob_source import read_error
    from llamaweb.files.cached_source import CachedSource
    from llamaweb.files.url_source import Patience, UrlSource

    patience = Patience(delay=20, stall=1000, range=300_000, parallel=2, first=100_000)
    source = CachedSource(UrlSource(url, patience=patience), {url: sha256} if sha256 else {}, keep, only=only)
    warnings.simplefilter("always")
    with warnings.catch_warnings(record=True) as caught:
        try:
            digest = hashlib.sha256(await source.read(0, offset))
            reader = await source.stream(offset)
            n = offset
            while stop is None or n < stop:
                try:
                    chunk = await reader.read()
                except JsException as error:
                    raise read_error(error, source.name) from None
                if chunk.done:
                    break
                digest.update(chunk.value.to_bytes())
                n += len(chunk.value)
            reader.cancel()
        finally:
            await source.close()
    await asyncio.sleep(0)
    models = [asdict(model) for model in await cache.list()]
    return digest.hexdigest(), [str(w.message) for w in caught], models
