"""The results file: what benches measured, one entry for each model, device and set of sizes; the newest stays."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from llamaweb.errors import HostError
from llamaweb.host import kept

_KEY = (
    "model",
    "adapter",
    "runtime",
    "prompt_tokens",
    "gen_tokens",
    "depth",
    "context",
    "kind",
    "type_k",
    "type_v",
    "precision",
)


def read(path: Path) -> list[dict[str, Any]]:
    """The file's entries, none if there is no file; HostError if it is something else."""
    if not path.exists():
        return []
    if not path.is_file():  # what is a device may have no end
        raise HostError(f"{path} is not a file; name another one with --output.")
    try:
        results = json.loads(path.read_text())["results"]
        return [dict(result) for result in results]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it has no list of them"
        raise HostError(f"{path} is not a file of results ({why}); name another one with --output.") from error


def check(path: Path) -> None:
    """HostError for what `add` could not put a result into, so that it is told before the measuring."""
    read(path)
    try:
        if path.exists():
            path.open("r+").close()
        tempfile.TemporaryFile(dir=path.resolve().parent).close()
    except OSError as error:
        raise HostError(f"{path} cannot be written ({error.strerror}); name another file with --output.") from error


def add(path: Path, result: dict[str, Any]) -> None:
    """Puts a result into the file, in place of an older one of the same key."""
    others = [old for old in read(path) if _key(old) != _key(result)]
    entries = sorted([*others, result], key=lambda entry: [str(part) for part in _key(entry)])
    try:
        kept.put(path.resolve(), json.dumps({"results": entries}, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise HostError(f"{path} cannot be written ({error.strerror}); name another file with --output.") from error


def _key(result: dict[str, Any]) -> list[Any]:
    return [result.get(name) for name in _KEY]
