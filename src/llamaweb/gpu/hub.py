"""Models of the Hugging Face hub in the page: found by the hub's API, or without a network in the cache."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from llamaweb.errors import DownloadError, ModelFileError
from llamaweb.gpu import model_cache
from llamaweb.gpu.cached_source import CachedSource
from llamaweb.gpu.url_source import UrlSource, absolute
from llamaweb.model.hub import HubFile, Repository, choose, files


async def hub_source(repository: Repository, filename: str, token: str | None, cache: bool) -> CachedSource:
    """The source of the repository's file that `filename` fits, checked by the hub's checksums; see `choose`."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        found = files(repository, await _json(UrlSource(repository.listing_url, headers)))
    except DownloadError as error:
        found = await _cached(repository) if cache else []
        if not found:
            raise DownloadError(f"The files of {repository.repo_id} cannot be listed: {error}") from None
    chosen = choose(repository, found, filename)
    checksums = {absolute(repository.url(file.path)): file.sha256 for file in found if file.sha256}
    return CachedSource(UrlSource(repository.url(chosen.path), headers), checksums, cache)


async def _json(source: UrlSource) -> Any:
    try:
        return json.loads(await source.read(0, await source.size()))
    except ValueError:
        raise ModelFileError(f"{source.url} did not answer with JSON; check the endpoint.") from None
    finally:
        await source.close()


async def _cached(repository: Repository) -> list[HubFile]:
    """The repository's files that are in the cache in whole."""
    if not model_cache.available():
        return []
    start = absolute(repository.files_url)
    whole = [model for model in await model_cache.models() if model.complete and model.url.startswith(start)]
    return [HubFile(unquote(model.url.removeprefix(start)), model.sha256) for model in whole]
