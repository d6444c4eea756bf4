"""What the cache folder keeps is still what was put there: known by its digests, each time that it is used.

Reading tens of megabytes for that would take longer than all else that a command does. So a stamp says which size, time
of change and digest each file had; where size and time are the same, the digest is taken to be, too. A stamp is as safe
as what it is of: the cache folder is for its user alone (`kept.keeping`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamaweb.host import kept
from llamaweb.host.fetch import sha256_of

Stamp = dict[str, list[Any]]


def seal(path: Path) -> None:
    """Notes what a file, or what is in a folder, is now."""
    _write(path.name, {name: [*_seen(file), sha256_of(file)] for name, file in _files(path)})


def whole(path: Path, pins: Mapping[str, str]) -> bool:
    """Whether a file, or a folder and every file in it, is what it was when it was sealed, and what is pinned.

    pins: sha256 by the file's name, in a folder by its path there; what has none need only be as it was sealed. What
    was never sealed is whole if all of it is pinned.
    """
    stamp, found = _read(path.name), {}
    for name, file in _files(path):
        kept_size, kept_time, digest = stamp.get(name, (0, 0, pins.get(name)))
        now = _seen(file)
        found[name] = [*now, digest if now == [kept_size, kept_time] else sha256_of(file)]
        if found[name][2] != digest or pins.get(name, digest) != digest:
            return False
    if not found or (set(stamp) or set(pins)) != set(found):
        return False
    if found != stamp:
        _write(path.name, found)
    return True


def _files(path: Path) -> list[tuple[str, Path]]:
    if not path.is_dir():
        return [(path.name, path)] if path.is_file() else []
    return [(file.relative_to(path).as_posix(), file) for file in sorted(path.rglob("*")) if not file.is_dir()]


def _seen(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _stamp_of(name: str) -> Path:
    return kept.cache_root() / kept.STAMPS / f"{name}.json"


def _read(name: str) -> Stamp:
    """A stamp; none where it is damaged, so that digests are computed anew."""
    with contextlib.suppress(OSError, ValueError):
        stamp = json.loads(_stamp_of(name).read_text())
        if isinstance(stamp, dict) and all(isinstance(each, list) and len(each) == 3 for each in stamp.values()):
            return stamp
    return {}


def _write(name: str, stamp: Stamp) -> None:
    """In one piece. A stamp that cannot be kept costs the next command its time, and nothing else."""
    path = _stamp_of(name)
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        kept.put(path, json.dumps(stamp))
