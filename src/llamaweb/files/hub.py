"""Models of the Hugging Face hub in the page: found by the hub's API, or without a network in the cache."""

from __future__ import annotations

import asyncio
import json
import warnings
from typing import Any
from urllib.parse import unquote

from pyodide.ffi import JsException

from llamaweb.errors import CacheError, CacheWarning, DownloadError, ModelFileError
from llamaweb.files import model_cache
from llamaweb.files.cached_source import ANSWER_SECONDS, CachedSource, refused
from llamaweb.files.url_source import UrlSource, absolute
from llamaweb.model.hub import HubFile, Repository, choose, files, fit


async def hub_source(repository: Repository, filename: str, token: str | None, cache: bool | str) -> CachedSource:
    """The source of the repository's file that `filename` fits, checked by the hub's checksums; see `choose`. cache: as
    of `sources.open_source`."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    kept = await _cached(repository) if cache else []
    if not fit(kept, filename):
        kept = []
    only = cache == "only"
    if only and not kept:
        raise CacheError(
            f"No file of {repository.repo_id} that fits {filename!r} is in the browser's storage, and the hub was not "
            "to be asked; load it once with the cache on."
        )
    try:
        async with asyncio.timeout(ANSWER_SECONDS if kept else None):
            found = kept if only else files(repository, await _json(UrlSource(repository.listing_url, headers)))
    except (ModelFileError, TimeoutError) as error:
        if not kept:
            raise DownloadError(f"The files of {repository.repo_id} cannot be listed: {error}") from None
        if refusal := refused(error):
            warnings.warn(
                f"The files of {repository.repo_id} are those in the browser's storage: its hub {refusal}.",
                CacheWarning,
                stacklevel=2,
            )
        found = kept
    chosen = choose(repository, found, filename)
    checksums = {absolute(repository.url(file.path)): file.sha256 for file in found if file.sha256}
    return CachedSource(UrlSource(repository.url(chosen.path), headers), checksums, bool(cache), only=only)


async def _json(source: UrlSource) -> Any:
    try:
        return json.loads(await source.read(0, await source.size()))
    except ValueError:
        raise ModelFileError(f"{source.url} did not answer with JSON; check the endpoint.") from None
    finally:
        await source.close()


async def _cached(repository: Repository) -> list[HubFile]:
    """The repository's files that are in the cache in whole; none where the browser refuses its storage."""
    start = absolute(repository.files_url)
    try:
        models = await model_cache.models() if model_cache.available() else []
    except JsException:
        return []
    whole = [model for model in models if model.complete and model.url.startswith(start)]
    return [HubFile(unquote(model.url.removeprefix(start)), model.sha256) for model in whole]
