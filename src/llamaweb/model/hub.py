"""The addresses of the Hugging Face hub, and the choice of a model's file there by a pattern."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from llamaweb.errors import ModelFileError, short
from llamaweb.model.shards import shard_names
from llamaweb.secrets import without_secrets

ENDPOINT = "https://huggingface.co"
MOST_TOLD = 20  # files in a message

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its path, and the SHA-256 of its content where the hub tells it."""

    path: str
    sha256: str | None = None


@dataclass(frozen=True)
class Repository:
    """A model repository at a revision. Raises ModelFileError for an id that cannot be one."""

    repo_id: str
    revision: str = "main"
    endpoint: str = ENDPOINT

    def __post_init__(self) -> None:
        if not _REPO.fullmatch(self.repo_id):
            raise ModelFileError(
                f"{short(without_secrets(self.repo_id))} is no repository's name; give one like 'owner/name'."
            )
        for told in (self.revision, self.endpoint):
            if not told.isprintable():  # half a surrogate pair, among others
                raise ModelFileError(
                    f"{short(without_secrets(told))} is part of no address; give one without its odd characters."
                )
        object.__setattr__(self, "endpoint", self.endpoint.rstrip("/"))

    @property
    def listing_url(self) -> str:
        revision = quote(self.revision, safe="")
        return f"{self.endpoint}/api/models/{self.repo_id}/revision/{revision}?blobs=true"

    @property
    def files_url(self) -> str:
        return f"{self.endpoint}/{self.repo_id}/resolve/{quote(self.revision, safe='')}/"

    def url(self, path: str) -> str:
        return self.files_url + quote(path)


def files(repository: Repository, listing: Any) -> list[HubFile]:
    """The files that the hub's answer to `listing_url` tells; raises ModelFileError for another answer."""
    try:
        found = [(f["rfilename"], (f.get("lfs") or {}).get("sha256")) for f in listing["siblings"]]
        return [HubFile(name, sha256 and sha256.lower()) for name, sha256 in found]
    except (KeyError, TypeError, AttributeError):
        raise ModelFileError(
            f"{repository.endpoint} does not list files as the Hugging Face hub does; check the endpoint."
        ) from None


def fit(found: Sequence[HubFile], pattern: str) -> list[HubFile]:
    """The files that the pattern fits, or the one of that name: a name may hold what patterns are made of."""
    named = [file for file in found if file.path == pattern]
    return named or [file for file in found if fnmatch.fnmatchcase(file.path, pattern)]


def choose(repository: Repository, found: Sequence[HubFile], pattern: str) -> HubFile:
    """The one file that the pattern (a path, or of fnmatch over it) fits, or the first of the one set of shards.

    Raises ModelFileError, with what fits or what there is, if that is not so.
    """
    fitting = fit(found, pattern)
    if not fitting:
        there = [file.path for file in found if file.path.endswith(".gguf")]
        have = f"it has {_listed(there)}" if there else "it has no GGUF files"
        raise ModelFileError(f"No file of {repository.repo_id} fits {pattern!r}; {have}.")
    sets = {tuple(shard_names(file.path)) for file in fitting}
    if len(sets) > 1:
        names = _listed([file.path for file in fitting])
        raise ModelFileError(
            f"{len(fitting)} files of {repository.repo_id} fit {pattern!r}: {names}; choose one model by its name."
        )
    return min(fitting, key=lambda file: file.path)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
    return ", ".join(names[:MOST_TOLD]) + more
