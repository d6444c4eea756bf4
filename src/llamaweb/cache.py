"""The models that `Llama.load` keeps in the browser's storage (the origin private file system).

from llamaweb import cache
for model in await cache.list():
    print(model.name, model.stored, model.size)
await cache.remove("https://example.org/model.gguf")
"""

from __future__ import annotations

from collections.abc import Sequence

from llamaweb.errors import CacheError, inside_browser
from llamaweb.model.source import lasting_url

with inside_browser("llamaweb.cache"):
    from llamaweb.files import model_cache
    from llamaweb.files.model_cache import CachedModel
    from llamaweb.files.url_source import absolute


async def size() -> int:
    """Bytes that the files take."""
    return sum(model.stored for model in await list())


async def remove(model: CachedModel | str) -> None:
    """Removes a file, given as `list` gives it or by the URL that was given to load it; CacheError if there is none, or
    while it is loaded."""
    url = lasting_url(absolute(model)) if isinstance(model, str) else model.url
    if not any(found.url == url for found in await list()):
        raise CacheError(f"{url} is not in the cache; llamaweb.cache.list() tells what is.")
    await model_cache.remove(url)


async def clear() -> None:
    """Removes all files; CacheError where one of them is being loaded, which stays."""
    busy = None
    for model in await list():
        try:
            await model_cache.remove(model.url)
        except CacheError as error:
            busy = error
    if busy:
        raise busy


async def list() -> Sequence[CachedModel]:
    """All files, the most recently used first; a split model is several. None where the browser has no storage.

    What is there of a file of which it is not known any more what it is, is removed."""
    return await model_cache.listed()
