"""What the command line keeps between its runs: models, Pyodide, a peer, what tuning found; in one folder."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llamaweb.errors import HostError
from llamaweb.host.output import megabytes

# What takes more of the disk or the network than this is said before it begins.
MUCH = 500_000_000
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MAKE_ROOM = (
    "make room (`llamaweb cache` lists what is kept there, `llamaweb cache --clear` removes it), or set XDG_CACHE_HOME "
    "to a folder of another disk"
)
_MODELS = "models"
STAMPS = "stamps"  # see stamps.py
_KINDS = {
    "pyodide-": "Pyodide",
    "wllama-": "peer",
    "tuning.json": "tuning",
    "login": "login",
    "vocabularies": "test data",
    "dawn-": "test data",
    "llama.cpp-": "test data",
}


@dataclass(frozen=True)
class Kept:
    """A file or folder of the cache. `name` tells it from the others; `kind` is a word for a person."""

    name: str
    kind: str
    bytes: int
    path: Path

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"name": self.name, "kind": self.kind, "bytes": self.bytes, "path": str(self.path)}


def cache_root() -> Path:
    """The folder that keeps what was fetched or built: $XDG_CACHE_HOME/llamaweb or ~/.cache/llamaweb."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base).absolute() if base else Path.home() / ".cache") / "llamaweb"
    except RuntimeError as error:
        raise HostError("There is no home folder to keep anything in; set XDG_CACHE_HOME to a folder.") from error
    except FileNotFoundError as error:
        raise HostError(f"XDG_CACHE_HOME is {base} in a folder that is gone; go to another folder.") from error


@contextmanager
def keeping() -> Iterator[Path]:
    """The cache folder, made if it is not there, for its user alone; what cannot be written in it is a HostError."""
    root = cache_root()
    made = False
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close(root)
        made = True
        yield root
    except OSError as error:
        if made and error.errno == errno.ENOENT:
            raise HostError(
                f"Something in the cache folder {root} was removed while it was in use, as by "
                "`llamaweb cache --clear`; run the command again."
            ) from error
        if error.errno in _FULL:
            raise HostError(f"The disk of the cache folder {root} is full; {_MAKE_ROOM}.") from error
        raise HostError(
            f"The cache folder {root} cannot be written ({error.strerror or error}); check its permissions, or set "
            "XDG_CACHE_HOME to another folder."
        ) from error


def _close(root: Path) -> None:
    """Lets no other user into the folder; HostError where that cannot be. Of one that others could write into until now
    no stamp is believed: what is there must be what is pinned."""
    if not hasattr(os, "getuid"):
        return
    status = root.stat()
    if status.st_uid not in (os.getuid(), 0) and os.getuid() != 0:
        raise HostError(f"The cache folder {root} is another user's; set XDG_CACHE_HOME to a folder of your own.")
    if status.st_mode & 0o077:
        try:
            root.chmod(0o700)
        except OSError as error:
            if status.st_mode & 0o022:
                raise HostError(
                    f"Other users may write in the cache folder {root}; run `chmod 700 {root}`, or set XDG_CACHE_HOME "
                    "to a folder of your own."
                ) from error
        if status.st_mode & 0o022 and (root / STAMPS).exists():
            delete(root / STAMPS)


def check_room(name: str, size: int) -> None:
    """Raises HostError where less than `size` bytes, which `name` takes, are free in the cache folder."""
    free = shutil.disk_usage(cache_root()).free
    if free < size:
        raise HostError(
            f"{name} takes {megabytes(size)} and the disk of the cache folder {cache_root()} has {megabytes(free)} "
            f"left; {_MAKE_ROOM}."
        )


def kept() -> list[Kept]:
    """All that is there, the largest first. HostError where it cannot be looked at."""
    root = cache_root()
    try:
        found = list(_found(root))
    except OSError as error:
        raise HostError(f"{root} cannot be read ({error.strerror}); check its permissions.") from error
    return sorted(found, key=lambda each: -each.bytes)


def _found(root: Path) -> Iterator[Kept]:
    paths = [path for path in _inside(root) if path.name not in (_MODELS, STAMPS)]
    for path in _inside(root / _MODELS):
        # Random models lie in a folder for each version of their shape.
        paths += _inside(path) if path.name.startswith("synthetic-") and path.is_dir() else [path]
    seen: set[tuple[int, int]] = set()
    for path in sorted(paths):
        yield Kept(path.name, _kind(path, root), _size(path, seen), path)


def remove(names: Sequence[str] = ()) -> list[Kept]:
    """Removes what has one of the names or patterns, or all; gives what is gone. HostError where a name fits nothing or
    something cannot be removed."""
    there = kept()
    for name in names:
        if not any(fnmatchcase(each.name, name) for each in there):
            raise HostError(f"Nothing in {cache_root()} is named {name}; `llamaweb cache` lists what is.")
    gone = [each for each in there if not names or any(fnmatchcase(each.name, name) for name in names)]
    for each in gone:
        try:
            delete(each.path)
        except OSError as error:
            raise HostError(f"{each.path} cannot be removed ({error.strerror}); check its permissions.") from error
    return gone


def put(path: Path, text: str, mode: int = 0o666) -> None:
    """Writes a file in one piece: what was there stays until the new one is whole; raises OSError. mode: as umask
    leaves it."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-", ignore_cleanup_errors=True) as folder:
        written = Path(folder, path.name)
        with open(written, "w", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(text)
        os.replace(written, path)


def delete(path: Path) -> None:
    """A file, a folder with all that is in it, or a link and not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"{folder} cannot be read ({error.strerror}); check its permissions.") from error


def _kind(path: Path, root: Path) -> str:
    if path.name.startswith("."):
        return "unfinished"  # of a command that goes on now, or was killed
    if path.parent != root:
        return "random model" if path.name.startswith("synthetic-") else "model"
    return next((kind for start, kind in _KINDS.items() if path.name.startswith(start)), "other")


def _size(path: Path, seen: set[tuple[int, int]]) -> int:
    """Bytes of a file, or of a folder's files; one that has several names counts once."""
    total = 0
    for each in [path, *(path.rglob("*") if not path.is_symlink() else ())]:
        try:
            status = each.lstat()
        except FileNotFoundError:  # gone meanwhile
            continue
        if each.is_dir() or (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        total += status.st_size
    return total
